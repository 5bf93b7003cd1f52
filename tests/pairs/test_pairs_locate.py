"""`maxmig parity localize --pair`: the first equation in which two modules differ."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pairs_zoo as zoo
import pytest

from maxmig import errors
from maxmig.cli.main import main
from maxmig.parity.findings.check import Verdict
from maxmig.parity.pairs import locate


def test_equal_modules_are_proved() -> None:
    found = locate.locate(zoo.mlp)
    assert found.verdict is Verdict.PASS and found.proof and found.first is None


def test_another_momentum_is_found_with_both_lines() -> None:
    found = locate.locate(zoo.momentum)
    assert found.verdict is Verdict.FAIL and found.program == "outputs (train)"
    first = found.first
    assert first and first.control and first.candidate
    assert "0.99 against 0.9" in first.differences[0]
    assert "linen/normalization.py" in first.control.source
    assert "nnx/nn/normalization.py" in first.candidate.source


def test_a_stopped_gradient_is_found_in_the_gradients() -> None:
    found = locate.locate(zoo.stopped)
    assert found.verdict is Verdict.FAIL and found.program.startswith("gradients")


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "repro"
    words = ["parity", "localize", "--pair", "pairs_zoo:momentum", "--repro", str(folder)]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "constant 0.99 against 0.9" in out and str(folder / "repro.py") in out
    assert re.search(r"first .*\n  control .*flax/linen/\S+ in \w+, called at \S+\.py:\d+: ", out)
    assert main(words) == 5  # never over a script
    # The script finds the pair from anywhere, and shows the difference again.
    done = subprocess.run(
        [sys.executable, folder / "repro.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("FAIL") and "constant 0.99 against 0.9" in done.stdout
    for arguments in (
        ["--pair", "pairs_zoo:momentum", "--bug", "epsilon"],
        ["demo", "--pair", "pairs_zoo:momentum"],
        ["demo", "--mapping", "x.yml"],
        [],
    ):
        assert main(["parity", "localize", *arguments]) == 2
        assert "--pair" in capsys.readouterr().err


def test_arrays_of_any_type_come_back(tmp_path: Path) -> None:
    arrays = {
        "inputs/x": jnp.arange(6, dtype="bfloat16").reshape(2, 3),
        "inputs/key": jax.random.key(3),
        "params/a": np.zeros((), "int32"),
    }
    locate._keep(tmp_path / "inputs.npz", arrays)
    back = locate._read(tmp_path / "inputs.npz")
    assert back["inputs/x"].dtype == jnp.bfloat16 and (back["inputs/x"] == arrays["inputs/x"]).all()
    assert jax.random.bits(back["inputs/key"]) == jax.random.bits(arrays["inputs/key"])
    assert back["params/a"].shape == ()
    with pytest.raises(errors.DataError, match="expected the arrays of a script"):
        locate._read(tmp_path / "none.npz")
