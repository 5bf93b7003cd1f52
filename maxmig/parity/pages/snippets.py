"""The lines of source around a place such as `maxmig/core/norms.py:41`."""

import dataclasses
import sysconfig
from pathlib import Path

import maxmig

_AROUND = 3


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of source: its number, its text, and whether it is the one that is meant."""

    number: int
    text: str
    here: bool


def around(place: str) -> tuple[Line, ...]:
    """The lines around `file:line`; none if the file is not here to be read.

    Relative files are looked for below the current folder, maxmig's own, and installed packages.
    """
    name, colon, line = place.rpartition(":")
    if not colon or not line.isdecimal():
        return ()
    number = int(line)
    installed = Path(sysconfig.get_paths()["purelib"])
    for folder in (Path(), Path(maxmig.__file__).parents[1], installed):
        try:
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError, ValueError):
            continue
        if number <= len(lines):
            first = max(1, number - _AROUND)
            last = min(len(lines), number + _AROUND)
            return tuple(Line(n, lines[n - 1], n == number) for n in range(first, last + 1))
    return ()
