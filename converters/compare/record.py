"""What the bits of each array were when they were written: a checksum for each of its chunks.

Orbax stores no checksums of numbers, and a result by reference shares its source's files, so that a
flipped bit may decode to another number, the same on both sides. The record lies beside the tree's
own metadata, in a file that Orbax does not look at. A checksum is the CRC-32 of a chunk's elements
in row-major order, little-endian, without padding, so it holds wherever chunks are moved as they
are: to other names, into stacks and out of them.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import digests, errors
from maxmig.converters import boxes as cuts
from maxmig.converters.leaves import DiskPath, Leaf, spell
from maxmig.converters.storage import files, kv, orbax
from maxmig.converters.storage.base import Grid, Storage
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np

FILE = "maxmig.checksums.json"
_VERSION = 1


@dataclass(frozen=True)
class Sums:
    """The checksums of one array.

    Attributes:
        leaf: its shape and type; bytes do not count.
        chunk: the shape of a chunk.
        values: of the chunks in row-major order.
    """

    leaf: Leaf
    chunk: tuple[int, ...]
    values: tuple[int, ...]

    def find(self, box: Box) -> int | None:
        """The place of the chunk that a box is; None where it is no chunk."""
        for (start, stop), chunk, size in zip(box, self.chunk, self.leaf.shape, strict=True):
            if start % chunk or stop != min(start + chunk, size):
                return None
        return place(self.leaf.shape, self.chunk, box)


@dataclass(frozen=True)
class Record:
    """The checksums of a tree's arrays, by their places in it."""

    arrays: Mapping[DiskPath, Sums]

    def document(self) -> bytes:
        """The file, sealed with its own digest."""
        told = {
            "maxmig_checksums": _VERSION,
            "what": "CRC-32 of each chunk's elements, row-major, little-endian",
            "arrays": [
                [list(path), sums.leaf.dtype, list(sums.leaf.shape), list(sums.chunk), _words(sums)]
                for path, sums in self.arrays.items()
            ],
        }
        return json.dumps(told | {"seal": digests.of_json(told)}).encode()


def parse(data: bytes, where: str) -> Record:
    """Reads the file.

    Raises:
        CheckpointError: it is damaged, or of another version.
    """
    try:
        told = json.loads(data)
        seal = told.pop("seal")
        if seal != digests.of_json(told):
            raise ValueError("its seal does not fit")
        if told["maxmig_checksums"] != _VERSION:
            raise ValueError(f"expected version {_VERSION}, got {told['maxmig_checksums']}")
        return Record({tuple(path): _sums(*entry) for path, *entry in told["arrays"]})
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        told = str(error) if isinstance(error, ValueError) else "it is not what maxmig writes"
        raise errors.CheckpointError(
            f"{where}: the record of checksums is damaged: {told}. Remove it if the arrays are "
            "known to be good, and `maxmig ckpt verify --record` makes a new one"
        ) from error


