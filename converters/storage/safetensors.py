"""Safetensors files: a JSON header, then the arrays as they are; one file, or several and an index.

Names are flat: a leaf's path is its one name, and a layout knows how to cut it. Random keys are
stored as their uint32 words; which arrays are such, and of what kind, is in the header's metadata.
"""

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters.leaves import KEY_WORDS, DiskPath, Hole, Leaf, check_depth
from maxmig.converters.storage import files, zarr
from maxmig.converters.storage.mapped import Extent, Mapped

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
NAMES = {numpy: name for name, numpy in DTYPES.items()}
_LARGEST = 100_000_000  # bytes of a header, as the format's own reader has it
_OWN = "maxmig"


def read(path: Path) -> Mapped:
    """Opens a file, an index of files, or a directory that holds either.

    Raises:
        CheckpointError: it is not what the format says.
    """
    arrays: dict[DiskPath, tuple[Leaf, Extent]] = {}
    told: dict[str, Any] = {}
    for file in _files(path):
        header, start = _header(file)
        for name, value in (header.pop("__metadata__") or {}).items():
            told.setdefault(name, value)
        for name, entry in header.items():
            if (name,) in arrays:
                raise errors.CheckpointError(f"{file}: {name!r} is in two files")
            arrays[(name,)] = _array(file, name, entry, start)
    own = told.pop(_OWN, None)
    holes: dict[DiskPath, Hole] = {}
    if isinstance(own, str):
        custom, holes, keys = _own(path, own)
        for name, impl in keys.items():
            arrays[(name,)] = _typed(path, name, impl, arrays.get((name,)))
        told |= custom
    return Mapped(str(path), arrays, holes, told)


def _own(path: Path, text: str) -> tuple[dict[str, Any], dict[DiskPath, Hole], dict[str, Any]]:
    """What maxmig wrote into the header: custom metadata, holes, and the kinds of random keys."""
    try:
        told = json.loads(text)
        holes: dict[DiskPath, Hole] = {
            (n,): Hole(kind) for n, kind in told.get("holes", {}).items()
        }
        return dict(told.get("custom", {})), holes, dict(told.get("keys", {}))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise errors.CheckpointError(
            f"{path}: expected what maxmig writes as {_OWN!r} into the header's metadata (JSON), "
            f"but reading it failed: {error}; the file is damaged: take another copy"
        ) from error


def _typed(
    path: Path, name: str, impl: Any, stored: tuple[Leaf, Extent] | None
) -> tuple[Leaf, Extent]:
    """Random keys out of the array of their words."""
    if stored is not None and impl in KEY_WORDS:
        leaf, extent = stored
        typed = Leaf(leaf.shape[:-1], f"key<{impl}>", leaf.nbytes)
        if leaf.dtype == "uint32" and typed.stored == leaf.shape:
            return typed, extent
    told = "no such array" if stored is None else str(stored[0])
    raise errors.CheckpointError(
        f"{path}: {name}: expected the words of random keys of kind {impl!r}, as its header says, "
        f"got {told}; the file is damaged"
    )


def _files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        indexes = sorted(path.glob("*.safetensors.index.json"))
        if len(indexes) == 1:
            return _files(indexes[0])
        return sorted(path.glob("*.safetensors"))
    if path.suffix != ".json":
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        for name in names:
            files.check_name(name, str(path))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise errors.CheckpointError(
            f"{path}: expected an index of safetensors files (weight_map), got: {error}"
        ) from error
    return [path.parent / name for name in names]


def _header(file: Path) -> tuple[dict[str, Any], int]:
    with files.reading(str(file)), file.open("rb") as stream:
        size = file.stat().st_size
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > min(size - 8, _LARGEST):
            raise errors.CheckpointError(
                f"{file}: expected a safetensors file, but its header would be {length} bytes in a "
                f"file of {size}; it is cut off or something else"
            )
        try:
            header = json.loads(stream.read(length))
            if not isinstance(header, dict):
                raise ValueError(f"a header of type {type(header).__name__}")
            if not isinstance(header.setdefault("__metadata__", {}) or {}, dict):
                raise ValueError("__metadata__ that are no names with values")
            for name in header:
                check_depth(tuple(re.split("[./]", name)))
        except (ValueError, RecursionError) as error:
            raise errors.CheckpointError(
                f"{file}: expected a safetensors header (JSON), but reading it failed: {error}"
            ) from error
        return header, 8 + length


def _array(file: Path, name: str, entry: Any, start: int) -> tuple[Leaf, Extent]:
    try:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(int(size) for size in entry["shape"])
        begin, end = entry["data_offsets"]
        nbytes = zarr.nbytes(shape, dtype)
        if min((0, *shape)) < 0 or begin < 0 or end - begin != nbytes:
            raise ValueError(f"{dtype}{list(shape)} in the bytes {begin} to {end}")
        if start + end > file.stat().st_size:
            raise ValueError(f"it ends at byte {start + end}, behind the end of the file")
    except (KeyError, TypeError, ValueError) as error:
        raise errors.CheckpointError(
            f"{file}: {name}: expected the shape, type and place of an array, got: "
            f"{type(error).__name__}: {error}; the file is cut off or damaged"
        ) from error
    return Leaf(shape, dtype, nbytes), Extent(file, ((start + begin, math.prod(shape)),))


def header_of(
    leaves: Mapping[DiskPath, Leaf], holes: Mapping[DiskPath, Hole], metadata: Mapping[str, Any]
) -> tuple[bytes, dict[DiskPath, tuple[tuple[int, int], ...]], int]:
    """The start of a new file, where each array goes, and the size of the file.

    Raises:
        ConvertError: a type has no place in the format.
    """
    own = {"custom": dict(metadata)}
    if holes:
        own["holes"] = {_name(path): hole.value for path, hole in holes.items()}
    if keys := {_name(path): leaf.impl for path, leaf in leaves.items() if leaf.is_key}:
        own["keys"] = keys
    document: dict[str, Any] = {"__metadata__": {_OWN: json.dumps(own)}}
    places: dict[DiskPath, int] = {}
    end = 0
    for path, leaf in leaves.items():
        dtype = "uint32" if leaf.is_key else leaf.dtype
        if dtype not in NAMES:
            raise errors.ConvertError(
                f"{_name(path)}: a safetensors file cannot hold {leaf.dtype}; leave it out, or "
                "choose another container"
            )
        places[path] = end
        document[_name(path)] = {
            "dtype": NAMES[dtype],
            "shape": list(leaf.stored),
            "data_offsets": [end, end + leaf.nbytes],
        }
        end += leaf.nbytes
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    pieces: dict[DiskPath, tuple[tuple[int, int], ...]] = {
        path: ((start + place, math.prod(leaves[path].stored)),) for path, place in places.items()
    }
    return struct.pack("<Q", len(text)) + text, pieces, start + end


def _name(path: DiskPath) -> str:
    return ".".join(map(str, path))
