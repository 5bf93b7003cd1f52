"""Zarr arrays as their metadata tell them: versions 2 and 3, sharded or not.

A stored value is a pure function of the numbers in it, of the shape of its chunk and of the codecs.
So arrays whose chunks have the same extents, but for extents of 1, can share values.
"""

import functools
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from maxmig import errors

METADATA = {2: ".zarray", 3: "zarr.json"}
_V2_KINDS = {"bool": "|b1"}
_V2_LETTERS = {"float": "f", "int": "i", "uint": "u", "complex": "c"}


@dataclass(frozen=True)
class Array:
    """The metadata of one array.

    Attributes:
        version: of Zarr, 2 or 3.
        shape: as stored; random keys with their words.
        dtype: a NumPy name.
        stored: the shape of one value (a shard).
        inner: the shape of what is decoded at once, a divisor of `stored`.
        plain: whether the order of bytes in a value is row-major: extents of 1 then do not matter.
        document: the JSON.
    """

    version: int
    shape: tuple[int, ...]
    dtype: str
    stored: tuple[int, ...]
    inner: tuple[int, ...]
    plain: bool
    document: dict[str, Any]

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of values along each axis."""
        sizes = zip(self.shape, self.stored, strict=True)
        return tuple(-(-size // chunk) for size, chunk in sizes)

    def indices(self) -> Iterator[tuple[int, ...]]:
        """The places of all values."""
        return itertools.product(*map(range, self.counts))

    def key(self, index: tuple[int, ...]) -> str:
        """The name of a value below the array's own name."""
        if self.version == 2:
            separator = self.document.get("dimension_separator", ".")
            return separator.join(map(str, index)) or "0"
        encoding = self.document.get("chunk_key_encoding", {})
        v2 = encoding.get("name") == "v2"
        separator = encoding.get("configuration", {}).get("separator", "." if v2 else "/")
        if v2:
            return separator.join(map(str, index)) or "0"
        return separator.join(["c", *map(str, index)])

    @functools.cached_property
    def codec(self) -> str:
        """How values are encoded, apart from shapes."""
        apart = ("shape", "chunks", "chunk_grid", "dimension_names", "attributes", "codecs")
        kept = {name: value for name, value in self.document.items() if name not in apart}
        kept["codecs"] = [
            {**codec, "configuration": {**codec["configuration"], "chunk_shape": None}}
            if codec["name"] == "sharding_indexed"
            else codec
            for codec in self.document.get("codecs", ())
        ]
        return json.dumps(kept, sort_keys=True)

    def reshaped(
        self, shape: tuple[int, ...], stored: tuple[int, ...], inner: tuple[int, ...]
    ) -> "Array":
        """The metadata of an array of another shape whose values are encoded alike."""
        document = self.document | {"shape": list(shape)}
        if self.version == 2:
            document["chunks"] = list(stored)
        else:
            if len(shape) != len(self.shape):
                document.pop("dimension_names", None)
            document["chunk_grid"] = _with_chunk(document["chunk_grid"], stored)
            document["codecs"] = [
                _with_chunk(codec, inner) if codec["name"] == "sharding_indexed" else codec
                for codec in document["codecs"]
            ]
        return Array(self.version, shape, self.dtype, stored, inner, self.plain, document)

    def encoded(self) -> bytes:
        """The metadata as they are stored."""
        return json.dumps(self.document, separators=(",", ":"), sort_keys=True).encode()


def _with_chunk(told: dict[str, Any], chunk: tuple[int, ...]) -> dict[str, Any]:
    """A part of the metadata of version 3 with another shape of chunks."""
    return told | {"configuration": told["configuration"] | {"chunk_shape": list(chunk)}}


def new(version: int, shape: tuple[int, ...], dtype: str, chunk: tuple[int, ...]) -> Array:
    """The metadata of a new array, as Orbax writes them."""
    chunk = tuple(max(1, size) for size in chunk)
    if version == 2:
        document: dict[str, Any] = {
            "chunks": list(chunk),
            "compressor": {"id": "zstd", "level": 1},
            "dimension_separator": ".",
            "dtype": _v2_dtype(dtype),
            "fill_value": None,
            "filters": None,
            "order": "C",
            "shape": list(shape),
            "zarr_format": 2,
        }
        return Array(2, shape, dtype, chunk, chunk, True, document)
    inner = {
        "chunk_shape": list(chunk),
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
        ],
        "index_codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
    }
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "sharding_indexed", "configuration": inner}],
        "fill_value": _fill(dtype),
    }
    return Array(3, shape, dtype, chunk, chunk, True, document)