def of(storage: Storage) -> Record | None:
    """The record of a checkpoint; None where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    if not isinstance(storage, orbax.Orbax):
        return None
    data = files.Files(storage.items).read(FILE)
    return None if data is None else parse(data, kv.join(storage.items, FILE))


def missing(storage: Storage) -> list[str]:
    """The arrays of a checkpoint of which nothing is recorded, as a person would spell them."""
    known = of(storage)
    held = {} if known is None else known.arrays
    leaves = (path for path, leaf in storage.tree().items() if isinstance(leaf, Leaf))
    return [spell(path) for path in leaves if path not in held]


def write(items: str, record: Record) -> None:
    """Puts a record beside the metadata of a tree, at once, in place of an older one."""
    if kv.is_url(items):
        kv.directory(items).write(FILE, record.document()).result()
        return
    part = Path(items) / f".{FILE}.part"
    part.write_bytes(record.document())
    part.rename(Path(items) / FILE)


def boxes(shape: tuple[int, ...], chunk: tuple[int, ...], box: Box | None = None) -> Iterator[Box]:
    """The chunks of an array in row-major order; of a box, those that it touches, whole."""
    if box is None:
        return cuts.chunks(whole(shape), chunk)
    touched = zip(shape, chunk, box, strict=True)
    grown = [(a // each * each, min(-(-b // each) * each, size)) for size, each, (a, b) in touched]
    return cuts.chunks(tuple(grown), chunk)


def whole(shape: tuple[int, ...]) -> Box:
    """The box that is all of an array."""
    return tuple((0, size) for size in shape)


def place(shape: tuple[int, ...], chunk: tuple[int, ...], box: Box) -> int:
    """The place of the chunk that begins where a box does, in row-major order."""
    index = [start // each for (start, _), each in zip(box, chunk, strict=True)]
    return cuts.linear(index, counts(shape, chunk))


def count(shape: tuple[int, ...], chunk: tuple[int, ...]) -> int:
    """How many chunks there are."""
    return math.prod(counts(shape, chunk))


def counts(shape: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[int, ...]:
    """How many chunks there are along each axis."""
    return tuple(-(-size // each) for size, each in zip(shape, chunk, strict=True))


def bounded(grid: Grid) -> tuple[int, ...]:
    """The chunk of a stored array, no larger than the array, so that equal ones are spelt alike."""
    return tuple(max(1, min(c, s)) for c, s in zip(grid.chunk, grid.shape, strict=True))


def sums(
    shape: tuple[int, ...], chunk: tuple[int, ...], box: Box, array: "np.ndarray"
) -> dict[int, int]:
    """The checksums of the chunks that lie wholly in a box of an array: {place: checksum}."""
    found = {}
    for part in boxes(shape, chunk, box):
        if (data := _part(array, box, part)) is not None:
            found[place(shape, chunk, part)] = checksum(data)
    return found


def _part(array: "np.ndarray", box: Box, part: Box) -> "np.ndarray | None":
    """A part of a box of an array; None where it does not lie wholly in the box."""
    index = []
    for (start, stop), (begin, end) in zip(part, box, strict=True):
        if start < begin or stop > end:
            return None
        index.append(slice(start - begin, stop - begin))
    return array[tuple(index)]


def checksum(array: "np.ndarray") -> int:
    """The checksum of a chunk; words of random keys ride in a last axis."""
    import numpy as np

    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


class Checked:
    """A storage whose every read is held against its record; each chunk once.

    Args:
        storage: what is read.
        record: its checksums; arrays that it does not have are read unchecked.
    """

    def __init__(self, storage: Storage, record: Record):
        self._storage = storage
        self._record = record
        self._seen: set[tuple[DiskPath, Box]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def read(self, path: DiskPath, box: Box | None = None) -> "np.ndarray":
        """One box of an array.

        Raises:
            CheckpointError: the data are damaged or missing, or are not what was recorded.
        """
        leaf = self._storage.tree()[path]
        assert isinstance(leaf, Leaf)
        box = whole(leaf.shape) if box is None else box
        array = self._storage.read(path, box)
        recorded = self._record.arrays.get(path)
        if recorded is None:
            return array
        refuse_other(self._storage, path, leaf, recorded)
        for part in boxes(leaf.shape, recorded.chunk, box):
            if (path, part) in self._seen:
                continue
            data = _part(array, box, part)
            data = self._storage.read(path, part) if data is None else data
            at = place(leaf.shape, recorded.chunk, part)
            if checksum(data) != recorded.values[at]:
                raise damaged(self._storage, path, recorded, part)
            self._seen.add((path, part))
        return array


def checked(storage: Storage) -> Storage:
    """A storage that holds what it reads against its record, where it has one."""
    record = of(storage)
    return storage if record is None else Checked(storage, record)


def refuse_other(storage: Storage, path: DiskPath, leaf: Leaf, recorded: Sums) -> None:
    """Raises a `CheckpointError` where the record is of an array of another shape or type."""
    if (recorded.leaf.shape, recorded.leaf.dtype) != (leaf.shape, leaf.dtype):
        raise errors.CheckpointError(
            f"{storage.url}: {spell(path)}: {recorded.leaf} was recorded when it was written, but "
            f"it is {leaf} now; {_ADVICE}"
        )


def damaged(storage: Storage, path: DiskPath, recorded: Sums, box: Box) -> errors.CheckpointError:
    """The error that says which chunk has other bits than were recorded."""
    index = [start // size for (start, _), size in zip(box, recorded.chunk, strict=True)]
    return errors.CheckpointError(
        f"{storage.url}: {spell(path)}: chunk {index} of {recorded.leaf} holds other bits than "
        f"were recorded in {FILE} when it was written; {_ADVICE}"
    )


_ADVICE = (
    "it was damaged (take another step or another copy), or rewritten by a program that does not "
    f"keep the record (then remove {FILE})"
)


def _words(sums: Sums) -> str:
    return "".join(f"{value:08x}" for value in sums.values)


def _sums(dtype: str, shape: list[int], chunk: list[int], words: str) -> Sums:
    values = tuple(int(words[at : at + 8], 16) for at in range(0, len(words), 8))
    if len(shape) != len(chunk) or len(values) != count(tuple(shape), tuple(chunk)):
        raise ValueError(f"{len(values)} checksums for {dtype}{shape} in chunks of {chunk}")
    return Sums(Leaf(tuple(shape), dtype, 0), tuple(chunk), values)
