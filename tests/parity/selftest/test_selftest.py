"""Every bug is caught and named; an equivalent rewrite is not; localisation and its script."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maxmig import errors
from maxmig.cli import main
from maxmig.config import Stage
from maxmig.core import attention, mlp, norms
from maxmig.parity.faults import bugs, selftest, specimen
from maxmig.parity.faults.specimen import Side
from maxmig.parity.findings.check import Verdict
from maxmig.parity.rungs import localize

PAIR = Side(specimen.small(), Stage.LINEN), Side(specimen.small(), Stage.NNX)
NAMES = [bug.name for bug in bugs.BUGS]


def test_there_are_twelve() -> None:
    assert len(set(NAMES)) == 12
    with pytest.raises(KeyError):
        bugs.named("none")


@pytest.fixture(scope="module")
def clean() -> Any:
    """(programs of both sides, numbers for them)."""
    traced = tuple(side.programs(("forward", "gradients")) for side in PAIR)
    return traced, selftest.Native(PAIR[0].inputs())


@pytest.mark.parametrize("place", ["control", "candidate"])
@pytest.mark.parametrize("name", NAMES)
def test_bug_is_caught_and_named(name: str, place: str, clean: Any) -> None:
    """By L0, and by L1 unless the bug is one of rounding: module, line, in either side."""
    traced, native = clean
    row = selftest.look(bugs.named(name), place, PAIR, traced, native, run=False)
    assert row.static.caught and row.static.right, row.static
    rounding = name == "low-precision-softmax"
    assert row.semantic.caught is not rounding, row.semantic
    assert row.semantic.right is not rounding, row.semantic


@pytest.mark.parametrize("name", ["epsilon", "z-loss"])
def test_bug_is_caught_at_float32(name: str, clean: Any) -> None:
    traced, native = clean
    row = selftest.look(bugs.named(name), "candidate", PAIR, traced, native)
    assert row and row.native, row


@pytest.mark.slow
@pytest.mark.parametrize("place", ["control", "candidate"])
@pytest.mark.parametrize("name", NAMES)
def test_every_bug_is_caught_at_float32(name: str, place: str, clean: Any) -> None:
    traced, native = clean
    assert selftest.look(bugs.named(name), place, PAIR, traced, native)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rewrite_raises_no_alarm(dtype: str) -> None:
    (quiet,) = selftest.without_alarm(PAIR, dtype, [5])
    assert quiet, quiet


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rewrite_raises_no_alarm_at_any_seed(dtype: str) -> None:
    alarms = [q for q in selftest.without_alarm(PAIR, dtype, range(24)) if not q]
    assert not alarms


def test_bugs_leave_nothing_behind() -> None:
    kept = attention.attend, norms._rms, dict(mlp.ACTIVATIONS)
    for bug in (*bugs.BUGS, bugs.REWRITE):
        with bug.active():
            pass
    assert (attention.attend, norms._rms, dict(mlp.ACTIVATIONS)) == kept


def test_equal_sides_are_localised_nowhere() -> None:
    found = localize.localize(*PAIR)
    assert found.verdict is Verdict.PASS and found.proof and found.first is None


def test_rounding_alone_is_inconclusive() -> None:
    candidate = Side(PAIR[1].cfg, Stage.NNX, bugs.named("low-precision-softmax"))
    found = localize.localize(PAIR[0], candidate)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert (
        found.proof.casts
        and found.first
        and found.first.path == ("decoder/layers_1/self_attention")
    )


def test_script_shows_the_difference_again(tmp_path: Path) -> None:
    candidate = Side(PAIR[1].cfg, Stage.NNX, bugs.named("epsilon"))
    found = localize.localize(PAIR[0], candidate, folder=tmp_path / "repro")
    assert found.verdict is Verdict.FAIL and found.script
    assert [layer.path for layer in found.guilty] == ["decoder/layers_1"]
    done = subprocess.run([sys.executable, found.script], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "FAIL" in done.stdout
    assert "constant 1e-06 against 1e-05" in done.stdout
    with pytest.raises(errors.PreflightError, match="exists already"):
        localize.localize(PAIR[0], candidate, folder=tmp_path / "repro")
    # The same script without the bug: both sides are proved, and it says so.
    text = found.script.read_text()
    assert "'epsilon'" in text
    found.script.write_text(text.replace("'epsilon'", "None"))
    done = subprocess.run([sys.executable, found.script], capture_output=True, text=True)
    assert done.returncode == 0 and "PASS" in done.stdout, done.stderr


def test_script_of_another_setting(tmp_path: Path) -> None:
    candidate = Side(PAIR[1].cfg.replace(normalization_layer_epsilon=1e-5), Stage.NNX)
    found = localize.localize(PAIR[0], candidate, folder=tmp_path)
    assert found.script and found.first and found.first.path.endswith("_layer_norm")
    assert "normalization_layer_epsilon: 1.0e-05" in (tmp_path / "candidate.yml").read_text() or (
        "normalization_layer_epsilon: 1e-05" in (tmp_path / "candidate.yml").read_text()
    )
    done = subprocess.run([sys.executable, found.script], capture_output=True, text=True)
    assert done.returncode == 1 and "1e-06 against 1e-05" in done.stdout, done.stderr


CONFIG = ["configs/tiny_llama2.yml", "scan_layers=false", "max_target_length=16"]


def test_localize_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["parity", "localize", *CONFIG]) == 0
    assert "proved" in capsys.readouterr().out
    assert main.main(["parity", "localize", *CONFIG, "--bug", "epsilon"]) == 1
    out = capsys.readouterr().out
    assert "decoder/layers_1/pre_self_attention_layer_norm" in out
    assert "maxmig/core/norms.py:" in out and "makes a difference of its own" in out
    assert main.main(["parity", "localize", *CONFIG, "--bug", "epsilon", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["first"]["path"].startswith("decoder/layers_1")
    assert main.main(["parity", "localize", *CONFIG, "--bug", "no"]) == 2
    assert "--bug 'no' is not one of epsilon" in capsys.readouterr().err


def test_selftest_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["parity", "selftest", "--bugs", "gelu-for-silu", "--side", "candidate", "--seeds", "0"]
    assert main.main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "PASS" and not document["rewrites"]
    assert document["bugs"][0]["static"]["path"] == "decoder/layers_1/mlp"
    assert main.main(["parity", "selftest", "--bugs", "typo"]) == 2
    assert "'typo' is not one of epsilon" in capsys.readouterr().err
