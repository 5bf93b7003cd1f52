"""What the bits of each array were when they were written: a checksum for each of its chunks.

Orbax stores no checksums of numbers, and a result by reference shares its source's files, so that a
flipped bit may decode to another number, the same on both sides. The record lies beside the tree's
own metadata, in a file that Orbax does not look at. A checksum is the XXH3 (64 bits) of a chunk's
elements in row-major order, little-endian, without padding, so it holds wherever chunks are moved
as they are: to other names, into stacks and out of them. Of a msgpack or safetensors file it lies
in a file beside it; several processes that save one state write one each (`parts`).
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from maxmig import digests, errors
from maxmig.converters import boxes as cuts
from maxmig.converters.leaves import DiskPath, Leaf, spell
from maxmig.converters.storage import decode, files, kv, mapped, orbax
from maxmig.converters.storage.base import Grid, Storage
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np

FILE = "maxmig.checksums.json"
_VERSION = 2
_DIGITS = 16
Made = TypeVar("Made")


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
    """The checksums of a tree's arrays, by their places in it.

    Attributes:
        arrays: the checksums of each.
        metadata: the custom metadata of a file that has no place for them; None: it has one.
    """

    arrays: Mapping[DiskPath, Sums]
    metadata: Mapping[str, Any] | None = None

    def document(self) -> bytes:
        """The file, sealed with its own digest."""
        arrays = [
            entry(path, sums.leaf, sums.chunk, sums.values) for path, sums in self.arrays.items()
        ]
        told = {} if self.metadata is None else {"metadata": dict(self.metadata)}
        return sealed({"arrays": arrays} | told)


def sealed(told: dict[str, Any]) -> bytes:
    """A file of checksums, of which every change shows."""
    head = {
        "maxmig_checksums": _VERSION,
        "what": "XXH3-64 of each chunk's elements, row-major, little-endian",
    }
    return json.dumps(head | told | {"seal": digests.of_json(head | told)}).encode()


def unsealed(data: bytes, where: str, make: Callable[[dict[str, Any]], Made]) -> Made:
    """Reads such a file.

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
        return make(told)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        told = str(error) if isinstance(error, ValueError) else "it is not what maxmig writes"
        raise errors.CheckpointError(
            f"{where}: the record of checksums is damaged: {told}. Remove it if the arrays are "
            "known to be good, and `maxmig ckpt verify --record` makes a new one"
        ) from error


def parse(data: bytes, where: str) -> Record:
    """The record that is written in a file; raises as `unsealed`."""
    return unsealed(
        data,
        where,
        lambda told: Record(
            {tuple(path): _sums(*more) for path, *more in told["arrays"]}, told.get("metadata")
        ),
    )


def home(storage: Storage) -> tuple[str, str] | None:
    """The directory and the name of a checkpoint's record; None: it has no place for one."""
    if isinstance(storage, orbax.Orbax):
        return storage.items, FILE
    return beside(Path(storage.url)) if isinstance(storage, mapped.Mapped) else None


def beside(path: Path) -> tuple[str, str]:
    """The same of a file that holds arrays, or of a directory of such files.

    A name that begins as the file's own would be taken for a later checkpoint by programs that
    look for names with a beginning (`checkpoint_*`).
    """
    if path.is_dir():
        return str(path), FILE
    return str(path.parent), FILE.replace(".json", f".{path.name}.json")


