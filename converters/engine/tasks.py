"""Cuts a conversion into pieces of bounded memory that can be done in any order, and once each.

A piece reads one chunk of the source and writes whole chunks of the result wherever the chunks fit
into one another, so that nothing is decoded twice; otherwise it collects one chunk of the result.
Their order is a function of the plan alone, so a journal needs to know them by number only.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from maxmig.converters import boxes, ops, transfers
from maxmig.converters.engine import routes
from maxmig.converters.engine.options import MIB, Options
from maxmig.converters.engine.routes import Route
from maxmig.converters.leaves import DiskPath, Leaf
from maxmig.converters.storage import forms, orbax, orbax_tree
from maxmig.converters.transfers import Box, Conversion, Made

_SMALL = MIB
_SLACK = 64 * MIB  # for what the allocator keeps, where a chunk is decoded from small parts
HELD = 4  # times the bytes of what is written: as numbers, and three times while it is read back
GROUPED = 32 * MIB  # what is written in one transaction is held in memory twice
_GROUP = 8 * MIB
_COUNT = 512


@dataclass(frozen=True)
class Piece:
    """Boxes of the result that are made together.

    Attributes:
        read: the chunk of the source that all of them are made of; None reads what each needs.
        writes: the boxes.
        nbytes: the memory that it takes, while one box is written.
        payload: the bytes of the result.
        passes: the chunk's numbers become the boxes' one after another: none need be held.
    """

    writes: tuple[tuple[Route, Box], ...]
    nbytes: int
    payload: int
    read: tuple[DiskPath, Box] | None = None
    passes: bool = False


@dataclass(frozen=True)
class Copy:
    """Stored values that are copied as they are: (name in the source, name in the result)."""

    values: tuple[tuple[str, str], ...]
    nbytes: int
    payload: int


@dataclass(frozen=True)
class Making:
    """Leaves that have no source."""

    made: tuple[Made, ...]
    nbytes: int
    payload: int


Task = Piece | Copy | Making
Item = TypeVar("Item")


def cut(conversion: Conversion, chosen: Sequence[Route], options: Options) -> Iterator[Task]:
    """All pieces of a conversion but those by reference, always in the same order."""
    made = tuple(conversion.made)
    for group in _groups(made, lambda item: item.leaf.nbytes):
        size = sum(item.leaf.nbytes for item in group)
        yield Making(group, 3 * size, size)
    yield from _copies([route for route in chosen if route.kind == routes.CHUNK])
    streamed = [route for route in chosen if route.kind == routes.STREAM]
    yield from _streamed(conversion, streamed, options)


def _copies(chosen: Sequence[Route]) -> Iterator[Task]:
    def values() -> Iterator[tuple[str, str, int]]:
        for route in chosen:
            name = route.name
            stored = zip(route.array.stored, route.array.shape, strict=True)
            each = math.prod(min(chunk, max(1, size)) for chunk, size in stored)
            each *= route.transfer.leaf.nbytes // max(1, math.prod(route.array.shape))
            for source, place, index in route.values():
                key = route.array.key(place)
                yield (
                    f"{orbax_tree.name_of(source)}/{key}",
                    f"{name}/{route.array.key(index)}",
                    each,
                )

    for group in _groups(values(), lambda value: value[2]):
        size = sum(value[2] for value in group)
        yield Copy(tuple(value[:2] for value in group), 2 * size, size)


def _streamed(
    conversion: Conversion, streamed: Sequence[Route], options: Options
) -> Iterator[Task]:
    leaves = source_leaves(conversion)
    small: list[Route] = []
    by_source: dict[DiskPath, list[Route]] = defaultdict(list)
    single: list[Route] = []
    for route in streamed:
        transfer = route.transfer
        size = transfer.leaf.nbytes + sum(leaves[path].nbytes for path in transfer.sources)
        if size <= _SMALL:
            small.append(route)
        elif _aligned(route, conversion, leaves):
            for path in dict.fromkeys(transfer.sources):
                by_source[path].append(route)
        else:
            single.append(route)
    for group in _groups(small, lambda route: route.transfer.leaf.nbytes):
        size = sum(route.transfer.leaf.nbytes for route in group)
        writes = tuple((route, transfers.whole(route.transfer.leaf)) for route in group)
        yield Piece(writes, 4 * size, size)
    for path, users in by_source.items():
        yield from _chunkwise(conversion, path, users, leaves)
    for route in single:
        yield from _boxwise(conversion, route, leaves)


def _chunkwise(
    conversion: Conversion,
    path: DiskPath,
    users: list[Route],
    leaves: dict[DiskPath, Leaf],
) -> Iterator[Piece]:
    grid = conversion.storage.grid(path)
    for box in grid.boxes():
        images = []
        for route in users:
            sources = [leaves[each] for each in route.transfer.sources]
            for place, each in enumerate(route.transfer.sources):
                if each == path and (image := _image(route.transfer.op, place, box, sources)):
                    images.append((route, image[0]))
        writes = tuple((route, part) for route, image in images for part in _parts(route, image))
        if not writes:
            continue
        sizes = [_size(route, part) for route, part in writes]
        written = HELD * max(sizes)
        passes = len(images) == 1 and _passes(conversion, path, box, *images[0])
        if passes:
            nbytes = written + _SLACK
        else:
            encoded = 0
            if grid.encoded:
                encoded = grid.nbytes if grid.whole else min(grid.nbytes, _SLACK)
            nbytes = grid.nbytes + max(encoded, written)
        yield Piece(writes, nbytes, sum(sizes), (path, box), passes)


def _passes(conversion: Conversion, path: DiskPath, box: Box, route: Route, image: Box) -> bool:
    """Whether the numbers of a chunk become boxes of the result one after another, in order."""
    storage = conversion.storage
    return (
        isinstance(storage, orbax.Orbax)
        and ops.in_order(route.transfer.op)
        and math.prod(transfers.shape_of(image)) == math.prod(transfers.shape_of(box))
        and forms.of(storage.arrays[path]) is not None
        and forms.fills(storage.arrays[path], box)
        and boxes.consecutive(image, _parts(route, image))
    )


def _boxwise(conversion: Conversion, route: Route, leaves: dict[DiskPath, Leaf]) -> Iterator[Piece]:
    sources = [leaves[path] for path in route.transfer.sources]
    grids = [conversion.storage.grid(path) for path in route.transfer.sources]
    for box in _parts(route, transfers.whole(route.transfer.leaf)):
        size = _size(route, box)
        read = 0
        for place, part in route.transfer.op.parts(box, sources):
            read += sources[place].reshaped(transfers.shape_of(part)).nbytes
        chunks = max((2 * grid.nbytes if grid.encoded else 0 for grid in grids), default=0)
        yield Piece(((route, box),), read + HELD * size + chunks, size)


def source_leaves(conversion: Conversion) -> dict[DiskPath, Leaf]:
    """The arrays of the source by path."""
    tree = conversion.storage.tree()
    return {path: leaf for path, leaf in tree.items() if isinstance(leaf, Leaf)}


def _aligned(route: Route, conversion: Conversion, leaves: dict[DiskPath, Leaf]) -> bool:
    """Whether each chunk of the result comes from one chunk of the source."""
    op = route.transfer.op
    rank = len(route.transfer.leaf.shape)
    stored = route.array.stored[:rank]
    for base in routes.image_chunks(route.transfer, conversion):
        if base is None:
            return False
        for small, large, size in zip(stored, base, route.transfer.leaf.shape, strict=True):
            if large % small and large < size:
                return False
    match op:
        case ops.Then() | ops.Join():
            return not _cuts(op)
        case ops.Slice(axis, start, _):
            return start % stored[axis] == 0
        case ops.Concat(axis):
            ends = itertools.accumulate(leaves[p].shape[axis] for p in route.transfer.sources)
            return all(end % stored[axis] == 0 for end in list(ends)[:-1])
    return True


def _cuts(op: transfers.Op) -> bool:
    """Whether an operation cuts or joins somewhere within axes."""
    match op:
        case ops.Then(one, other):
            return _cuts(one) or _cuts(other)
        case ops.Join(firsts, _, second):
            return _cuts(second) or any(map(_cuts, firsts))
    return isinstance(op, ops.Slice | ops.Concat)


def _image(op: transfers.Op, place: int, box: Box, sources: Sequence[Leaf]) -> tuple[Box] | None:
    """The box of the result that a box of a source becomes, in a tuple; None if there is none."""
    match op:
        case ops.Stack(axis):
            return ((*box[:axis], (place, place + 1), *box[axis:]),)
        case ops.Take(axis, index):
            start, stop = box[axis]
            return ((*box[:axis], *box[axis + 1 :]),) if start <= index < stop else None
        case ops.MoveAxis(source, target):
            rest = [*box[:source], *box[source + 1 :]]
            rest.insert(target, box[source])
            return (tuple(rest),)
        case ops.Concat(axis):
            offset = sum(each.shape[axis] for each in sources[:place])
            start, stop = box[axis]
            return ((*box[:axis], (start + offset, stop + offset), *box[axis + 1 :]),)
        case ops.Slice(axis, first, last):
            start, stop = max(box[axis][0], first) - first, min(box[axis][1], last) - first
            return ((*box[:axis], (start, stop), *box[axis + 1 :]),) if start < stop else None
        case ops.Then(one, other):
            found = _image(one, place, box, sources)
            return found and _image(other, 0, found[0], [one.result(sources)])
        case ops.Join(firsts, _, second):
            whose, own = op.whose(place)
            found = _image(firsts[whose], own, box, op.run(whose, sources))
            middles = [each.result(op.run(at, sources)) for at, each in enumerate(firsts)]
            return found and _image(second, whose, found[0], middles)
    return (box,)


def _parts(route: Route, box: Box) -> Iterator[Box]:
    """The chunks of the result in a box of it."""
    return boxes.chunks(box, route.array.stored[: len(box)])  # words of random keys ride along


def _size(route: Route, box: Box) -> int:
    return route.transfer.leaf.reshaped(transfers.shape_of(box)).nbytes


def _groups(items: Iterable[Item], size: Callable[[Item], int]) -> Iterator[tuple[Item, ...]]:
    group: list[Item] = []
    total = 0
    for item in items:
        if group and (total + size(item) > _GROUP or len(group) >= _COUNT):
            yield tuple(group)
            group, total = [], 0
        group.append(item)
        total += size(item)
    if group:
        yield tuple(group)
