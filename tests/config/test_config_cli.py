"""`maxmig flags show` and `maxmig flags why`, as a user runs them."""

import json
from pathlib import Path

import pytest

from maxmig.cli import flags, main


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main.main(["flags", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", "configs/demo.yml", "enable_nnx=true")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "stage bridged-decoder: rung 2 of 5"
    assert lines[1] == "runs Linen state and step over an NNX model that holds the Linen decoder"
    assert "enable_nnx true command line" in lines
    assert any(line.startswith("pure_nnx false configs/base.yml:") for line in lines)
    assert any(
        line.startswith("3 bridged next ") and line.endswith("pure_nnx_decoder=true")
        for line in lines
    )
    assert any(
        line.startswith("1 linen back ") and line.endswith("enable_nnx=false") for line in lines
    )


def test_show_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "configs/demo_nnx.yml", "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["stage"], document["order"], document["next"]) == ("nnx", 4, None)
    assert document["back"]["stage"] == "hybrid"
    assert document["back"]["change"] == {"pure_nnx_decoder": False}
    assert document["flags"]["pure_nnx"] == {
        "value": True,
        "source": "configs/demo_nnx.yml",
        "line": 9,
    }


def test_show_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "show")[1].startswith("stage linen: rung 1 of 5")


def test_show_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", "configs/demo.yml", "pure_nnx=true")
    assert (code, out) == (2, "")
    assert err.startswith("error: pure_nnx: true with enable_nnx: false: ")
    assert "    enable_nnx: false (configs/base.yml:" in err


def test_show_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "show", "none.yml") == (4, "", "error: none.yml: no such file\n")


def test_why(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "why", "steps", "configs/bench/tiny.yml", "steps=3")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert lines[:3] == [
        "steps: 3",
        "takes an integer >= 1 and <= 2147483647; group train",
        "Steps of the whole run, counted from 0 and across resumes.",
    ]
    told = [line for line in lines if line.endswith(("overridden", "in force"))]
    assert [line.split(" ", 1)[1] for line in told][:3] == [
        "150001 overridden",
        "50 overridden",
        "100 overridden",
    ]
    assert told[3] == "command line 3 in force"


def test_why_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "why", "emb_dim", "configs/demo.yml", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["value"] == 128
    assert document["source"].startswith("derived from base_emb_dim (configs/demo.yml:")
    assert [link["value"] for link in document["chain"]] == [None, 128]


def test_why_of_long_values(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "why", "logical_axis_rules", "configs/demo.yml")
    assert out.startswith("logical_axis_rules: \n  - [activation_embed_and_logits_batch, [")
    assert max(map(len, out.splitlines())) < 200


def test_why_of_a_foreign_key(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "why", "shared_experts", "configs/demo.yml")
    assert (code, out) == (
        0,
        "shared_experts is a key of MaxText that has no effect in maxmig: maxmig's mixture of "
        "experts has no such variant.\nIt is accepted at 0.\n",
    )
    _, out, _ = run(capsys, "why", "shared_experts", "--json")
    assert json.loads(out)["accepted"] == "0"


def test_why_of_an_unknown_key(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "why", "stepz", "configs/demo.yml")
    assert (code, err) == (2, "error: there is no key 'stepz'; did you mean steps?\n")


# apply and rollback need a plan and a ledger; tests/rollout runs theirs.
_ALONE = [verb for verb in flags.VERBS if verb.name not in ("apply", "rollback")]


@pytest.mark.parametrize("example", [e for verb in _ALONE for e in verb.examples])
def test_examples_run(
    example: str, capsys: pytest.CaptureFixture[str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert main.main(example.split()[1:]) == 0
    assert capsys.readouterr().out