def of(storage: Storage) -> Record | None:
    """The record of a checkpoint; None where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    from maxmig.converters.compare import parts

    place = home(storage)
    if place is None:
        return None
    folder, name = place
    data = files.Files(folder).read(name)
    found = parse(data, kv.join(folder, name)) if data is not None else Record({})
    if name == FILE:
        found = replace(found, arrays={**parts.together(folder), **found.arrays})
    return found if found.arrays or found.metadata is not None else None


def missing(storage: Storage) -> list[str]:
    """The arrays of a checkpoint of which nothing is recorded, as a person would spell them."""
    known = of(storage)
    held = {} if known is None else known.arrays
    leaves = (path for path, leaf in storage.tree().items() if isinstance(leaf, Leaf))
    return [spell(path) for path in leaves if path not in held]


def write(folder: str, record: Record, name: str = FILE) -> None:
    """Puts a record beside the metadata of a tree, at once, in place of an older one."""
    put(folder, name, record.document())


def put(folder: str, name: str, data: bytes) -> None:
    """Writes a file of checksums, at once, in place of an older one."""
    if kv.is_url(folder):
        kv.directory(folder).write(name, data).result()
        return
    part = Path(folder) / f".{name}.part"
    part.write_bytes(data)
    part.rename(Path(folder) / name)


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
    import xxhash

    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


class _Running:
    """The checksum of a chunk whose elements come in blocks, in row-major order."""

    def __init__(self) -> None:
        import xxhash

        self._state = xxhash.xxh3_64()

    def add(self, block: "np.ndarray") -> None:
        """Takes the next elements, contiguous and little-endian."""
        import numpy as np

        self._state.update(block.view(np.uint8).data)

    def value(self) -> int:
        """The checksum, when all have come."""
        return self._state.intdigest()


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

    def _recorded(self, path: DiskPath) -> Sums | None:
        recorded = self._record.arrays.get(path)
        if recorded is not None:
            refuse_other(self._storage, path, self._leaf(path), recorded)
        return recorded

    def _leaf(self, path: DiskPath) -> Leaf:
        leaf = self._storage.tree()[path]
        assert isinstance(leaf, Leaf)
        return leaf

    def blocks(self, path: DiskPath, box: Box) -> "Iterator[np.ndarray]":
        """The blocks of one stored value of an Orbax tree, in order.

        Raises:
            Unknown: use `read`.
            CheckpointError: at the end: they are not what was recorded.
        """
        assert isinstance(self._storage, orbax.Orbax)
        recorded = self._recorded(path)
        at = None if recorded is None else recorded.find(box)
        if recorded is not None and at is None:
            raise decode.Unknown  # its chunks are others
        running = _Running()
        for block in self._storage.blocks(path, box):
            if recorded is not None:
                running.add(block)
            yield block
        if recorded is not None and at is not None and running.value() != recorded.values[at]:
            raise damaged(self._storage, path, recorded, box)

    def read(self, path: DiskPath, box: Box | None = None) -> "np.ndarray":
        """One box of an array.

        Raises:
            CheckpointError: the data are damaged or missing, or are not what was recorded.
        """
        leaf = self._leaf(path)
        box = whole(leaf.shape) if box is None else box
        array = self._storage.read(path, box)
        recorded = self._recorded(path)
        if recorded is None:
            return array
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
            f"it is {leaf} now; {_advice(storage)}"
        )


def damaged(storage: Storage, path: DiskPath, recorded: Sums, box: Box) -> errors.CheckpointError:
    """The error that says which chunk has other bits than were recorded."""
    index = [start // size for (start, _), size in zip(box, recorded.chunk, strict=True)]
    return errors.CheckpointError(
        f"{storage.url}: {spell(path)}: chunk {index} of {recorded.leaf} holds other bits than "
        f"were recorded when it was written; {_advice(storage)}"
    )


def _advice(storage: Storage) -> str:
    _, name = home(storage) or ("", FILE)
    return (
        "it was damaged (take another step or another copy), or rewritten by a program that does "
        f"not keep the record (then remove {name})"
    )


def entry(path: DiskPath, leaf: Leaf, chunk: tuple[int, ...], values: Iterable[int]) -> list[Any]:
    """What a file says of the chunks of an array."""
    words = "".join(f"{value:0{_DIGITS}x}" for value in values)
    return [list(path), leaf.dtype, list(leaf.shape), list(chunk), words]


def numbers(words: str) -> tuple[int, ...]:
    """The checksums that an entry spells."""
    return tuple(int(words[at : at + _DIGITS], 16) for at in range(0, len(words), _DIGITS))


def _sums(dtype: str, shape: list[int], chunk: list[int], words: str) -> Sums:
    values = numbers(words)
    if len(shape) != len(chunk) or len(values) != count(tuple(shape), tuple(chunk)):
        raise ValueError(f"{len(values)} checksums for {dtype}{shape} in chunks of {chunk}")
    return Sums(Leaf(tuple(shape), dtype, 0), tuple(chunk), values)
