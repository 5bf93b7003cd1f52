"""Arrays seen in another form than they are stored in, read box by box within a memory budget.

A `Reader` decodes each stored chunk once as long as boxes come in a sensible order; a `View` is an
array made of stored ones by an operation, such as a stack of layers that lie apart.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maxmig.converters import casts, transfers
from maxmig.converters.leaves import DiskPath, Leaf
from maxmig.converters.ops import Concat, Join, MoveAxis, Reshape, Same, Slice, Stack, Take, Then
from maxmig.converters.storage.base import Grid, Storage
from maxmig.converters.transfers import Box, Op, Transfer

if TYPE_CHECKING:
    import numpy as np

BUDGET = 256 << 20  # bytes; what one side of a comparison may keep decoded
PIECE = 16 << 20  # bytes; small chunks are read together up to this size
_SAME = Same()


class Reader:
    """Reads boxes of a storage's arrays and keeps the chunks that were decoded last.

    Args:
        storage: what is read.
        budget: bytes of decoded chunks to keep; one chunk is kept whatever its size.
        progress: called with the bytes that were decoded.

    Attributes:
        piece: bytes up to which small chunks are read together.
    """

    def __init__(
        self,
        storage: Storage,
        budget: int = BUDGET,
        progress: Callable[[int], None] = lambda nbytes: None,
    ):
        self.storage = storage
        self.tree = storage.tree()
        self.budget = budget
        self.piece = min(PIECE, budget // 2)
        self._progress = progress
        self._kept: OrderedDict[tuple[DiskPath, Box], np.ndarray] = OrderedDict()
        self._size = 0
        self._grids: dict[DiskPath, Grid] = {}

    def leaf(self, path: DiskPath) -> Leaf:
        """Shape and type of a stored array."""
        found = self.tree[path]
        assert isinstance(found, Leaf)
        return found

    def grid(self, path: DiskPath) -> Grid:
        """How a stored array is cut."""
        if path not in self._grids:
            self._grids[path] = self.storage.grid(path)
        return self._grids[path]

    def chunk(self, path: DiskPath) -> tuple[int, ...]:
        """The chunk of a stored array, no larger than the array."""
        grid = self.grid(path)
        return tuple(max(1, min(c, s)) for c, s in zip(grid.chunk, grid.shape, strict=True))

    def read(self, path: DiskPath, box: Box) -> "np.ndarray":
        """One box; the result may be shared and must not be written to.

        Raises:
            CheckpointError: the data are damaged or missing.
        """
        grid = self.grid(path)
        if not grid.encoded or _aligned(box, grid):
            made = self.storage.read(path, box)
            self._progress(made.nbytes)
            return made
        import numpy as np

        shared: np.ndarray | None = None
        for place in _touched(box, grid):
            chunk = self._chunk(path, place)
            part = tuple(
                (max(a, start), min(b, stop))
                for (a, b), (start, stop) in zip(place, box, strict=True)
            )
            found = chunk[_within(part, place)]
            if part == box:
                return found
            if shared is None:
                shape = transfers.shape_of(box) + chunk.shape[len(box) :]
                shared = np.empty(shape, chunk.dtype)
            shared[_within(part, box)] = found
        assert shared is not None  # empty boxes are aligned
        return shared

    def _chunk(self, path: DiskPath, place: Box) -> "np.ndarray":
        found = self._kept.get((path, place))
        if found is not None:
            self._kept.move_to_end((path, place))
            return found
        size = math.prod(transfers.shape_of(place)) * self._itemsize(path)
        while self._kept and self._size + size > self.budget:
            self._size -= self._kept.popitem(last=False)[1].nbytes
        found = self.storage.read(path, place)
        self._progress(found.nbytes)
        self._kept[path, place] = found
        self._size += found.nbytes
        return found

    def _itemsize(self, path: DiskPath) -> int:
        leaf = self.leaf(path)
        return leaf.nbytes // max(1, math.prod(leaf.shape))


@dataclass(frozen=True)
class View:
    """An array made of stored ones.

    Attributes:
        leaf: its shape and type.
        reader: reads the stored ones.
        paths: their places on disk.
        op: how they make it up.
        cast: whether its type is another one than theirs.
    """

    leaf: Leaf
    reader: Reader
    paths: tuple[DiskPath, ...]
    op: Op = _SAME
    cast: bool = False

    @classmethod
    def of(cls, transfer: Transfer, reader: Reader) -> "View":
        """What a transfer makes of its sources."""
        return cls(transfer.leaf, reader, transfer.sources, transfer.op, transfer.cast)

    @classmethod
    def stored(cls, path: DiskPath, reader: Reader) -> "View":
        """A stored array as it is."""
        return cls(reader.leaf(path), reader, (path,))

    @property
    def sources(self) -> list[Leaf]:
        """Shapes and types of the stored arrays."""
        return [self.reader.leaf(path) for path in self.paths]

    @property
    def chunk(self) -> tuple[int, ...]:
        """The extents of a box that is cheap to read: one chunk of what is stored."""
        chunks = [self.reader.chunk(path) for path in self.paths]
        found = _chunk_of(self.op, chunks, self.sources)
        return tuple(max(1, min(c, s)) for c, s in zip(found, self.leaf.shape, strict=True))

    @property
    def itemsize(self) -> int:
        """The bytes of one element, which is a whole key where there are random keys."""
        return self.leaf.nbytes // max(1, math.prod(self.leaf.shape))

    def read(self, box: Box) -> "np.ndarray":
        """One box of the array.

        Raises:
            CheckpointError: the data are damaged or missing.
        """
        sources = self.sources
        parts = self.op.parts(box, sources)
        arrays = [self.reader.read(self.paths[place], part) for place, part in parts]
        made = self.op.apply(arrays, box, sources)
        if not self.cast:
            return made
        return casts.cast(made, self.leaf, "/".join(map(str, self.paths[0])))


@dataclass(frozen=True)
class Zeros(View):
    """Zeros that no array holds: of a leaf that one of two layouts has no place for."""

    paths: tuple[DiskPath, ...] = ()

    @property
    def chunk(self) -> tuple[int, ...]:
        """Any box is cheap."""
        return (1,) * len(self.leaf.shape)

    def read(self, box: Box) -> "np.ndarray":
        """One box of zeros."""
        from maxmig.converters.mapping import derive

        return derive.zeros(self.leaf.reshaped(transfers.shape_of(box)))()


def boxes(
    shape: tuple[int, ...],
    chunk: tuple[int, ...],
    itemsize: int,
    limit: int = PIECE,
    first: int = 0,
) -> Iterator[Box]:
    """Cuts an array along a grid of chunks; small chunks are joined up to a size.

    Args:
        shape: the array's shape.
        chunk: the extents of a chunk.
        itemsize: bytes of an element.
        limit: bytes up to which chunks are joined; a larger chunk stays whole.
        first: the axis that is walked in the outermost loop.
    """
    joined = list(chunk)
    for axis in reversed(range(len(shape))):
        room = limit // max(1, math.prod(joined) * itemsize)
        if room < 2:
            break
        joined[axis] = min(joined[axis] * room, max(1, shape[axis]))
        if joined[axis] < shape[axis]:
            break
    spans = [
        [(start, min(start + size, end)) for start in range(0, end, size)]
        for end, size in zip(shape, joined, strict=True)
    ]
    if not spans:
        yield ()
        return
    outer = spans.pop(first)
    for each in outer:
        for rest in itertools.product(*spans):
            yield (*rest[:first], each, *rest[first:])


def _chunk_of(
    op: Op, chunks: Sequence[tuple[int, ...]], sources: Sequence[Leaf]
) -> tuple[int, ...]:
    chunk = chunks[0]
    match op:
        case Stack(axis):
            return (*chunk[:axis], 1, *chunk[axis:])
        case Take(axis, _):
            return chunk[:axis] + chunk[axis + 1 :]
        case MoveAxis(source, target):
            rest = [*chunk[:source], *chunk[source + 1 :]]
            rest.insert(target, chunk[source])
            return tuple(rest)
        case Same() | Concat() | Slice():
            return chunk
        case Then(first, second):
            middle = first.result(sources)
            return _chunk_of(second, [_chunk_of(first, chunks, sources)], [middle])
        case Join(firsts, _, second):
            runs = [(op.run(at, chunks), op.run(at, sources)) for at in range(len(firsts))]
            inner = [_chunk_of(each, *run) for each, run in zip(firsts, runs, strict=True)]
            middles = [each.result(run) for each, (_, run) in zip(firsts, runs, strict=True)]
            return _chunk_of(second, inner, middles)
        case Reshape(shape):
            return (1, *shape[1:]) if shape else ()  # what lies together in both
    return op.result(sources).shape


def _aligned(box: Box, grid: Grid) -> bool:
    """Whether a box consists of whole chunks."""
    return all(
        start % max(1, chunk) == 0 and (stop % max(1, chunk) == 0 or stop == size)
        for (start, stop), chunk, size in zip(box, grid.chunk, grid.shape, strict=True)
    )


def _touched(box: Box, grid: Grid) -> Iterator[Box]:
    """The whole chunks that a box touches."""
    axes = []
    for (start, stop), chunk, size in zip(box, grid.chunk, grid.shape, strict=True):
        begins = range(start // chunk * chunk, stop, chunk)
        axes.append([(begin, min(begin + chunk, size)) for begin in begins])
    yield from itertools.product(*axes)


def _within(part: Box, whole: Box) -> tuple[slice, ...]:
    return tuple(
        slice(start - begin, stop - begin)
        for (start, stop), (begin, _) in zip(part, whole, strict=True)
    )
