"""A step whose tree is kept in several Orbax trees, one an item, seen as one tree.

The first key of a path names the item: Tunix keeps `model_params` and `optimizer_state` so.
"""

import functools
import re
from collections.abc import Container, Sequence
from typing import Any

from maxmig import errors
from maxmig.converters import places
from maxmig.converters.leaves import DiskPath
from maxmig.converters.storage import files, kv, ocdbt, orbax_tree, zarr
from maxmig.converters.storage.orbax import Orbax


class Items(Orbax):
    """Several trees of one step.

    Args:
        step_dir: the directory of the step, local or as a URL.
        names: the items.
        step: the step's number, if it has one.

    Attributes:
        parts: each item's own tree, by the first key of its paths.
    """

    def __init__(self, step_dir: str, names: Sequence[str], *, step: int | None = None):
        super().__init__(step_dir, step_dir=step_dir, step=step)
        self.parts = {name: Orbax(kv.join(step_dir, name)) for name in names}

    @property
    def item_names(self) -> tuple[str, ...]:
        """The items of the step that hold the tree."""
        return tuple(self.parts)

    def part(self, path: DiskPath) -> Orbax:
        """The tree of the item that a leaf is in."""
        return self.parts[str(path[0])]

    def apart(self, name: str) -> tuple[str, Orbax, str]:
        """Where a value is, by its name: the prefix of its item, the item's tree, the rest."""
        item, _, rest = name.partition(".")
        return f"{item}.", self.parts[item], rest

    @functools.cached_property
    def told(self) -> orbax_tree.Tree:
        """What Orbax's own metadata tell of all items."""
        trees = {name: part.told for name, part in self.parts.items()}
        if len({(tree.ocdbt, tree.zarr) for tree in trees.values()}) > 1:
            raise errors.CheckpointError(
                f"{self.url}: expected items that are stored alike, but {', '.join(trees)} differ "
                "in OCDBT or in the version of Zarr; convert each by its own path"
            )
        first = next(iter(trees.values()))
        entries = {
            (name, *path): entry
            for name, tree in trees.items()
            for path, entry in tree.entries.items()
        }
        fill = all(tree.stored_fill for tree in trees.values())
        return orbax_tree.Tree(entries, first.ocdbt, first.zarr, fill)

    @functools.cached_property
    def store(self) -> Any:
        """The store that holds the arrays of all items."""
        with self._reading():
            make = kv.ocdbt_spec if self.told.ocdbt else kv.spec
            return kv.joined({f"{name}.": make(part.items) for name, part in self.parts.items()})

    @functools.cached_property
    def arrays(self) -> dict[DiskPath, zarr.Array]:
        """The metadata of all arrays."""
        items = [(path[0], path[1:]) for path, entry in self.told.entries.items() if entry.stored]
        return {(name, *path): self.parts[str(name)].arrays[path] for name, path in items}

    @functools.cached_property
    def strings(self) -> dict[DiskPath, str]:
        """The texts of the leaves that are strings, of all items."""
        parts = self.parts.items()
        return {(name, *at): text for name, part in parts for at, text in part.strings.items()}

    @functools.cached_property
    def index(self) -> ocdbt.Index:
        """What the databases refer to; files are named from the step's directory."""
        values: dict[str, tuple[str, int, int]] = {}
        nodes: set[str] = set()
        inline: dict[str, bytes] = {}
        for name, part in self.parts.items():
            for key, (file, start, size) in part.index.values.items():
                values[f"{name}.{key}"] = (f"{name}/{file}" if file else "", start, size)
            nodes |= {f"{name}/{file}" for file in part.index.nodes}
            inline |= {f"{name}.{key}": value for key, value in part.index.inline.items()}
        return ocdbt.Index(values, frozenset(nodes), inline)

    @functools.cached_property
    def held(self) -> Container[str]:
        """The names of all values that are stored."""
        if self.told.ocdbt:
            return self.index.values
        return {f"{name}.{key}" for name, part in self.parts.items() for key in part.names}


def of(place: places.Place) -> Orbax:
    """The Orbax tree of a local checkpoint, in one item or in several."""
    above = None if place.step_dir is None else str(place.step_dir)
    if place.parts:
        return Items(str(place.items), place.parts, step=place.step)
    return Orbax(str(place.items), step_dir=above, step=place.step)


def locate(path: str, step: int | None = None) -> Orbax:
    """Finds an Orbax checkpoint: a directory of steps, one step, or its items.

    Raises:
        CheckpointError: there is nothing, nothing whole, or nothing readable there.
    """
    return _remote(path.rstrip("/"), step) if kv.is_url(path) else of(places.locate(path, step))


def above(url: str) -> tuple[str, DiskPath] | None:
    """The checkpoint in a bucket that a path leads into, and the keys behind it; None: none.

    Only small reads and a list of names that begin with a digit: whatever else lies in the bucket
    is not looked at.
    """
    scheme, _, rest = url.partition("://")
    parts = rest.strip("/").split("/")
    for cut in range(len(parts) - 1, 0, -1):
        found, keys = f"{scheme}://{'/'.join(parts[:cut])}", tuple(parts[cut:])
        if _holds(found):
            return None if keys[0].isdigit() else (found, keys)  # a step that is not there
    return None


def _holds(url: str) -> bool:
    """Whether a tree, a step or a directory of steps is there."""
    there = files.Files(url)
    if any(there.read(name) is not None for name in (orbax_tree.TREE, places.STEP_METADATA)):
        return True
    return holds_steps(url)


def holds_steps(url: str) -> bool:
    """Whether complete steps are in a directory, local or in a bucket."""
    import tensorstore as ts

    if not kv.is_url(url):
        return bool(places.steps(url))
    with files.reading(url):
        found = kv.directory(url).list(ts.KvStore.KeyRange("0", ":")).result()
    return any(re.fullmatch(rf"\d+/{re.escape(places.MARKER)}", key.decode()) for key in found)


def _remote(url: str, step: int | None) -> Orbax:
    names = files.Files(url).names("")
    trees = [name for name in names if name.rpartition("/")[2] == orbax_tree.TREE]
    roots = {name.rpartition("/")[0] for name in trees}
    last = url.rpartition("/")[2]
    own = int(last) if last.isdigit() else None
    if "" in roots:
        return Orbax(url, step_dir=None, step=own)
    beside = sorted(root for root in roots if "/" not in root and not root.isdigit())
    if beside:
        return _in_step(url, beside, own)
    held: dict[int, list[str]] = {}
    for root in sorted(roots):
        first, _, item = root.partition("/")
        if first.isdigit() and f"{first}/{places.MARKER}" in names and "/" not in item:
            held.setdefault(int(first), []).append(item)
    if not held or (step is not None and step not in held):
        good = f"complete steps: {sorted(held)}" if held else "there is no complete step"
        raise errors.CheckpointError(
            f"{url}: expected a checkpoint{'' if step is None else f' of step {step}'}; {good} "
            f"(a step is complete when {places.MARKER} is in it)"
        )
    number = max(held) if step is None else step
    return _in_step(f"{url}/{number}", held[number], number)


def _in_step(url: str, names: Sequence[str], number: int | None) -> Orbax:
    """The tree of a step in a bucket, of the items that hold one."""
    parts = () if "items" in names else places.parts_of(names)
    if parts:
        return Items(url, parts, step=number)
    item = "items" if "items" in names else names[0]
    return Orbax(f"{url}/{item}" if item else url, step_dir=url, step=number)
