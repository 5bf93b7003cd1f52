"""Two-sided accounting: each leaf that is read has one fate, each that is written one origin."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from maxmig.converters.leaves import Leaf

RESTORED = "restored"
NOT_ASKED = "not asked for"
DERIVED = "random state, derived from the seed"


@dataclass(frozen=True)
class Entry:
    """One leaf on one side: its fate if it was read from, its origin if it was written to."""

    path: str
    what: str
    nbytes: int


@dataclass(frozen=True)
class Accounting:
    """The fates of all leaves of the source and the origins of all leaves of the target."""

    fates: tuple[Entry, ...]
    origins: tuple[Entry, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Totals by fate and origin: side, what, leaves, bytes."""
        found = []
        for side, entries in (("source", self.fates), ("target", self.origins)):
            counts = Counter(entry.what for entry in entries)
            for what, count in counts.items():
                nbytes = sum(entry.nbytes for entry in entries if entry.what == what)
                found.append({"side": side, "what": what, "leaves": count, "bytes": nbytes})
        return found


def entries(whats: Mapping[str, str], leaves: Mapping[str, Leaf]) -> tuple[Entry, ...]:
    """Entries from {path: fate or origin}."""
    return tuple(Entry(path, what, leaves[path].nbytes) for path, what in whats.items())


def total(leaves: Iterable[Leaf]) -> int:
    """The bytes of some leaves."""
    return sum(leaf.nbytes for leaf in leaves)


def size(nbytes: float) -> str:
    """Bytes for people: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"
