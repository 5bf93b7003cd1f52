"""What a comparison says: one line a leaf with a sign in front, and a report of all lines."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from maxmig import errors

Only = Literal["params", "opt", "all"]
SIGNS = {
    "=": "same bits",
    "~": "equal under the declared cast or tolerance",
    "*": "differs",
    "+": "only in B",
    "-": "only in A",
    ">": "renamed",
    "!": "unreadable",
}


@dataclass(frozen=True)
class Tolerance:
    """What still counts as equal; without any number only the same bits do."""

    rtol: float = 0.0
    atol: float = 0.0
    ulp: int = 0

    @property
    def bitwise(self) -> bool:
        """Whether nothing but equal bits passes."""
        return not (self.rtol or self.atol or self.ulp)

    def __str__(self) -> str:
        if self.bitwise:
            return "bitwise"
        return f"{self.ulp} ulp" if self.ulp else f"rtol {self.rtol:g}, atol {self.atol:g}"


@dataclass(frozen=True)
class Line:
    """The verdict on one leaf.

    Attributes:
        sign: one of `SIGNS`.
        path: the leaf.
        detail: what a reader should know.
        elements: how many numbers were compared.
        differing: how many have other bits.
        max_abs: the largest difference; None where nothing differs.
        max_rel: the largest difference relative to B's number.
        max_ulp: the largest difference in units of the last place; None where a type has none.
        first: the index of the first number that differs, in row-major order.
        other: of a renamed leaf, its path in B.
    """

    sign: str
    path: str
    detail: str = ""
    elements: int = 0
    differing: int = 0
    max_abs: float | None = None
    max_rel: float | None = None
    max_ulp: int | None = None
    first: tuple[int, ...] | None = None
    other: str | None = None

    def __str__(self) -> str:
        return f"{self.sign} {self.path}" + (f"  {self.detail}" if self.detail else "")


@dataclass(frozen=True)
class Report:
    """All lines; true when nothing differs and something was compared."""

    lines: tuple[Line, ...]
    tolerance: Tolerance = Tolerance()
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many leaves have each sign."""
        found = Counter(line.sign for line in self.lines)
        return {sign: found[sign] for sign in SIGNS if found[sign]}

    @property
    def compared(self) -> int:
        """How many leaves were held against one another."""
        return sum(self.counts.get(sign, 0) for sign in "=~*")

    @property
    def exit_code(self) -> int:
        """0 equal, 1 a difference, 3 nothing compared, 4 a leaf could not be read."""
        if "!" in self.counts:
            return 4
        if not self.compared:
            return 3
        return int(any(sign in self.counts for sign in "*+->"))

    def __bool__(self) -> bool:
        return self.exit_code == 0

    def summary(self) -> str:
        """One line: how many of each, and the first difference."""
        told = ", ".join(f"{count:,} {sign}" for sign, count in self.counts.items())
        worst = next((line for line in self.lines if line.sign in "!*"), None)
        first = f" ({worst.path}: {worst.detail})" if worst else ""
        return f"{len(self.lines):,} arrays: {told or 'none'}{first}"

    def require(self, what: str, shown: int = 10) -> None:
        """Returns when nothing is wrong.

        Args:
            what: what was compared, for the message.
            shown: how many lines the message has at most.

        Raises:
            CheckpointError: a leaf cannot be read.
            DifferenceError: something differs.
        """
        bad = [line for line in self.lines if line.sign in "!*+->"]
        if not bad:
            return
        told = "\n".join(f"  {line}" for line in bad[:shown])
        more = f"\n  and {len(bad) - shown:,} more" if len(bad) > shown else ""
        text = f"{what}: {len(bad):,} of {len(self.lines):,} leaves are not right:\n{told}{more}"
        if "!" in self.counts:
            raise errors.CheckpointError(text)
        raise errors.DifferenceError(text)


@dataclass(frozen=True)
class Proof(Report):
    """A report on whether one checkpoint holds another: whatever is missing or extra counts.

    Attributes:
        values: whether numbers were compared; else names, shapes and types only.
    """

    values: bool = True

    @property
    def exit_code(self) -> int:
        """0 it holds, 1 it does not, 3 nothing compared, 4 a leaf could not be read."""
        if "!" in self.counts:
            return 4
        if any(sign in self.counts for sign in "*+->"):
            return 1
        return 3 if self.values and not self.compared else 0
