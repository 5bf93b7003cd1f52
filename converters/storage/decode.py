"""Decodes single values of Zarr arrays in the forms that Orbax writes, in one pass.

TensorStore reads every form, but copies a chunk several times between the file and the array, which
is more work than decoding it. What is not exactly of these forms, or does not decode to exactly
what its metadata tell, is left to TensorStore, which also knows best what is wrong with it.
"""

import contextlib
import functools
import io
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from maxmig.converters import casts
from maxmig.converters.storage import files
from maxmig.converters.storage.zarr import Array
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np

_TYPES = {"bfloat16", *(f"float{bits}" for bits in (16, 32, 64))}
_TYPES |= {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_BYTES = (
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "bytes"},  # of one byte each
)
_INDEX_CODECS = [_BYTES[0], {"name": "crc32c"}]
_READ = 512 << 10  # bytes that are read at once, so that they are decoded in the cache
_COMPARED = 1 << 20  # bytes that are compared at once
_INDEX = 20  # bytes: the place and the size of the only part of a shard, and their CRC-32C


def known(array: Array) -> bool:
    """Whether the values of an array are of a form that is decoded here."""
    return _form(array) is not None


def decode(
    array: Array, value: "bytes | files.Part", *, narrowed: bool = False
) -> "np.ndarray | None":
    """The numbers of one stored value, in the shape of `array.stored`; None: ask TensorStore.

    Args:
        array: its metadata.
        value: the stored value.
        narrowed: float32 becomes bfloat16 on the way, so that float32 is never held.
    """
    if narrowed and array.dtype != "float32":
        return None
    with _opened(array, value) as reader:
        if reader is None:
            return None
        found = _narrowed(reader, array) if narrowed else _plain(reader, array)
        return None if found is None or reader.read(1) else found


def holds(array: Array, value: bytes, data: "np.ndarray") -> bool | None:
    """Whether a stored value has the bits of an array of its shape; None: ask TensorStore.

    They are compared while they are decoded, and never held as a whole.
    """
    import numpy as np

    if data.shape != array.stored or data.dtype != np.dtype(array.dtype):
        return None
    wanted = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    block = np.empty(_COMPARED, np.uint8)
    with _opened(array, value) as reader:
        if reader is None:
            return None
        for start in range(0, wanted.size, _COMPARED):
            part = wanted[start : start + _COMPARED]
            if not _filled(reader, block[: part.size]):
                return None
            if not np.array_equal(block[: part.size], part):
                return False
        return None if reader.read(1) else True


@contextlib.contextmanager
def _opened(array: Array, value: "bytes | files.Part") -> Iterator[Any]:
    """A reader of the decoded bytes of a value; None where its form is not for us."""
    import zstandard

    form = _form(array)
    if form is None or (form.sharded and not _alone(value)):
        yield None
        return
    size = len(value) - (_INDEX if form.sharded else 0)
    source: Any = memoryview(value)[:size] if isinstance(value, bytes) else value.upto(size)
    if not form.compressed:
        yield io.BytesIO(source) if isinstance(source, memoryview) else source
        return
    decompressor = zstandard.ZstdDecompressor()
    with (
        contextlib.suppress(zstandard.ZstdError),  # nothing is found then
        decompressor.stream_reader(source, read_size=_READ, read_across_frames=True) as reader,
    ):
        yield reader


def _plain(reader: Any, array: Array) -> "np.ndarray | None":
    import numpy as np

    made = np.empty(array.stored, np.dtype(array.dtype))
    return made if _filled(reader, made) else None


def _narrowed(reader: Any, array: Array) -> "np.ndarray | None":
    import ml_dtypes
    import numpy as np

    made = np.empty(math.prod(array.stored), ml_dtypes.bfloat16)
    block = np.empty(min(casts.BLOCK, made.size), np.float32)
    room = np.empty(block.shape, np.uint32)
    for start in range(0, made.size, block.size):
        part = made[start : start + block.size]
        if not _filled(reader, block[: part.size]):
            return None
        casts.into(part, block[: part.size], room)
    return made.reshape(array.stored)


def _filled(reader: Any, array: "np.ndarray") -> bool:
    """Fills an array with bytes; whether there were enough."""
    import numpy as np

    room, at = array.reshape(-1).view(np.uint8).data, 0
    while at < len(room) and (count := reader.readinto(room[at:])):
        at += count
    return at == len(room)


def box(
    array: Array, part: Box, value: "bytes | files.Part | None", *, narrowed: bool = False
) -> "np.ndarray | None":
    """A box of an array, out of the stored value that holds it; None: ask TensorStore."""
    found = None if value is None else decode(array, value, narrowed=narrowed)
    return None if found is None else found[_inside(array, part)]


def only_value(array: Array, part: Box) -> tuple[int, ...] | None:
    """The place of the stored value that holds all of a box; None where it is not exactly one."""
    place = []
    for (start, stop), size in zip(part, array.stored, strict=False):
        if stop <= start or start // size != (stop - 1) // size:
            return None
        place.append(start // size)
    words = len(array.shape) - len(part)  # of random keys: in one value, or not for us
    if array.counts[len(part) :] != (1,) * words:
        return None
    return (*place, *(0,) * words)


def _inside(array: Array, part: Box) -> tuple[slice, ...]:
    """Where a box is in the stored value that holds it; padding beyond the array is left out."""
    words = tuple((0, size) for size in array.shape[len(part) :])
    found = zip((*part, *words), array.stored, strict=True)
    return tuple(slice(start % size, (stop - 1) % size + 1) for (start, stop), size in found)


class _Form(NamedTuple):
    """How values are stored: compressed by Zstandard, each as a shard of one part."""

    compressed: bool
    sharded: bool


def _form(array: Array) -> _Form | None:
    """The form of an array's values; None where it is not for us."""
    if array.dtype not in _TYPES or not array.plain or sys.byteorder != "little":
        return None
    told = array.document
    if array.version == 2:
        compressor = told.get("compressor")
        compressed = isinstance(compressor, dict) and compressor.get("id") == "zstd"
        if not (compressed or compressor is None) or str(told["dtype"]).startswith(">"):
            return None
        return _Form(compressed, sharded=False)
    codecs = told["codecs"]
    sharded = [codec["name"] for codec in codecs[:1]] == ["sharding_indexed"]
    if sharded:
        inside = codecs[0]["configuration"]
        usual = inside.get("index_codecs") == _INDEX_CODECS
        if len(codecs) > 1 or array.inner != array.stored or not usual:
            return None
        if inside.get("index_location", "end") != "end":
            return None
        codecs = inside["codecs"]
    names = [codec["name"] for codec in codecs]
    single = array.dtype in ("int8", "uint8")  # their order of bytes need not be told
    if names not in (["bytes"], ["bytes", "zstd"]) or codecs[0] not in _BYTES[: 1 + single]:
        return None
    return _Form(names[-1] == "zstd", sharded)


def _alone(shard: "bytes | files.Part") -> bool:
    """Whether the index of a shard tells of one part, which is all of it."""
    size = len(shard) - _INDEX
    if size < 0:
        return False
    told = (0).to_bytes(8, "little") + size.to_bytes(8, "little")
    return shard[size:] == told + _crc32c(told).to_bytes(4, "little")


def _crc32c(data: bytes) -> int:
    """RFC 3720, B.4, for the few bytes of an index."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _table()[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


@functools.cache
def _table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        return value

    return tuple(map(entry, range(256)))
