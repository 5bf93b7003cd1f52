"""Arrays that lie uncompressed in one file: read box by box through a map of the file."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.converters import casts, transfers
from maxmig.converters.leaves import DiskPath, Hole, Leaf, spell
from maxmig.converters.storage.base import Grid
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 64 << 20


@dataclass(frozen=True)
class Extent:
    """Where the numbers of an array lie, in row-major order.

    Attributes:
        file: the file.
        pieces: (place in the file, number of elements) of each contiguous piece.
    """

    file: Path
    pieces: tuple[tuple[int, int], ...]


class Mapped:
    """A container of arrays that lie as they are in files.

    Args:
        url: the file or directory, for messages.
        arrays: each array with its place.
        holes: where there is none.
        told: the custom metadata.

    Attributes:
        strings: the texts of the leaves that are strings; most containers know none.
    """

    container = "file"
    step: int | None = None

    def __init__(
        self,
        url: str,
        arrays: dict[DiskPath, tuple[Leaf, Extent]],
        holes: dict[DiskPath, Hole],
        told: dict[str, Any],
    ):
        self.url = url
        self.strings: Mapping[DiskPath, str] = {}
        self._arrays, self._holes, self._told = arrays, holes, told
        self._files = sorted({extent.file for _, extent in arrays.values()} | {Path(url)})

    def tree(self) -> dict[DiskPath, Leaf | Hole]:
        """All leaves and holes with shapes and types."""
        return {path: leaf for path, (leaf, _) in self._arrays.items()} | self._holes

    def metadata(self) -> dict[str, Any]:
        """The custom metadata; empty where the container has no place for them."""
        return dict(self._told)

    def grid(self, path: DiskPath) -> Grid:
        """Whole rows of at most 64 MiB: nothing is encoded, so the cut is ours to choose."""
        leaf = self._arrays[path][0]
        chunk = rows(leaf, _CHUNK)
        nbytes = leaf.reshaped(chunk).nbytes
        return Grid(leaf.shape, tuple(max(1, size) for size in chunk), chunk, None, nbytes)

    def read(self, path: DiskPath, box: Box | None = None) -> "np.ndarray":
        """One box of a leaf, or all of it; random keys as their words."""
        import numpy as np

        leaf, extent = self._arrays[path]
        box = transfers.whole(leaf) if box is None else box
        dtype = casts.numpy_dtype(leaf.dtype)
        try:
            if not math.prod(leaf.shape):
                return np.empty((*transfers.shape_of(box), *leaf.stored[len(leaf.shape) :]), dtype)
            if len(extent.pieces) == 1:
                index = tuple(slice(start, stop) for start, stop in box)
                offset = extent.pieces[0][0]
                mapped = np.memmap(extent.file, dtype, "r", offset, leaf.stored)
                return np.array(mapped[index])
            return self._gather(leaf, extent, box, dtype)
        except (OSError, ValueError) as error:
            raise errors.CheckpointError(
                f"{self.url}: {spell(path)}: {leaf} cannot be read: {error}; the file is cut off "
                "or damaged: take another copy"
            ) from error

    def _gather(self, leaf: Leaf, extent: Extent, box: Box, dtype: "np.dtype") -> "np.ndarray":
        """A box of an array in several pieces: its rows are collected, then cut."""
        import numpy as np

        row = math.prod(leaf.stored[1:])
        first, last = box[0][0] * row, box[0][1] * row
        found, begin = [], 0
        for offset, count in extent.pieces:
            start, stop = max(first, begin), min(last, begin + count)
            if start < stop:
                at = offset + (start - begin) * dtype.itemsize
                found.append(np.fromfile(extent.file, dtype, stop - start, offset=at))
            begin += count
        joined = np.concatenate(found) if found else np.empty(0, dtype)
        block = joined.reshape((box[0][1] - box[0][0], *leaf.stored[1:]))
        return np.array(block[(slice(None), *(slice(start, stop) for start, stop in box[1:]))])

    def fingerprint(self) -> str:
        """Names, sizes and times of the files."""
        told = hashlib.sha256()
        for file in self._files:
            stat = file.stat()
            told.update(f"{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return told.hexdigest()


def rows(leaf: Leaf, limit: int) -> tuple[int, ...]:
    """The largest row-major slab of a leaf that is at most `limit` bytes, or one number."""
    chunk = list(leaf.shape)
    for axis in range(len(chunk)):
        size = leaf.reshaped(tuple(chunk)).nbytes
        if size <= limit:
            break
        chunk[axis] = max(1, chunk[axis] * limit // size)
    return tuple(chunk)
