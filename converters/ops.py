"""How arrays of a result are made of arrays of a source: the operations; `inverses` undo them.

Each is pure arithmetic on shapes and boxes, so that any box of a result can be made without the
rest; a whole checkpoint is then converted in pieces of any size.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from maxmig import errors
from maxmig.converters import boxes, casts, transfers
from maxmig.converters.leaves import KEY_WORDS, Leaf, spell
from maxmig.converters.transfers import Box, Op, Transfer

if TYPE_CHECKING:
    import numpy as np

    Arrays = Sequence[np.ndarray]

T = TypeVar("T")
Parts = tuple[tuple[int, Box], ...]


@dataclass(frozen=True)
class Same:
    """The source as it is."""

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        return _only(sources, self)

    def parts(self, box: Box, sources: Sequence[Leaf]) -> Parts:
        return ((0, box),)

    def apply(self, arrays: "Arrays", box: Box, sources: Sequence[Leaf]) -> "np.ndarray":
        return arrays[0]


@dataclass(frozen=True)
class Stack:
    """Equal sources, one after another along a new axis."""

    axis: int

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        first = _alike(sources, self)
        _check_axis(self, self.axis, len(first.shape) + 1)
        shape = first.shape
        return first.reshaped((*shape[: self.axis], len(sources), *shape[self.axis :]))

    def parts(self, box: Box, sources: Sequence[Leaf]) -> Parts:
        rest = (*box[: self.axis], *box[self.axis + 1 :])
        return tuple((index, rest) for index in range(*box[self.axis]))

    def apply(self, arrays: "Arrays", box: Box, sources: Sequence[Leaf]) -> "np.ndarray":
        import numpy as np

        return np.stack(arrays, self.axis)


@dataclass(frozen=True)
class Take:
    """One place along an axis, which is dropped."""

    axis: int
    index: int

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        leaf = _only(sources, self)
        _check_axis(self, self.axis, len(leaf.shape))
        if not 0 <= self.index < leaf.shape[self.axis]:
            raise errors.ConvertError(f"{self}: expected an index into axis {self.axis} of {leaf}")
        return leaf.reshaped(leaf.shape[: self.axis] + leaf.shape[self.axis + 1 :])

    def parts(self, box: Box, sources: Sequence[Leaf]) -> Parts:
        here = (self.index, self.index + 1)
        return ((0, (*box[: self.axis], here, *box[self.axis :])),)

    def apply(self, arrays: "Arrays", box: Box, sources: Sequence[Leaf]) -> "np.ndarray":
        return arrays[0].squeeze(self.axis)


@dataclass(frozen=True)
class MoveAxis:
    """One axis put in another place, the others in order, as `numpy.moveaxis` does it."""

    source: int
    target: int

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        leaf = _only(sources, self)
        for axis in (self.source, self.target):
            _check_axis(self, axis, len(leaf.shape))
        return leaf.reshaped(_moved(leaf.shape, self.source, self.target))

    def parts(self, box: Box, sources: Sequence[Leaf]) -> Parts:
        return ((0, _moved(box, self.target, self.source)),)

    def apply(self, arrays: "Arrays", box: Box, sources: Sequence[Leaf]) -> "np.ndarray":
        import numpy as np

        return np.moveaxis(arrays[0], self.source, self.target)


@dataclass(frozen=True)
class Concat:
    """Sources joined along an axis that they have."""

    axis: int

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        first = _kin(sources, self)
        _check_axis(self, self.axis, len(first.shape))
        rests = {(*s.shape[: self.axis], *s.shape[self.axis + 1 :]) for s in sources}
        if len({len(s.shape) for s in sources}) > 1 or len(rests) > 1:
            raise errors.ConvertError(
                f"{self}: expected arrays that differ in axis {self.axis} only, got "
                f"{', '.join(map(str, sources))}"
            )
        size = sum(source.shape[self.axis] for source in sources)
        full = max(sources, key=lambda source: source.nbytes)  # an empty one tells no bytes
        return full.reshaped(_resized(first.shape, self.axis, size))

    def parts(self, box: Box, sources: Sequence[Leaf]) -> Parts:
        found = []
        begin = 0
        start, stop = box[self.axis]
        for place, source in enumerate(sources):
            end = begin + source.shape[self.axis]
            here = (max(start, begin) - begin, min(stop, end) - begin)
            if here[0] < here[1]:
                found.append((place, _resized(box, self.axis, here)))
            begin = end
        return tuple(found) or ((0, _resized(box, self.axis, (0, 0))),)

    def apply(self, arrays: "Arrays", box: Box, sources: Sequence[Leaf]) -> "np.ndarray":
        import numpy as np

        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, self.axis)


@dataclass(frozen=True)
class Slice:
    """A range of an axis, which stays."""

    axis: int
    start: int
    stop: int

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        leaf = _only(sources, self)
        _check_axis(self, self.axis, len(leaf.shape))
        if not 0 <= self.start <= self.stop <= leaf.shape[self.axis]:
            raise errors.ConvertError(f"{self}: expected a range within axis {self.axis} of {leaf}")
        return leaf.reshaped(_resized(leaf.shape, self.axis, self.stop - self.start))

    def parts(self, box: Box, sources: Sequence[Leaf]) -> Parts:
        start, stop = box[self.axis]
        return ((0, _resized(box, self.axis, (start + self.start, stop + self.start))),)

    def apply(self, arrays: "Arrays", box: Box, sources: Sequence[Leaf]) -> "np.ndarray":
        return arrays[0]


@dataclass(frozen=True)
class Reshape:
    """The same elements in row-major order under another shape."""

    shape: tuple[int, ...]

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        leaf = _only(sources, self)
        if math.prod(leaf.shape) != math.prod(self.shape):
            raise errors.ConvertError(
                f"{self}: expected {math.prod(self.shape)} elements, got {leaf}"
            )
        return leaf.reshaped(self.shape)

    def parts(self, box: Box, sources: Sequence[Leaf]) -> Parts:
        found: list[tuple[int, int]] = []
        for old, new in boxes.runs(sources[0].shape, self.shape):
            target = box[new.start : new.stop]
            shape = self.shape[new.start : new.stop]
            if sources[0].shape[old.start : old.stop] == shape:
                found.extend(target)
                continue
            first, last = boxes.span(target, shape)
            found.extend(boxes.cover(first, last, sources[0].shape[old.start : old.stop]))
        return ((0, tuple(found)),)

    def apply(self, arrays: "Arrays", box: Box, sources: Sequence[Leaf]) -> "np.ndarray":
        import numpy as np

        runs = boxes.runs(sources[0].shape, self.shape)
        read = self.parts(box, sources)[0][1]
        words = arrays[0].shape[len(read) :]
        sizes = [math.prod(stop - start for start, stop in read[o.start : o.stop]) for o, _ in runs]
        array = arrays[0].reshape((*sizes, *words))
        for axis, (old, new) in enumerate(runs):
            target, shape = box[new.start : new.stop], self.shape[new.start : new.stop]
            source = sources[0].shape[old.start : old.stop]
            if source == shape:
                continue
            base = boxes.linear([start for start, _ in read[old.start : old.stop]], source)
            places = np.zeros((1,), np.int64)
            for (start, stop), size in zip(target, shape, strict=True):
                places = (places[:, None] * size + np.arange(start, stop)).reshape(-1)
            array = np.take(array, places - base, axis)
        return array.reshape((*transfers.shape_of(box), *words))


@dataclass(frozen=True)
class Words:
    """Random keys as the uint32 numbers that they are stored as, in a last axis."""

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        leaf = _only(sources, self)
        if not leaf.is_key:
            raise errors.ConvertError(f"{self}: expected random keys, got {leaf}")
        return Leaf(leaf.stored, "uint32", leaf.nbytes)

    def parts(self, box: Box, sources: Sequence[Leaf]) -> Parts:
        return ((0, box[:-1]),)

    def apply(self, arrays: "Arrays", box: Box, sources: Sequence[Leaf]) -> "np.ndarray":
        return arrays[0][..., slice(*box[-1])]


@dataclass(frozen=True)
class Keys:
    """Random keys of a kind, out of their uint32 words."""

    impl: str

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        leaf = _only(sources, self)
        typed = Leaf(leaf.shape[:-1], f"key<{self.impl}>", leaf.nbytes)
        if leaf.dtype != "uint32" or self.impl not in KEY_WORDS or typed.stored != leaf.shape:
            raise errors.ConvertError(f"{self}: expected the uint32 words of keys, got {leaf}")
        return typed

    def parts(self, box: Box, sources: Sequence[Leaf]) -> Parts:
        return ((0, (*box, (0, KEY_WORDS[self.impl]))),)

    def apply(self, arrays: "Arrays", box: Box, sources: Sequence[Leaf]) -> "np.ndarray":
        return arrays[0]


@dataclass(frozen=True)
class Then:
    """One operation after another; the second takes the result of the first."""

    first: Op
    second: Op

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        return self.second.result([self.first.result(sources)])

    def parts(self, box: Box, sources: Sequence[Leaf]) -> Parts:
        return self.first.parts(self._middle(box, sources), sources)

    def apply(self, arrays: "Arrays", box: Box, sources: Sequence[Leaf]) -> "np.ndarray":
        middle = self.first.apply(arrays, self._middle(box, sources), sources)
        return self.second.apply([middle], box, [self.first.result(sources)])

    def _middle(self, box: Box, sources: Sequence[Leaf]) -> Box:
        ((_, middle),) = self.second.parts(box, [self.first.result(sources)])
        return middle


@dataclass(frozen=True)
class Join:
    """One operation on the results of others, each of which has its own run of the sources."""

    first: tuple[Op, ...]
    counts: tuple[int, ...]
    second: Op

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        return self.second.result(self._middles(sources))

    def parts(self, box: Box, sources: Sequence[Leaf]) -> Parts:
        runs, starts = self._runs(sources), self._starts()
        return tuple(
            (starts[place] + number, part)
            for place, inner in self.second.parts(box, self._middles(sources))
            for number, part in self.first[place].parts(inner, runs[place])
        )

    def apply(self, arrays: "Arrays", box: Box, sources: Sequence[Leaf]) -> "np.ndarray":
        runs, middles, made, at = self._runs(sources), self._middles(sources), [], 0
        for place, inner in self.second.parts(box, middles):
            count = len(self.first[place].parts(inner, runs[place]))
            made.append(self.first[place].apply(arrays[at : at + count], inner, runs[place]))
            at += count
        return self.second.apply(made, box, middles)

    def whose(self, source: int) -> tuple[int, int]:
        """Which operation takes a source, and as which of its own."""
        place = 0
        while source >= self.counts[place]:
            source -= self.counts[place]
            place += 1
        return place, source

    def run(self, place: int, items: Sequence[T]) -> Sequence[T]:
        """What belongs to one operation, of what there is for each source."""
        start = self._starts()[place]
        return items[start : start + self.counts[place]]

    def _starts(self) -> list[int]:
        return [0, *itertools.accumulate(self.counts)]

    def _runs(self, sources: Sequence[Leaf]) -> list[Sequence[Leaf]]:
        return [self.run(place, sources) for place in range(len(self.first))]

    def _middles(self, sources: Sequence[Leaf]) -> list[Leaf]:
        pairs = zip(self.first, self._runs(sources), strict=True)
        return [op.result(run) for op, run in pairs]


def make(
    transfer: Transfer,
    box: Box,
    sources: Sequence[Leaf],
    arrays: "Sequence[np.ndarray]",
) -> "np.ndarray":
    """One box of a transfer's result from the arrays of its parts, cast if it says so.

    Raises:
        ConvertError: a step counter does not fit the type of the result.
    """
    made = transfer.op.apply(arrays, box, sources)
    return casts.cast(made, transfer.leaf, spell(transfer.target)) if transfer.cast else made


def in_order(op: Op) -> bool:
    """Whether a box that becomes a box of as many numbers keeps them in row-major order."""
    match op:
        case Then(one, other):
            return in_order(one) and in_order(other)
        case Join(firsts, _, second):
            return in_order(second) and all(map(in_order, firsts))
    return isinstance(op, Same | Stack | Take | Concat | Slice)


def _only(sources: Sequence[Leaf], op: Op) -> Leaf:
    if len(sources) != 1:
        raise errors.ConvertError(f"{op}: expected one source, got {len(sources)}")
    return sources[0]


def _alike(sources: Sequence[Leaf], op: Op) -> Leaf:
    if not sources or len(set(sources)) > 1:
        raise errors.ConvertError(
            f"{op}: expected arrays of one shape and type, got "
            f"{', '.join(sorted(map(str, set(sources)))) or 'none'}"
        )
    return sources[0]


def _kin(sources: Sequence[Leaf], op: Op) -> Leaf:
    kinds = {source.dtype for source in sources}
    if len(kinds) != 1:
        raise errors.ConvertError(f"{op}: expected arrays of one type, got {sorted(kinds)}")
    return sources[0]


def _check_axis(op: Op, axis: int, rank: int) -> None:
    if not 0 <= axis < rank:
        raise errors.ConvertError(f"{op}: expected an axis from 0 to {rank - 1}, got {axis}")


def _moved(items: tuple, source: int, target: int) -> tuple:
    rest = [*items[:source], *items[source + 1 :]]
    rest.insert(target, items[source])
    return tuple(rest)


def _resized(items: tuple, axis: int, item: object) -> tuple:
    return (*items[:axis], item, *items[axis + 1 :])
