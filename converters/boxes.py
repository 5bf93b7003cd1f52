"""Boxes of arrays: cut by a grid of chunks, or followed where only the shape changes."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

from maxmig.converters.transfers import Box, shape_of


def runs(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[range, range]]:
    """Runs of axes that hold the same elements before and after, as short as they can be."""
    if not math.prod(old):
        return [(range(len(old)), range(len(new)))]
    found = []
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        a = old[i] if i < len(old) else 1
        b = new[j] if j < len(new) else 1
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while a != b:
            if a < b:
                a *= old[i]
                i += 1
            else:
                b *= new[j]
                j += 1
        found.append((range(start_i, i), range(start_j, j)))
    return found


def chunks(box: Box, chunk: Sequence[int]) -> Iterator[Box]:
    """The parts of a box that lie in one chunk each, of a grid that begins at 0; row-major."""
    axes = []
    for (start, stop), size in zip(box, chunk, strict=True):
        begins = range(start // size * size, stop, size)
        axes.append([(max(begin, start), min(begin + size, stop)) for begin in begins])
    return itertools.product(*axes)


def span(box: Box, shape: tuple[int, ...]) -> tuple[int, int]:
    """The first and the last row-major place in a box; (0, -1) when it is empty."""
    if any(stop <= start for start, stop in box):
        return 0, -1
    return linear([start for start, _ in box], shape), linear([s - 1 for _, s in box], shape)


def linear(index: Sequence[int], shape: tuple[int, ...]) -> int:
    """The row-major place of an index."""
    place = 0
    for at, size in zip(index, shape, strict=True):
        place = place * size + at
    return place


def consecutive(box: Box, parts: Iterable[Box]) -> bool:
    """Whether parts of a box, one after another, are all of it in row-major order."""
    shape = shape_of(box)
    begin = 0
    for part in parts:
        inside = tuple((a - low, b - low) for (a, b), (low, _) in zip(part, box, strict=True))
        first, last = span(inside, shape)
        if first != begin or last - first + 1 != math.prod(shape_of(part)):
            return False
        begin = last + 1
    return begin == math.prod(shape)


def cover(first: int, last: int, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The smallest box of whole rows that holds a range of row-major places."""
    found: list[tuple[int, int]] = []
    for axis in range(len(shape)):
        row = math.prod(shape[axis + 1 :])
        start, stop = (first // row, last // row + 1) if row and last >= first else (0, 0)
        found.append((start, stop))
        if stop - start != 1:
            found.extend((0, size) for size in shape[axis + 1 :])
            break
        first, last = first - start * row, last - start * row
    return found