def parse(version: int, data: bytes, where: str) -> Array:
    """Reads an array's metadata.

    Raises:
        CheckpointError: they are not what Zarr writes.
    """
    try:
        return _parse(version, data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise errors.CheckpointError(
            f"{where}: expected Zarr metadata of version {version}, but reading them failed: "
            f"{type(error).__name__}: {error}; the checkpoint is damaged: take another step or "
            "another copy"
        ) from error


@functools.lru_cache(maxsize=65536)
def _parse(version: int, data: bytes) -> Array:
    """Arrays of one shape, type and form share one object: there may be a hundred thousand."""
    document = json.loads(data)
    return _parse_v2(document) if version == 2 else _parse_v3(document)


def _parse_v2(document: dict[str, Any]) -> Array:
    shape, chunk = _shape(document["shape"]), _shape(document["chunks"])
    _check_chunk(shape, chunk)
    if document.get("dimension_separator", ".") not in (".", "/"):
        raise ValueError(f"dimension_separator {document['dimension_separator']!r}")
    plain = document.get("order", "C") == "C" and not document.get("filters")
    return Array(2, shape, _name(document["dtype"]), chunk, chunk, plain, document)


def _parse_v3(document: dict[str, Any]) -> Array:
    shape = _shape(document["shape"])
    if document["chunk_grid"]["name"] != "regular":
        raise ValueError(f"a chunk grid of kind {document['chunk_grid']['name']}")
    stored = _shape(document["chunk_grid"]["configuration"]["chunk_shape"])
    inner = stored
    names = []
    for codec in document["codecs"]:
        names.append(codec["name"])
        if codec["name"] == "sharding_indexed":
            inner = _shape(codec["configuration"]["chunk_shape"])
            names += [each["name"] for each in codec["configuration"]["codecs"]]
    _check_chunk(shape, stored)
    _check_chunk(stored, inner)
    known = {"sharding_indexed", "bytes", "zstd", "gzip", "blosc", "crc32c"}
    plain = set(names) <= known and not document.get("storage_transformers")
    return Array(3, shape, _name(document["data_type"]), stored, inner, plain, document)


def _shape(value: Any) -> tuple[int, ...]:
    if not all(type(size) is int and size >= 0 for size in value):
        raise ValueError(f"a shape of {value}")
    return tuple(value)


def _check_chunk(shape: tuple[int, ...], chunk: tuple[int, ...]) -> None:
    if len(shape) != len(chunk) or not all(size > 0 for size in chunk):
        raise ValueError(f"chunks of {list(chunk)} in {list(shape)}")


def _name(told: Any) -> str:
    import ml_dtypes  # noqa: F401  (registers the names)
    import numpy as np

    return np.dtype(told).name


def _v2_dtype(name: str) -> str:
    kind = name.rstrip("0123456789")
    bits = name[len(kind) :]
    if kind in _V2_LETTERS and bits.isdigit() and int(bits) >= 8:  # int4 keeps its name
        size = int(bits) // 8
        return f"{'|' if size == 1 else '<'}{_V2_LETTERS[kind]}{size}"
    return _V2_KINDS.get(name, name)


def _fill(dtype: str) -> Any:
    if dtype == "bool":
        return False
    if dtype.startswith("complex"):
        return [0.0, 0.0]
    return 0 if dtype.startswith(("int", "uint")) else 0.0


def itemsize(name: str) -> int:
    """The bytes of one number of a NumPy type."""
    import ml_dtypes  # noqa: F401
    import numpy as np

    return int(np.dtype(name).itemsize)


def nbytes(shape: tuple[int, ...], dtype: str) -> int:
    """The size of a decoded array."""
    return math.prod(shape) * itemsize(dtype)
