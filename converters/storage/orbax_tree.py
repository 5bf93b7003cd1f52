"""Orbax's own metadata of a tree, read and written as JSON, without Orbax.

Orbax opens every array to tell its shape; for a hundred thousand arrays that takes minutes. What it
writes is plain: `_METADATA` (keys, kinds of values), `array_metadatas` (random keys), `_sharding`.
"""

import base64
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from maxmig import errors
from maxmig.converters.leaves import DiskPath, Hole, check_depth, nest, spell

TREE, SHARDING, ARRAYS, STRINGS = "_METADATA", "_sharding", "array_metadatas", "_strings.json"
JAX, NUMPY, SCALAR, TEXT = "jax.Array", "np.ndarray", "scalar", "string"

HOLES = {
    "None": Hole.NONE,
    "NamedTuple": Hole.NONE,
    "Dict": Hole.EMPTY_DICT,
    "List": Hole.EMPTY_LIST,
    "Tuple": Hole.EMPTY_TUPLE,
}
TOLD = ("Tuple", "NamedTuple")  # holes of which there is no more than the kind
_HOLE_KINDS = {hole: kind for kind, hole in HOLES.items() if kind != "NamedTuple"}


@dataclass(frozen=True)
class Entry:
    """What Orbax tells of one leaf beside its array.

    Attributes:
        kind: `jax.Array`, `np.ndarray`, `scalar`, `string`, or of a hole.
        key_impl: the kind of random keys; None for other arrays.
        sharding: how it was sharded, as JSON; None when not told.
    """

    kind: str
    key_impl: str | None = None
    sharding: str | None = None

    @property
    def hole(self) -> Hole | None:
        """What is there instead of an array."""
        return HOLES.get(self.kind)

    @property
    def stored(self) -> bool:
        """Whether there is an array."""
        return self.hole is None and self.kind != TEXT


@dataclass(frozen=True)
class Tree:
    """A tree's metadata: its leaves, and how its arrays are kept.

    Attributes:
        entries: its leaves and holes.
        ocdbt: whether they are in one database.
        zarr: the version of Zarr.
        stored_fill: whether a value is stored even where all its numbers are the fill value; where
            not, as older versions of Orbax had it, what is missing is that.
    """

    entries: dict[DiskPath, Entry]
    ocdbt: bool
    zarr: int
    stored_fill: bool


def name_of(path: DiskPath) -> str:
    """Where Orbax keeps a leaf's array: the keys, joined by dots."""
    return ".".join(map(str, path))


def parse(
    tree: dict[str, Any], arrays: Iterable[dict[str, Any]], shardings: dict[str, Any], where: str
) -> Tree:
    """Reads the three documents.

    Raises:
        CheckpointError: they are not what Orbax writes, or two leaves have one place.
    """
    try:
        impls = {
            entry["array_metadata"]["param_name"]: entry["array_metadata"]["ext_metadata"][
                "random_key_impl"
            ]
            for document in arrays
            for entry in document.get("array_metadatas", [])
            if (entry["array_metadata"].get("ext_metadata") or {}).get("random_key_impl")
        }
        told = {
            base64.b64decode(key).decode(): sys.intern(value) for key, value in shardings.items()
        }
        entries: dict[DiskPath, Entry] = {}
        names: dict[str, DiskPath] = {}
        for entry in tree["tree_metadata"].values():
            path = tuple(
                int(key["key"]) if key["key_type"] == 1 else str(key["key"])
                for key in entry["key_metadata"]
            )
            check_depth(path)
            name = name_of(path)
            kind = entry["value_metadata"]["value_type"]
            found = Entry(kind, impls.get(name), told.get(name))
            if path in entries or (found.hole is None and name in names):
                other = spell(names.get(name, path))
                raise ValueError(f"{spell(path)} and {other} are both kept as {name!r}")
            entries[path] = found
            names[name] = path
        nest({("tree", *path): entry.kind for path, entry in entries.items()})  # it must be one
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise errors.CheckpointError(
            f"{where}: expected the metadata of an Orbax tree, but reading them failed: "
            f"{type(error).__name__}: {error}; the checkpoint is damaged: take another step or "
            "another copy"
        ) from error
    return Tree(
        entries,
        bool(tree.get("use_ocdbt", False)),
        3 if tree.get("use_zarr3", False) else 2,
        bool(tree.get("store_array_data_equal_to_fill_value", False)),
    )


