"""Changes a text at a few places and proves that every other byte stayed.

A splice is data: where, what stood there, what stands there now. Splices can be inverted, which is
the exact rollback, and the proof is made from the bytes of before and after, not from the code
that made them.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")


@dataclass(frozen=True, order=True)
class Splice:
    """The bytes `old` at the byte offset `start` become `new`."""

    start: int
    old: str
    new: str

    @property
    def end(self) -> int:
        """The offset behind the old bytes."""
        return self.start + len(self.old.encode())

    def document(self) -> dict[str, Any]:
        """The splice as plain types."""
        return {"start": self.start, "old": self.old, "new": self.new}


@dataclass(frozen=True)
class Proof:
    """What a change did, computed from the bytes of before and after.

    Attributes:
        lines: lines that were changed, added or removed.
        remainder: bytes outside the splices.
        before: SHA-256 of the remainder in the old bytes.
        after: SHA-256 of the remainder in the new bytes.
    """

    lines: int
    remainder: int
    before: str
    after: str

    def __bool__(self) -> bool:
        return self.before == self.after

    @property
    def text(self) -> str:
        """The proof in a line."""
        lines = "1 line" if self.lines == 1 else f"{self.lines} lines"
        if not self:
            return f"{lines} changed, BUT other bytes differ: {self.before[:16]} {self.after[:16]}"
        return (
            f"{lines} changed; all other {self.remainder:,} bytes are the same "
            f"(sha256 of the remainder {self.before[:16]}... before and after)"
        )


def from_text(text: str, changes: Iterable[tuple[int, int, str]]) -> tuple[Splice, ...]:
    """Splices from (start, end, new) in characters of `text`.

    Changes that touch each other become one splice; of two insertions at one place the one that
    was given first comes first.
    """
    joined: list[tuple[int, int, str]] = []
    for start, end, new in sorted(changes, key=lambda change: change[:2]):
        if joined and joined[-1][1] == start:
            first = joined.pop()
            joined.append((first[0], end, first[2] + new))
        else:
            joined.append((start, end, new))
    return tuple(
        Splice(len(text[:start].encode()), text[start:end], new)
        for start, end, new in joined
        if text[start:end] != new
    )


def apply(raw: bytes, splices: Sequence[Splice]) -> bytes:
    """The bytes with all splices made.

    Raises:
        ValueError: two overlap, or something else stands where one expects its old bytes.
    """
    parts, done = [], 0
    for splice in sorted(splices):
        if splice.start < done:
            raise ValueError(f"two splices overlap at byte {splice.start}")
        if raw[splice.start : splice.end] != splice.old.encode():
            raise ValueError(f"byte {splice.start}: expected {splice.old!r} there")
        parts += [raw[done : splice.start], splice.new.encode()]
        done = splice.end
    return b"".join([*parts, raw[done:]])


def inverse(splices: Sequence[Splice]) -> tuple[Splice, ...]:
    """The splices that lead back, with their places in the new bytes."""
    made, shift = [], 0
    for splice in sorted(splices):
        made.append(Splice(splice.start + shift, splice.new, splice.old))
        shift += len(splice.new.encode()) - len(splice.old.encode())
    return tuple(made)


def prove(before: bytes, after: bytes, splices: Sequence[Splice]) -> Proof:
    """Compares all bytes outside the splices."""
    old, new = _outside(before, splices), _outside(after, inverse(splices))
    return Proof(_count(before, after), len(old), sha256(old), sha256(new))


def diff(before: bytes, after: bytes, name: str) -> str:
    """The unified diff of two versions of a file; line ends are not shown."""
    old, new = _lines(before), _lines(after)
    shown = []
    for line in difflib.unified_diff(old, new, f"a/{name}", f"b/{name}", n=2, lineterm=""):
        bare = line.rstrip("\r\n")
        shown.append(bare)
        if bare == line and line[:1] in " +-" and not line.startswith(("--- ", "+++ ")):
            shown.append("\\ No newline at end of file")
    return "\n".join(shown)


def sha256(raw: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal digits."""
    return hashlib.sha256(raw).hexdigest()


def _outside(raw: bytes, splices: Sequence[Splice]) -> bytes:
    parts, done = [], 0
    for splice in sorted(splices):
        parts.append(raw[done : splice.start])
        done = splice.end
    return b"".join([*parts, raw[done:]])


def _count(before: bytes, after: bytes) -> int:
    """Lines that differ: one that was replaced counts once."""
    found = list(difflib.unified_diff(_lines(before), _lines(after), n=0, lineterm=""))[2:]
    removed = sum(line.startswith("-") for line in found)
    added = sum(line.startswith("+") for line in found)
    return max(removed, added)


def _lines(raw: bytes) -> list[str]:
    """Lines with their ends; Python's splitlines would also split at characters inside a line."""
    return [line for line in _LINES.findall(raw.decode("utf-8", "replace")) if line]
