"""The fingerprint of one array: the same however it is stored, stacked, chunked or sharded.

An array is cut into *tiles*, boxes of at most 65,536 elements on a grid that follows from its shape
alone. A tile's digest is BLAKE2b (16 bytes) of its elements in row-major order, little-endian, bit
by bit (-0.0 and the payload of a NaN count). The fingerprint is BLAKE2b (32 bytes) of the type,
the shape and the digests of all tiles in row-major order. So tiles may come in any order, as the
stored chunks give them, and no more than what lies in unfinished tiles is held.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maxmig.converters.leaves import Leaf
from maxmig.converters.transfers import Box, shape_of

if TYPE_CHECKING:
    import numpy as np

ELEMENTS = 1 << 16
ROW = 1 << 10
_PERSON = b"maxmig leaf 1"


def tile_shape(shape: tuple[int, ...], apart: int | None = None) -> tuple[int, ...]:
    """The shape of a tile: up to 1,024 elements of the last axis, then as much as fits.

    Args:
        shape: the array's shape.
        apart: an axis whose places are to lie in different tiles; fingerprints have none.
    """
    found: list[int] = []
    left = ELEMENTS
    for place, size in enumerate(reversed(shape)):
        most = ROW if place == 0 and len(shape) > 1 else left
        if apart == len(shape) - 1 - place:
            most = 1
        found.insert(0, max(1, min(size, most)))
        left //= found[0]
    return tuple(found)


@dataclass
class _Open:
    """A tile of which some elements are still to come."""

    array: "np.ndarray"
    missing: int


@dataclass
class Tiles:
    """Takes the boxes of one array, in any order, and tells its fingerprint.

    Attributes:
        leaf: its shape and type.
        tile: the shape of a tile; the usual one makes the fingerprint comparable with others.
    """

    leaf: Leaf
    tile: tuple[int, ...] = ()
    _done: dict[int, bytes] = field(default_factory=dict, repr=False)
    _open: dict[int, _Open] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.tile = self.tile or tile_shape(self.leaf.shape)
        sizes = zip(self.leaf.shape, self.tile, strict=True)
        self.counts = tuple(-(-size // tile) for size, tile in sizes)

    @property
    def pending(self) -> int:
        """The bytes that are held in unfinished tiles."""
        return sum(each.array.nbytes for each in self._open.values())

    def feed(self, box: Box, array: "np.ndarray") -> None:
        """Takes one box; boxes must not overlap. Words of random keys ride in a last axis."""
        array = _elements(array, len(box))
        for flat, tile, part in self._parts(box):
            here = tuple(
                slice(start - begin, stop - begin)
                for (start, stop), (begin, _) in zip(part, box, strict=True)
            )
            if part == tile:
                self._done[flat] = _digest(array[here])
                continue
            unfinished = self._open.get(flat)
            if unfinished is None:
                import numpy as np

                shape = shape_of(tile)
                unfinished = _Open(np.empty(shape, array.dtype), math.prod(shape))
                self._open[flat] = unfinished
            there = tuple(
                slice(start - begin, stop - begin)
                for (start, stop), (begin, _) in zip(part, tile, strict=True)
            )
            unfinished.array[there] = array[here]
            unfinished.missing -= math.prod(shape_of(part))
            if not unfinished.missing:
                self._done[flat] = _digest(self._open.pop(flat).array)

    def digest(self) -> str:
        """The fingerprint, in hexadecimal.

        Raises:
            ValueError: some of the array has not come.
        """
        count = math.prod(self.counts)
        if len(self._done) != count or self._open:
            raise ValueError(f"{len(self._done)} of {count} tiles of {self.leaf} have come")
        told = hashlib.blake2b(digest_size=32, person=_PERSON)
        told.update(json.dumps([self.leaf.dtype, list(self.leaf.shape)]).encode())
        for flat in range(count):
            told.update(self._done[flat])
        return told.hexdigest()

    def _parts(self, box: Box) -> Iterator[tuple[int, Box, Box]]:
        """The tiles that a box touches: their places, their boxes, what they share with it."""
        spans = [
            range(start // tile, -(-stop // tile))
            for (start, stop), tile in zip(box, self.tile, strict=True)
        ]
        for index in itertools.product(*spans):
            flat = 0
            for at, count in zip(index, self.counts, strict=True):
                flat = flat * count + at
            whole = tuple(
                (at * tile, min((at + 1) * tile, size))
                for at, tile, size in zip(index, self.tile, self.leaf.shape, strict=True)
            )
            part = tuple(
                (max(a, start), min(b, stop))
                for (a, b), (start, stop) in zip(whole, box, strict=True)
            )
            yield flat, whole, part


def _elements(array: "np.ndarray", rank: int) -> "np.ndarray":
    """The array with plain words instead of numbers: one for each element."""
    import numpy as np

    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.ndim > rank:
        array = np.ascontiguousarray(array)
        size = array.dtype.itemsize * math.prod(array.shape[rank:])
        return array.reshape(*array.shape[:rank], -1).view(f"V{size}")[..., 0]
    size = array.dtype.itemsize
    return array.view(f"u{size}" if size in (1, 2, 4, 8) else f"V{size}")


def _digest(array: "np.ndarray") -> bytes:
    import numpy as np

    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).digest()