@dataclass(frozen=True)
class Stored:
    """What is written of one array: its entry and the shapes of its chunks."""

    entry: Entry
    stored: tuple[int, ...]
    inner: tuple[int, ...]


def documents(
    arrays: Mapping[DiskPath, Stored],
    holes: Mapping[DiskPath, Hole],
    *,
    ocdbt: bool,
    zarr: int,
    stored_fill: bool = True,
    kinds: Mapping[DiskPath, str] | None = None,
    strings: Mapping[DiskPath, str] | None = None,
) -> dict[str, bytes]:
    """The files of a new tree's metadata, by name.

    Args:
        arrays: the leaves that are arrays.
        holes: what is empty.
        ocdbt: see `Tree`.
        zarr: see `Tree`.
        stored_fill: see `Tree`.
        kinds: the kinds of holes that are `TOLD`.
        strings: the leaves that are texts.
    """
    strings = strings or {}
    kinds = kinds or {}
    told: dict[str, Any] = {}
    for path, array in arrays.items():
        value: dict[str, Any] = {"value_type": array.entry.kind, "skip_deserialize": False}
        if array.entry.kind == JAX:
            value["write_shape"] = list(array.stored)
        told[_spelt(path)] = {"key_metadata": _keys(path), "value_metadata": value}
    for path in strings:
        value = {"value_type": TEXT, "skip_deserialize": False}
        told[_spelt(path)] = {"key_metadata": _keys(path), "value_metadata": value}
    for path, hole in holes.items():
        kind = kinds.get(path, "")
        kind = kind if kind in TOLD and HOLES[kind] is hole else _HOLE_KINDS[hole]
        value = {"value_type": kind, "skip_deserialize": True}
        told[_spelt(path)] = {"key_metadata": _keys(path), "value_metadata": value}
    tree = {
        "tree_metadata": told,
        "use_ocdbt": ocdbt,
        "use_zarr3": zarr == 3,
        "store_array_data_equal_to_fill_value": stored_fill,
        "custom_metadata": None,
    }
    described = [
        {
            "array_metadata": {
                "param_name": name_of(path),
                "write_shape": list(array.stored),
                "chunk_shape": list(array.inner),
                "ext_metadata": {"random_key_impl": array.entry.key_impl}
                if array.entry.key_impl
                else None,
            }
        }
        for path, array in arrays.items()
        if array.entry.kind == JAX
    ]
    shardings = {
        base64.b64encode(name_of(path).encode()).decode(): array.entry.sharding
        for path, array in arrays.items()
        if array.entry.kind == JAX and array.entry.sharding is not None
    }
    found = {TREE: tree, f"{ARRAYS}/process_0": {"array_metadatas": described}}
    if shardings:
        found[SHARDING] = shardings
    if strings:
        found[STRINGS] = _pointed(strings)
    return {name: json.dumps(document).encode() for name, document in found.items()}


def text(document: Any, path: DiskPath) -> str:
    """A string out of `_strings.json`, where it is by a JSON pointer of its name.

    Raises:
        ValueError: it is not there.
    """
    for key in _pointer(path):
        document = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(document, str):
        raise ValueError(f"{spell(path)}: expected a string in {STRINGS}, but there is none")
    return document


def _pointed(strings: Mapping[DiskPath, str]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for path, value in strings.items():
        *above, last = _pointer(path)
        node = document
        for key in above:
            node = node.setdefault(key, {})
        node[last] = value
    return document


def _pointer(path: DiskPath) -> list[str]:
    return [key.replace("~1", "/").replace("~0", "~") for key in name_of(path).split("/")]


def _spelt(path: DiskPath) -> str:
    return str(tuple(map(str, path)))


def _keys(path: DiskPath) -> list[dict[str, Any]]:
    return [{"key": str(key), "key_type": 1 if isinstance(key, int) else 2} for key in path]
