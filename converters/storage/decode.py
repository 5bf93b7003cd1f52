"""Decodes single values of Zarr arrays in the forms that Orbax writes, in one pass.

TensorStore reads every form, but copies a chunk several times between the file and the array, which
is more work than decoding it. What is not exactly of these forms, or does not decode to exactly
what its metadata tell, is left to TensorStore, which also knows best what is wrong with it.
"""

import contextlib
import io
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from maxmig.converters import casts
from maxmig.converters.storage import files, forms
from maxmig.converters.storage.zarr import Array
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np

Stored = bytes | files.Part
_READ = 512 << 10  # bytes that are read at once, so that they are decoded in the cache


class Unknown(Exception):
    """A value is not decoded here: TensorStore reads it, or tells what is wrong with it."""


def decode(array: Array, value: Stored, *, narrowed: bool = False) -> "np.ndarray | None":
    """The numbers of one stored value, in the shape of `array.stored`; None: ask TensorStore.

    Args:
        array: its metadata.
        value: the stored value.
        narrowed: float32 becomes bfloat16 on the way, so that float32 is never held.
    """
    try:
        return _narrowed(array, value) if narrowed else _plain(array, value)
    except Unknown:
        return None


def blocks(array: Array, value: Stored, count: int | None = None) -> "Iterator[np.ndarray]":
    """The numbers of one stored value in row-major order, in blocks as they are decoded.

    Each block is overwritten by the next.

    Args:
        array: its metadata.
        value: the stored value.
        count: of the numbers that are wanted, without padding at its end; None: all.

    Raises:
        Unknown: ask TensorStore, which may be told after some blocks.
    """
    import numpy as np

    total = math.prod(array.stored)
    wanted = total if count is None else count
    block = np.empty(min(casts.BLOCK, total), np.dtype(array.dtype))
    with _opened(array, value) as reader:
        for start in range(0, total, block.size):
            part = block[: total - start]
            _fill(reader, part)
            if start < wanted:
                yield part[: wanted - start]


def holds(array: Array, value: Stored, data: "np.ndarray") -> bool | None:
    """Whether a stored value has the bits of a box that fills it; None: ask TensorStore.

    They are compared while they are decoded, and never held as a whole.
    """
    import numpy as np

    wanted, at = np.ascontiguousarray(data).reshape(-1).view(np.uint8), 0
    try:
        for block in blocks(array, value, data.size):
            found = block.view(np.uint8)
            if not np.array_equal(found, wanted[at : at + found.size]):
                return False
            at += found.size
    except Unknown:
        return None
    return True


@contextlib.contextmanager
def _opened(array: Array, value: Stored) -> Iterator[Any]:
    """A reader of the decoded bytes of a value, all of which must be read.

    Raises:
        Unknown: its form is not for us, or it is of another size, or damaged.
    """
    import zstandard

    form = forms.of(array)
    if form is None or (form.sharded and not forms.alone(value)):
        raise Unknown
    size = len(value) - (forms.INDEX if form.sharded else 0)
    source: Any = memoryview(value)[:size] if isinstance(value, bytes) else value.upto(size)
    if not form.compressed:
        reader = io.BytesIO(source) if isinstance(source, memoryview) else source
        yield reader
        _check_end(reader)
        return
    decompressor = zstandard.ZstdDecompressor()
    try:
        with decompressor.stream_reader(source, read_size=_READ, read_across_frames=True) as reader:
            yield reader
            _check_end(reader)
    except zstandard.ZstdError as error:
        raise Unknown from error


def _check_end(reader: Any) -> None:
    if reader.read(1):
        raise Unknown


def _plain(array: Array, value: Stored) -> "np.ndarray":
    import numpy as np

    made = np.empty(array.stored, np.dtype(array.dtype))
    with _opened(array, value) as reader:
        _fill(reader, made)
    return made


def _narrowed(array: Array, value: Stored) -> "np.ndarray":
    import ml_dtypes
    import numpy as np

    if array.dtype != "float32":
        raise Unknown
    made = np.empty(math.prod(array.stored), ml_dtypes.bfloat16)
    room = np.empty(min(casts.BLOCK, made.size), np.uint32)
    at = 0
    for block in blocks(array, value):
        casts.into(made[at : at + block.size], block, room)
        at += block.size
    return made.reshape(array.stored)


def _fill(reader: Any, array: "np.ndarray") -> None:
    """Fills an array with the next bytes.

    Raises:
        Unknown: there are not enough.
    """
    import numpy as np

    room, at = array.reshape(-1).view(np.uint8).data, 0
    while at < len(room):
        count = reader.readinto(room[at:])
        if not count:
            raise Unknown
        at += count


def box(
    array: Array, part: Box, value: Stored | None, *, narrowed: bool = False
) -> "np.ndarray | None":
    """A box of an array, out of the stored value that holds it; None: ask TensorStore."""
    found = None if value is None else decode(array, value, narrowed=narrowed)
    return None if found is None else found[_inside(array, part)]


def _inside(array: Array, part: Box) -> tuple[slice, ...]:
    """Where a box is in the stored value that holds it; padding beyond the array is left out."""
    words = tuple((0, size) for size in array.shape[len(part) :])
    found = zip((*part, *words), array.stored, strict=True)
    return tuple(slice(start % size, (stop - 1) % size + 1) for (start, stop), size in found)
