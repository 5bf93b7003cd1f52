"""Holds pairs of arrays against one another, box by box, each stored chunk decoded once.

Arrays that are parts of one stored array are walked together, along its chunks. Where the chunks
of two sides cross, so that no box within the budget is cheap on both, fingerprints are compared
first, and only arrays with different ones are walked.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maxmig import errors
from maxmig.converters.compare import gaps, views
from maxmig.converters.compare.gaps import Gap
from maxmig.converters.compare.tiles import Tiles
from maxmig.converters.compare.verdicts import Line, Tolerance
from maxmig.converters.compare.views import View
from maxmig.converters.ops import MoveAxis, Same, Slice, Take, Then
from maxmig.converters.transfers import Box, Op, shape_of

if TYPE_CHECKING:
    import numpy as np


_TILE = 1 << 19  # elements


@dataclass(frozen=True)
class Pair:
    """Two arrays of one shape and type that should be equal.

    Attributes:
        path: how the leaf is called in the report.
        a: one array.
        b: the other.
    """

    path: str
    a: View
    b: View


@dataclass
class _Seen:
    """What is known of a pair so far."""

    gap: Gap = field(default_factory=Gap)
    failed: errors.MaxmigError | None = None


def compare(
    pairs: Sequence[Pair],
    tolerance: Tolerance | None = None,
    *,
    limit: int = views.BUDGET,
    sample: int | None = None,
) -> Iterator[Line]:
    """The verdict on each pair, in the order in which they can be read.

    Args:
        pairs: what is compared.
        tolerance: what is near enough; None asks for the same bits.
        limit: bytes that one box of both sides may have before fingerprints are used instead.
        sample: how many boxes of each pair to look at; None looks at all.
    """
    tolerance = tolerance or Tolerance()
    with ThreadPoolExecutor(1) as left, ThreadPoolExecutor(1) as right:
        for group in _groups(pairs):
            found = {pair.path: _Seen() for pair in group}
            rest = group
            if sample is None and _crossed(group, limit):
                rest = _other_prints(group, found)
            steps = _sampled(rest, sample) if sample else _steps(rest)
            _walk(steps, found, tolerance, (left, right))
            for pair in group:
                yield _line(pair, found[pair.path], tolerance, sample)


def _walk(
    steps: Iterable[tuple[Pair, Box]],
    found: dict[str, _Seen],
    tolerance: Tolerance,
    pools: tuple[ThreadPoolExecutor, ThreadPoolExecutor],
) -> None:
    """Compares boxes; each side reads one box ahead."""

    def read(view: View, box: Box, seen: _Seen) -> "np.ndarray | None":
        return view.read(box) if seen.failed is None else None

    def ask(step: tuple[Pair, Box]) -> "tuple[Pair, Box, Future, Future]":
        pair, box = step
        seen = found[pair.path]
        one = pools[0].submit(read, pair.a, box, seen)
        return pair, box, one, pools[1].submit(read, pair.b, box, seen)

    def take(asked: "tuple[Pair, Box, Future, Future]") -> None:
        pair, box, one, two = asked
        seen = found[pair.path]
        try:
            a, b = one.result(), two.result()
        except errors.MaxmigError as error:
            seen.failed = seen.failed or error
            return
        if a is not None and b is not None:
            seen.gap += gaps.gap(a, b, tolerance, box)

    ahead = None
    for step in steps:
        asked = ask(step)
        if ahead is not None:
            take(ahead)
        ahead = asked
    if ahead is not None:
        take(ahead)


def _line(pair: Pair, seen: _Seen, tolerance: Tolerance, sample: int | None) -> Line:
    if seen.failed is not None:
        return Line("!", pair.path, str(seen.failed).replace("\n", " "))
    line = seen.gap.line(pair.path, tolerance)
    total = _numbers(pair)
    if seen.gap.elements == total:
        return line
    if sample is None:
        raise RuntimeError(f"{pair.path}: {seen.gap.elements} of {total} numbers were compared")
    looked = f"{seen.gap.elements:,} of {total:,} numbers looked at"
    return dataclasses.replace(line, detail=f"{line.detail}, {looked}" if line.detail else looked)


def _numbers(pair: Pair) -> int:
    """The numbers in an array; a random key has several."""
    leaf = pair.a.leaf
    return math.prod(leaf.shape) * (pair.a.itemsize // 4 if leaf.is_key else 1)


def _groups(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Pairs that are parts of one stored array together, the others alone; in order."""
    found: dict[object, list[Pair]] = {}
    for pair in pairs:
        whole = _whole(pair)
        found.setdefault(
            (whole.reader is pair.a.reader, whole.paths) if whole else pair, []
        ).append(pair)
    yield from found.values()


