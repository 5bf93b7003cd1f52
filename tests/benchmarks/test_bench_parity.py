"""The benchmark of proofs, small: that it measures what it says, and that it can fail."""

import dataclasses

import pytest

from maxmig import errors
from maxmig.benchmarks import parity
from maxmig.cli import main


def test_demo_is_proved_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["bench", "parity", "--cases", "demo", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert "47 of 47" in out and "demo" in out


def test_targets_can_be_missed() -> None:
    result = parity.Result(parity.CASES[0], (1.0, 2.0, 9.0), (100.0,) * 3, 47, 47, (1, 1), 1)
    assert result and result.time == 2.0
    slow = dataclasses.replace(result, seconds=(4.0,))
    assert not slow and slow.missed == ("4.0 s, at most 3",)
    assert not dataclasses.replace(result, mib=(2000.0,))
    assert not dataclasses.replace(result, proved=46)


def test_unknown_case() -> None:
    with pytest.raises(errors.ConfigError, match="'huge' is not one of demo"):
        next(parity.run(["huge"], 1))
