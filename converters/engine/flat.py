"""Results that are one file: msgpack and safetensors, written in place box by box."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.converters import casts
from maxmig.converters.engine.target import alike
from maxmig.converters.storage import msgpack, orbax_tree, safetensors, zarr
from maxmig.converters.transfers import Box, Conversion

if TYPE_CHECKING:
    import numpy as np


class FlatTarget:
    """A file whose every byte has its place before the first array is read.

    Args:
        file: where it is written.
        conversion: what goes into it.
    """

    def __init__(self, file: Path, conversion: Conversion):
        self.url = str(file)
        self._file = file
        leaves = conversion.leaves
        if conversion.container == "safetensors":
            head, places, self._size = safetensors.header_of(
                leaves, conversion.holes, conversion.metadata
            )
            self._parts = [(0, head)]
        else:
            parts, places, self._size = msgpack.header_of(
                leaves, conversion.holes, conversion.spelling, conversion.strings
            )
            self._parts = list(_joined(parts))
        self._arrays = {
            orbax_tree.name_of(path): (leaves[path], pieces) for path, pieces in places.items()
        }

    def describe(self, arrays: Iterable[tuple[str, zarr.Array]]) -> None:
        """Writes all that is no array, and makes the file as long as it will be."""
        with self._file.open("r+b" if self._file.exists() else "w+b") as stream:
            stream.truncate(self._size)
            for place, data in self._parts:
                stream.seek(place)
                stream.write(data)

    def write(
        self, name: str, array: zarr.Array, box: Box, data: "np.ndarray", transaction: Any = None
    ) -> "Written":
        """Writes one box."""
        self._write(name, box, data)
        return Written(self, name, box)

    def _write(self, name: str, box: Box, data: "np.ndarray") -> None:
        import numpy as np

        leaf, pieces = self._arrays[name]
        if not math.prod(leaf.shape):
            return
        if len(pieces) == 1:
            index = tuple(slice(start, stop) for start, stop in box)
            mapped = np.memmap(
                self._file, casts.numpy_dtype(leaf.dtype), "r+", pieces[0][0], leaf.stored
            )
            mapped[index] = data
            return
        row = math.prod(leaf.stored[1:])
        flat = np.ascontiguousarray(data).reshape(-1)
        first, begin = box[0][0] * row, 0
        with self._file.open("r+b") as stream:
            for offset, count in pieces:
                start, stop = max(first, begin), min(first + flat.size, begin + count)
                if start < stop:
                    stream.seek(offset + (start - begin) * flat.itemsize)
                    stream.write(flat[start - first : stop - first].view(np.uint8).data)
                begin += count

    def read(self, name: str, box: Box) -> "np.ndarray":
        """Reads one box back."""
        from maxmig.converters.storage.mapped import Extent, Mapped

        leaf, pieces = self._arrays[name]
        found = Mapped(self.url, {(name,): (leaf, Extent(self._file, pieces))}, {}, {})
        return found.read((name,), box)


@dataclass(frozen=True)
class Written:
    """A box that was written."""

    target: FlatTarget
    name: str
    box: Box

    def result(self) -> None:
        """It is there."""

    def holds(self, data: "np.ndarray") -> bool:
        """Whether what is there has the bits of an array, when it is read back."""
        return alike(self.target.read(self.name, self.box), data)


def check(conversion: Conversion, file: Path) -> None:
    """Reads the file's tree as a user would.

    Raises:
        ConvertError: it is not as planned.
    """
    if conversion.container == "safetensors":
        found = safetensors.read(file).tree()
        planned = {(orbax_tree.name_of(p),): leaf for p, leaf in conversion.leaves.items()}
        planned |= {(orbax_tree.name_of(p),): hole for p, hole in conversion.holes.items()}  # type: ignore[misc]
    else:
        found = msgpack.read(file).tree()
        planned = {**conversion.leaves, **conversion.holes}  # type: ignore[dict-item]
    if found != planned:
        raise errors.ConvertError(f"{file}: what was written is not what was planned")


def slabs(conversion: Conversion, path: Any, limit: int) -> tuple[int, ...]:
    """The boxes in which a leaf is written: whole rows, unless it is one contiguous piece."""
    from maxmig.converters.storage.mapped import rows

    leaf = conversion.leaves[path]
    if conversion.container == "msgpack" and leaf.nbytes > msgpack.LARGEST:
        chunk = rows(leaf, limit)
        return (chunk[0], *leaf.shape[1:])
    return rows(leaf, limit)


def _joined(parts: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Neighbouring parts together, so that few writes are needed."""
    place, held = 0, b""
    for at, data in parts:
        if at == place + len(held) and len(held) < 1 << 16:
            held += data
            continue
        if held:
            yield place, held
        place, held = at, data
    if held:
        yield place, held