def _whole(pair: Pair) -> View | None:
    """The side of which a pair is a part that can be told from a box of the stored array."""
    for view in (pair.a, pair.b):
        if len(view.paths) == 1 and not isinstance(view.op, Same):
            box = tuple((0, size) for size in view.sources[0].shape)
            if _image(view.op, box) is not None:
                return view
    return None


def _steps(group: Sequence[Pair]) -> Iterator[tuple[Pair, Box]]:
    """The boxes to compare, in an order in which each chunk is decoded once."""
    if not group:
        return
    whole = _whole(group[0])
    if whole is None:
        for pair in group:
            yield from ((pair, box) for box in _boxes(pair))
        return
    stored = whole.sources[0]
    chunk, limit = whole.reader.chunk(whole.paths[0]), whole.reader.piece
    for box in views.boxes(stored.shape, chunk, whole.itemsize, limit, _axis(whole.op)):
        for pair in group:
            image = _image(_side(pair, whole).op, box)
            if image is not None and all(start < stop for start, stop in image):
                yield pair, image


def _boxes(pair: Pair) -> Iterator[Box]:
    """Boxes that are cheap to read on both sides, large ones in parts.

    The chunks of such a box stay decoded until its last part is read.
    """
    limit, size = min(pair.a.reader.piece, pair.b.reader.piece), pair.a.itemsize
    part = tuple(min(a, b) for a, b in zip(pair.a.chunk, pair.b.chunk, strict=True))
    for box in views.boxes(pair.a.leaf.shape, _joint(pair), size, limit):
        shape = shape_of(box)
        if math.prod(shape) * size <= limit:
            yield box
            continue
        for inner in views.boxes(shape, part, size, limit):
            yield tuple(
                (begin + start, begin + stop)
                for (begin, _), (start, stop) in zip(box, inner, strict=True)
            )


def _sampled(group: Sequence[Pair], count: int) -> Iterator[tuple[Pair, Box]]:
    """The first box, the last one, and some between them."""
    for pair in group:
        found = list(views.boxes(pair.a.leaf.shape, _joint(pair), pair.a.itemsize, limit=1 << 20))
        places = {round(place * (len(found) - 1) / max(1, count - 1)) for place in range(count)}
        yield from ((pair, found[place]) for place in sorted(places) if found)


def _joint(pair: Pair) -> tuple[int, ...]:
    """The extents of a box that is cheap to read on both sides."""
    return tuple(max(a, b) for a, b in zip(pair.a.chunk, pair.b.chunk, strict=True))


def _crossed(group: Sequence[Pair], limit: int) -> bool:
    """Whether boxes that are cheap to read on both sides are larger than the limit."""
    whole = _whole(group[0])
    cost = 0
    for pair in group:
        joint = _joint(pair)
        own = [_side(pair, whole).chunk] if whole else [pair.a.chunk, pair.b.chunk]
        cost += 0 if joint in own else math.prod(joint) * pair.a.itemsize
    if whole is not None:  # this many parts are read from one chunk
        cost = cost * min(len(group), whole.reader.chunk(whole.paths[0])[_axis(whole.op)])
        cost //= len(group)
    return cost > limit


