"""The forms of stored values that are decoded here: those that Orbax writes.

A value is the numbers of one chunk, row-major and little-endian, as they are or as one Zstandard
frame; in version 3 of Zarr it may be a shard of that one part, with the shard's index behind it.
"""

import functools
import sys
from typing import TYPE_CHECKING, NamedTuple

from maxmig.converters.storage.zarr import Array
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    from maxmig.converters.storage import files

INDEX = 20  # bytes: the place and the size of the only part of a shard, and their CRC-32C
_TYPES = {"bfloat16", *(f"float{bits}" for bits in (16, 32, 64))}
_TYPES |= {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_BYTES = (
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "bytes"},  # of one byte each
)
_INDEX_CODECS = [_BYTES[0], {"name": "crc32c"}]


class Form(NamedTuple):
    """How values are stored.

    Attributes:
        compressed: by Zstandard.
        sharded: each as a shard of one part.
    """

    compressed: bool
    sharded: bool


def of(array: Array) -> Form | None:
    """The form of an array's values; None where it is none of these."""
    if array.dtype not in _TYPES or not array.plain or sys.byteorder != "little":
        return None
    return _of_v2(array) if array.version == 2 else _of_v3(array)


def _of_v2(array: Array) -> Form | None:
    told = array.document
    compressor = told.get("compressor")
    compressed = isinstance(compressor, dict) and compressor.get("id") == "zstd"
    if not (compressed or compressor is None) or str(told["dtype"]).startswith(">"):
        return None
    return Form(compressed, sharded=False)


def _of_v3(array: Array) -> Form | None:
    codecs = array.document["codecs"]
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
    return Form(names[-1] == "zstd", sharded)


def fills(array: Array, part: Box) -> bool:
    """Whether a box of an array is one stored value, but for padding at the value's end."""
    before = True  # whether there is one place along all axes before
    for (start, stop), size, extent in zip(part, array.stored, array.shape, strict=False):
        if start % size or stop <= start or stop - start > size:
            return False
        if stop - start < size and not (before and stop == extent):
            return False
        before = before and stop - start == 1
    return len(part) == len(array.stored)


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


def alone(shard: "bytes | files.Part") -> bool:
    """Whether the index of a shard tells of one part, which is all of it."""
    size = len(shard) - INDEX
    return size >= 0 and shard[size:] == _index(size)


def _index(size: int) -> bytes:
    """The index of a shard of one part of so many bytes."""
    told = (0).to_bytes(8, "little") + size.to_bytes(8, "little")
    return told + _crc32c(told).to_bytes(4, "little")


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
