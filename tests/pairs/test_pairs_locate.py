"""`maxmig parity localize --pair`: the first equation in which two modules differ."""

import pairs_zoo as zoo
import pytest

from maxmig.cli.main import main
from maxmig.parity.pairs import locate
from maxmig.parity.results import Verdict


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


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "localize", "--pair", "pairs_zoo:momentum"]) == 1
    assert "constant 0.99 against 0.9" in capsys.readouterr().out
    for arguments in (
        ["--pair", "pairs_zoo:momentum", "--bug", "epsilon"],
        ["demo", "--pair", "pairs_zoo:momentum"],
        ["demo", "--mapping", "x.yml"],
        [],
    ):
        assert main(["parity", "localize", *arguments]) == 2
        assert "--pair" in capsys.readouterr().err
