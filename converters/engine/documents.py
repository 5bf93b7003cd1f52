"""Orbax's own files of a result: what makes a directory of arrays an ordinary checkpoint."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from maxmig import errors
from maxmig.converters import ops, places
from maxmig.converters.engine import routes, shardings
from maxmig.converters.engine.routes import Route
from maxmig.converters.leaves import DiskPath, spell
from maxmig.converters.storage import files, kv, orbax, orbax_tree, zarr
from maxmig.converters.transfers import Conversion, Made

ITEMS = "items"
_NAME = 255  # bytes of a file's name
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PYTHON = ("int64", "float64")  # the types of Python's own numbers
_HANDLER = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"


def item_names(conversion: Conversion) -> tuple[str, ...]:
    """The items that hold the tree in the result's step: those of its layout, or one, called as in
    the source, where it has one; none where the tree stands alone, without a number.

    A project's own `CheckpointManager` asks for its tree by this name.
    """
    if conversion.items or conversion.step is None:
        return conversion.items
    source = conversion.storage
    held = source.item_names if isinstance(source, orbax.Orbax) else ()
    if len(held) != 1:
        return (ITEMS,)
    files.check_name(held[0], source.url)
    return held


def beside(conversion: Conversion) -> tuple[list[str], list[str]]:
    """What else is in the source's step: the files that the result takes over (the data loader's
    state, metrics), and the items that hold other trees, which it does not.
    """
    source = conversion.storage
    if not isinstance(source, orbax.Orbax) or not source.item_names:
        return [], []
    names = files.Files(str(source.step_dir)).names("")
    trees = {name.partition("/")[0] for name in names if name.endswith(f"/{orbax_tree.TREE}")}
    known = trees | set(source.item_names)
    found = []
    for name in names:
        first, slash, _ = name.partition("/")
        if slash and first not in known:
            files.check_name(name, source.url)
            found.append(name)
    return found, sorted(trees - set(source.item_names))


def made_arrays(conversion: Conversion, version: int) -> "dict[DiskPath, zarr.Array]":
    """The stored form of the leaves that have no source: one chunk each."""
    return {
        item.target: routes.new_array(item.leaf, version, (max(1, s) for s in item.leaf.shape))
        for item in conversion.made
    }


def tree(
    conversion: Conversion,
    chosen: Sequence[Route],
    made: Mapping[DiskPath, zarr.Array],
    *,
    ocdbt: bool,
    version: int,
) -> dict[str, bytes]:
    """The files that tell the tree, by name; where several items hold it, in a folder for each."""
    source = conversion.storage if isinstance(conversion.storage, orbax.Orbax) else None
    entries = source.told.entries if source else {}
    neutral = shardings.replicated([e.sharding for e in entries.values() if e.key_impl is None])
    arrays: dict[DiskPath, orbax_tree.Stored] = {}
    for route in chosen:
        entry = _entry(route, source, entries)
        arrays[route.transfer.target] = orbax_tree.Stored(
            entry, route.array.stored, route.array.inner
        )
    for item in conversion.made:
        array = made[item.target]
        entry = _made_entry(item, neutral)
        arrays[item.target] = orbax_tree.Stored(entry, array.stored, array.inner)
    kinds = {tuple(path): kind for path, kind in conversion.spelling.get("holes", ())}
    strings = conversion.strings
    if not conversion.items:
        return orbax_tree.documents(
            arrays,
            conversion.holes,
            ocdbt=ocdbt,
            zarr=version,
            stored_fill=_stored_fill(source, chosen),
            kinds=kinds,
            strings=strings,
        )
    found: dict[str, bytes] = {}
    for part in conversion.items:
        inside = {path[1:]: array for path, array in arrays.items() if path[0] == part}
        holes = {path[1:]: hole for path, hole in conversion.holes.items() if path[0] == part}
        told = orbax_tree.documents(
            inside,
            holes,
            ocdbt=ocdbt,
            zarr=version,
            stored_fill=_stored_fill(
                source, [route for route in chosen if route.transfer.target[0] == part]
            ),
            kinds={path[1:]: kind for path, kind in kinds.items() if path[0] == part},
            strings={path[1:]: text for path, text in strings.items() if path[0] == part},
        )
        found |= {f"{part}/{name}": data for name, data in told.items()}
    return found


def _stored_fill(source: orbax.Orbax | None, chosen: Iterable[Route]) -> bool:
    """Whether all values are stored: what is not in the source, its shared values do not have."""
    if source is None:
        return True
    kept = (route.transfer for route in chosen if route.kind != routes.STREAM)
    return all(source.part(at).told.stored_fill for each in kept for at in each.sources)


def _entry(
    route: Route, source: orbax.Orbax | None, entries: Mapping[DiskPath, orbax_tree.Entry]
) -> orbax_tree.Entry:
    transfer = route.transfer
    impl = transfer.leaf.impl
    if source is None:
        return _of_file(impl)
    mine = [entries[path] for path in transfer.sources]
    kinds = {entry.kind for entry in mine}
    if isinstance(transfer.op, ops.Same):
        kind = mine[0].kind
        if transfer.cast and not transfer.leaf.shape:  # such as a step: a plain number, or not
            array = orbax_tree.NUMPY if kind == orbax_tree.SCALAR else kind
            plain = transfer.number or transfer.leaf.dtype in _PYTHON
            kind = orbax_tree.SCALAR if plain else array
    else:
        kind = orbax_tree.JAX if impl or orbax_tree.JAX in kinds else orbax_tree.NUMPY
    told = [entry.sharding for entry in mine]
    rank = source.rank(transfer.sources[0])
    sharding = None
    if kind == orbax_tree.JAX:
        sharding = shardings.of(transfer.op, told, rank, transfer.leaf.shape)
    return orbax_tree.Entry(kind, impl, sharding or (shardings.ALONE if impl else None))


def _made_entry(item: Made, sharding: str | None) -> orbax_tree.Entry:
    impl = item.leaf.impl
    return orbax_tree.Entry(orbax_tree.JAX, impl, sharding) if sharding else _of_file(impl)


def _of_file(impl: str | None) -> orbax_tree.Entry:
    """An array of which nobody told how it was sharded."""
    if impl is None:
        return orbax_tree.Entry(orbax_tree.NUMPY)
    return orbax_tree.Entry(orbax_tree.JAX, impl, shardings.ALONE)


def step(conversion: Conversion, others: Iterable[str]) -> bytes:
    """The step's own file: who wrote which item, when, and the custom metadata.

    Args:
        conversion: what was done.
        others: the names of further items that are taken over.
    """
    import json

    told: dict[str, Any] = {}
    source = conversion.storage
    if isinstance(source, orbax.Orbax):
        data = files.Files(source.url).read(places.STEP_METADATA)
        if data is not None:
            told = places.load_json(data, kv.join(source.url, places.STEP_METADATA))
    known = told.get("item_handlers")
    handlers: Any = _HANDLER
    if names := item_names(conversion):
        handlers = (
            {name: known[name] for name in others if name in known}
            if (isinstance(known, dict))
            else {}
        )
        handlers |= dict.fromkeys(names, _HANDLER)
    now = time.time_ns()
    return json.dumps(
        {
            "item_handlers": handlers,
            "metrics": told.get("metrics") or {},
            "performance_metrics": {},
            "init_timestamp_nsecs": now,
            "commit_timestamp_nsecs": now,
            "custom_metadata": dict(conversion.metadata),
        }
    ).encode()


def check_leaves(conversion: Conversion, *, ocdbt: bool) -> None:
    """Refuses leaves that the result cannot hold: names that cannot be kept apart, or would lie
    outside of the directory, or are too long for files; types that TensorStore does not know.

    Raises:
        ConvertError: names the leaves.
    """
    if conversion.container == "orbax":
        _check_types(conversion)
    seen: dict[str, DiskPath] = {}
    for path in conversion.leaves:
        name = orbax_tree.name_of(path)
        if name in seen:
            raise errors.ConvertError(
                f"{spell(path)} and {spell(seen[name])}: both would be kept as {name!r}; "
                "rename one of them"
            )
        seen[name] = path
        if conversion.container != "orbax":
            continue
        parts = name.split("/")
        odd = _CONTROL.search(name) is not None
        if ".." in parts or (not ocdbt and (odd or "" in parts or "." in parts)):
            raise errors.ConvertError(
                f"the leaf name {name!r} is no safe name of a file: it is refused; rename the leaf"
            )
        longest = max((len(part.encode()) for part in parts), default=0)
        if not ocdbt and longest > _NAME:
            raise errors.ConvertError(
                f"{spell(path)}: its name has a part of {longest} bytes, and a file's name takes "
                f"{_NAME} at most: write one database with --ocdbt, or rename the leaf"
            )
        if not name:
            raise errors.ConvertError("a leaf without a name cannot be kept in an Orbax tree")


def _check_types(conversion: Conversion) -> None:
    import tensorstore as ts

    for dtype, path in {leaf.dtype: path for path, leaf in conversion.leaves.items()}.items():
        try:
            ts.dtype("uint32" if dtype.startswith("key<") else dtype)
        except (ValueError, TypeError) as error:
            raise errors.ConvertError(
                f"{spell(path)}: an Orbax checkpoint cannot hold {dtype}; leave it out, or choose "
                "another container"
            ) from error
