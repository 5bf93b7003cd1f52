"""The whole rollout as a user types it, from the plan to the way back, on a tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maxmig.cli import main

STORY = """\
# The run of the story.
base_config: tiny_llama2.yml
run_name: story        # its folder

base_emb_dim: 16
base_mlp_dim: 16
base_num_query_heads: 2
base_num_kv_heads: 1
base_num_decoder_layers: 2
vocab_size: 256
max_target_length: 16

steps: 6
checkpoint_period: 3
enable_nnx: False      # Linen, so far
# the end, and no newline after it"""


@pytest.fixture
def maxmig(capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str]]:
    """Runs a command line; gives its exit code and all that it printed."""

    def call(line: str) -> tuple[int, str]:
        import shlex

        capsys.readouterr()
        code = main.main(shlex.split(line)[1:])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


def test_the_whole_story(maxmig: Callable[[str], tuple[int, str]], here: Path) -> None:
    raw = STORY.encode()
    Path("run.yml").write_bytes(raw)
    code, text = maxmig("maxmig train run.yml steps=3")
    assert code == 0, text

    code, text = maxmig("maxmig flags plan --to nnx --direct run.yml -o plan.json")
    assert (code, "run.yml   linen -> nnx" in text) == (0, True), text
    assert Path("run.yml").read_bytes() == raw

    code, text = maxmig("maxmig flags apply plan.json")
    assert (code, "no card was given" in text) == (5, True), text
    assert Path("run.yml").read_bytes() == raw

    code, text = maxmig("maxmig parity run run.yml --level L0 --run-dir parity")  # the quick one
    assert code == 0, text

    code, text = maxmig("maxmig flags apply plan.json --card parity")
    assert code == 0, text
    changed = STORY.replace("enable_nnx: False  ", "enable_nnx: True  ").replace(
        "so far\n", "so far\npure_nnx: True\npure_nnx_decoder: True\n"
    )
    assert Path("run.yml").read_bytes() == changed.encode()
    assert "3 lines changed; all other" in text
    assert "evidence: parity, PASS" in text

    code, text = maxmig("maxmig train run.yml")
    assert code == 0, text
    assert "step 3 of" in text
    assert "written by the rung linen" in text

    code, text = maxmig("maxmig flags log --json")
    (entry,) = json.loads(text)["ledgers"][0]["entries"]
    assert entry["files"][0]["evidence"]["levels"] == {"static": "PASS"}
    assert entry["state"] == "done"

    code, text = maxmig(f"maxmig flags rollback {entry['id']}")
    assert code == 0, text
    assert Path("run.yml").read_bytes() == raw


def test_the_examples_of_apply_and_rollback(
    run: Callable[..., Any], config: Path, card: Callable[..., Path]
) -> None:
    from maxmig.cli import flags

    card(name="maxmig_output/parity/card.yaml")
    assert run("plan", "--to", "nnx", "run.yml", "-o", "plan.json").code == 0
    verbs = {verb.name: verb for verb in flags.VERBS}
    import shlex

    for example in reversed(verbs["apply"].examples):
        assert main.main(shlex.split(example)[1:]) == 0
    name = run("log", "--json").json["ledgers"][0]["entries"][0]["id"]
    for example in reversed(verbs["rollback"].examples):
        words = shlex.split(example)[1:]
        assert main.main([name if word.startswith("2026") else word for word in words]) == 0
    assert "enable_nnx" not in config.read_text()
