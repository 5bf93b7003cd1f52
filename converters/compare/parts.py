"""The record of a save by several processes: each writes what it held, a reader puts it together.

So no process waits for another, and no array is gathered. Each file also says how many there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maxmig import errors
from maxmig.converters.compare import record
from maxmig.converters.compare.record import Sums
from maxmig.converters.leaves import DiskPath, Leaf, spell
from maxmig.converters.storage import files, kv


@dataclass(frozen=True)
class Part:
    """Some chunks of an array.

    Attributes:
        leaf: shape and type of the array; bytes do not count.
        chunk: the shape of a chunk.
        found: {place of a chunk: its checksum}.
    """

    leaf: Leaf
    chunk: tuple[int, ...]
    found: dict[int, int] = field(default_factory=dict)


def name(process: int) -> str:
    """The file of a process."""
    return record.FILE.replace(".json", f".process_{process}.json")


def write(folder: str, process: int, count: int, held: Mapping[DiskPath, Part]) -> None:
    """Writes what one of `count` processes held."""
    arrays = [
        [*record.entry(path, part.leaf, part.chunk, part.found.values()), list(part.found)]
        for path, part in held.items()
    ]
    record.put(folder, name(process), record.sealed({"processes": count, "parts": arrays}))


def together(folder: str) -> dict[DiskPath, Sums]:
    """The arrays of which all chunks are known, of all processes; none if one process saved.

    Raises:
        CheckpointError: a file is damaged, or two do not fit each other.
    """
    there = files.Files(folder)
    held: dict[DiskPath, Part] = {}
    process, count = 0, 1
    while process < count:
        data = there.read(name(process))
        if data is not None:
            place = kv.join(folder, name(process))
            count, parts = record.unsealed(data, place, _parsed)
            for path, part in parts.items():
                _add(held, path, part, place)
        process += 1
    return whole(held)


def whole(held: Mapping[DiskPath, Part]) -> dict[DiskPath, Sums]:
    """The arrays of which all chunks are known."""
    return {
        path: Sums(part.leaf, part.chunk, tuple(part.found[at] for at in range(total)))
        for path, part in held.items()
        if len(part.found) == (total := record.count(part.leaf.shape, part.chunk))
    }


def _add(held: dict[DiskPath, Part], path: DiskPath, part: Part, where: str) -> None:
    known = held.setdefault(path, Part(part.leaf, part.chunk))
    both = part.found.keys() & known.found.keys()
    alike = (known.leaf, known.chunk) == (part.leaf, part.chunk)
    if not alike or any(known.found[at] != part.found[at] for at in both):
        raise errors.CheckpointError(
            f"{where}: {spell(path)}: what this process recorded does not fit what another "
            "one did; take another step or another copy"
        )
    known.found.update(part.found)


def _parsed(told: dict[str, Any]) -> tuple[int, dict[DiskPath, Part]]:
    held = {}
    for path, dtype, shape, chunk, words, places in told["parts"]:
        leaf = Leaf(tuple(shape), dtype, 0)
        total = record.count(leaf.shape, tuple(chunk))
        if any(not 0 <= at < total for at in places):
            raise ValueError(f"chunks that {leaf} does not have")
        found = dict(zip(places, record.numbers(words), strict=True))
        held[tuple(path)] = Part(leaf, tuple(chunk), found)
    return int(told["processes"]), held