def _side(pair: Pair, whole: View) -> View:
    return pair.a if pair.a.reader is whole.reader else pair.b


def _axis(op: Op) -> int:
    """The axis of the stored array along which parts are taken."""
    match op:
        case Take(axis, _) | Slice(axis, _, _):
            return axis
        case Then(first, _):
            return _axis(first)
    return 0


def _other_prints(group: Sequence[Pair], found: dict[str, _Seen]) -> list[Pair]:
    """The pairs whose fingerprints differ; each side is walked once."""

    def failed(path: str, error: errors.MaxmigError) -> None:
        found[path].failed = found[path].failed or error

    tile = {pair.path: _common(pair) for pair in group}
    a, b = (
        fingerprints({pair.path: getattr(pair, side) for pair in group}, failed, tile)
        for side in ("a", "b")
    )
    for pair in group:
        if a[pair.path] == b[pair.path]:
            found[pair.path].gap = Gap(elements=_numbers(pair))
    return [pair for pair in group if a[pair.path] != b[pair.path]]


def _common(pair: Pair) -> tuple[int, ...]:
    """Tiles that lie within the chunks of both sides, so that few are left unfinished."""
    found = [min(a, b) for a, b in zip(pair.a.chunk, pair.b.chunk, strict=True)]
    for axis in range(len(found)):
        while math.prod(found) > _TILE and found[axis] > 1 and found[axis] % 2 == 0:
            found[axis] //= 2
    return tuple(found)


def fingerprints(
    of: Mapping[str, View],
    failed: Callable[[str, errors.MaxmigError], None],
    tile: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, str | None]:
    """The fingerprints of arrays; those that are parts of one stored array are walked together.

    Args:
        of: the arrays by name.
        failed: called with the name and the error of one that cannot be read; its fingerprint is
            then None.
        tile: the shapes of tiles, where the fingerprints need only be comparable with others of
            these shapes.
    """
    found: dict[str, str | None] = dict.fromkeys(of)
    with ThreadPoolExecutor(1) as pool:
        for group in _groups(Pair(path, view, view) for path, view in of.items()):
            tiles = {p.path: Tiles(p.a.leaf, (tile or {}).get(p.path, ())) for p in group}
            for pair, box, asked in _ahead(pool, _steps(group)):
                if pair.path not in tiles:
                    continue
                try:
                    tiles[pair.path].feed(box, asked.result())
                except errors.MaxmigError as error:
                    failed(pair.path, error)
                    del tiles[pair.path]
            found |= {path: each.digest() for path, each in tiles.items()}
    return found


def _ahead(
    pool: ThreadPoolExecutor, steps: Iterable[tuple[Pair, Box]]
) -> "Iterator[tuple[Pair, Box, Future[np.ndarray]]]":
    """Reads one box ahead of the one that is worked on."""
    waiting: tuple[Pair, Box, Future[np.ndarray]] | None = None
    for pair, box in steps:
        asked = pool.submit(pair.a.read, box)
        if waiting is not None:
            yield waiting
        waiting = (pair, box, asked)
    if waiting is not None:
        yield waiting


def _image(op: Op, box: Box) -> Box | None:
    """Which box of the result a box of the only source makes up; None where that is no box."""
    match op:
        case Same():
            return box
        case Take(axis, index):
            start, stop = box[axis]
            rest = (*box[:axis], *box[axis + 1 :])
            if start <= index < stop:
                return rest
            return tuple((0, 0) for _ in rest) if rest else None
        case Slice(axis, start, stop):
            a, b = box[axis]
            here = (max(a, start) - start, max(min(b, stop), max(a, start)) - start)
            return (*box[:axis], here, *box[axis + 1 :])
        case MoveAxis(source, target):
            moved = [*box[:source], *box[source + 1 :]]
            moved.insert(target, box[source])
            return tuple(moved)
        case Then(first, second):
            middle = _image(first, box)
            return None if middle is None else _image(second, middle)
    return None
