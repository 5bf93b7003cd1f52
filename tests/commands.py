"""Runs command lines in this process, and keeps what they printed."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest

from maxmig.cli import main


@dataclasses.dataclass
class Result:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(capsys: pytest.CaptureFixture[str], argv: Sequence[str]) -> Result:
    """Runs one command line: `call(capsys, ["flags", "show"])`."""
    capsys.readouterr()
    code = main.main(argv)
    captured = capsys.readouterr()
    return Result(code, captured.out, captured.err)
