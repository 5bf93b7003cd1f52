"""Tells what a checkpoint is and holds, from metadata alone."""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxmig import errors, trees
from maxmig.converters import accounting, axes, checkpoint, disk, leaves, places
from maxmig.converters.compare import record
from maxmig.converters.leaves import DiskPath, Hole, Leaf
from maxmig.converters.storage import items
from maxmig.converters.storage.base import Storage


@dataclass(frozen=True)
class Section:
    """The leaves below one first key."""

    name: str
    leaves: int
    nbytes: int
    dtypes: dict[str, int]


@dataclass(frozen=True)
class Info:
    """What there is to know about a checkpoint without reading an array.

    Attributes:
        path: the step's or the items' directory, or the file.
        step: the number of the step's directory.
        steps: all complete steps beside it.
        layout: its layout, None when no known one fits.
        why: the evidence, for and against.
        scan_layers: whether layers are stacked; None when there is no stack.
        scan_axis: the layer axis, None when it is unscanned or cannot be told.
        sections: totals by canonical section, or by top-level key of an unknown layout.
        metadata: the custom metadata.
        notes: irregularities.
        tree: all leaves and holes by disk path.
        family: the framework whose names the parameters have.
        container: what holds the arrays.
        recorded: of how many arrays there are checksums.
    """

    path: str
    step: int | None
    steps: tuple[int, ...]
    layout: str | None
    why: tuple[str, ...]
    scan_layers: bool | None
    scan_axis: int | None
    sections: tuple[Section, ...]
    metadata: dict[str, Any]
    notes: tuple[str, ...]
    tree: dict[DiskPath, Leaf | Hole]
    family: str | None = None
    container: str = "orbax"
    recorded: int = 0


@dataclass(frozen=True)
class Chunks:
    """How one array is cut up in its files."""

    path: str
    leaf: Leaf
    chunk: tuple[int, ...]
    stored: tuple[int, ...]
    count: int
    nbytes: int
    codec: str | None


def chunks(path: str | Path, *, step: int | None = None) -> list[Chunks]:
    """How each array is stored: chunks that are decoded at once, and files or shards of them.

    Raises:
        CheckpointError: there is no checkpoint, or it is half-written or unreadable.
    """
    opened, meant = checkpoint.paths_of(path, step)
    found = []
    for at, leaf in opened.tree().items():
        if isinstance(leaf, Leaf) and at in meant:
            grid = opened.grid(at)
            sizes = zip(grid.shape, grid.chunk, strict=True)
            count = math.prod(-(-size // max(1, chunk)) for size, chunk in sizes)
            told = (grid.chunk, grid.stored, count, grid.nbytes, grid.codec)
            found.append(Chunks(leaves.spell(at), leaf, *told))
    return sorted(found, key=lambda each: trees.natural_key(each.path))


def inspect(path: str | Path, *, step: int | None = None) -> Info:
    """Looks at a checkpoint; one of an unknown layout is described as far as it goes.

    Raises:
        CheckpointError: there is none, or it is half-written or unreadable.
    """
    whole, below = checkpoint.apart(path)
    if checkpoint.elsewhere(whole) or below:
        return _file(path, step)
    place = places.locate(path, step)
    steps: tuple[int, ...] = ()
    if place.step_dir is not None and place.step is not None:
        steps = tuple(places.steps(place.step_dir.parent))
    tree, told = disk.tree(place), places.metadata(place)
    try:
        found = checkpoint.view(place, tree, told)
    except errors.ConvertError as error:
        return _unknown(place, steps, str(error), tree, told, items.of(place))
    return _known(found, steps)


def _file(path: str | Path, step: int | None) -> Info:
    try:
        return _known(checkpoint.read(path, step=step), ())
    except errors.ConvertError as error:
        opened, _, _ = checkpoint.opened_at(path, step)
        place = places.Place(Path(path), None, step)
        return _unknown(place, (), str(error), opened.tree(), opened.metadata(), opened)


def _known(found: checkpoint.Checkpoint, steps: tuple[int, ...]) -> Info:
    axis, notes = None, found.notes
    try:
        axis = axes.layer_axis(found.leaves, found.own.get("param_scan_axis"))
    except errors.ConvertError as error:
        notes = (*notes, str(error))
    return Info(
        path=str(found.place),
        step=found.place.step,
        steps=steps,
        layout=found.layout.name,
        why=found.why,
        scan_layers=found.scan_layers,
        scan_axis=axis,
        sections=_sections(
            {path: (path.split("/")[0], leaf) for path, leaf in found.leaves.items()}
        ),
        metadata=found.metadata,
        notes=notes,
        tree={
            at: leaf
            for at, leaf in found.tree.items()
            if tuple(map(str, at[: len(found.below)])) == found.below
        },
        family=found.layout.family,
        container=getattr(found.storage, "container", "orbax"),
        recorded=_recorded(found.storage),
    )


def _recorded(storage: Storage) -> int:
    known = record.of(storage)
    return 0 if known is None else len(known.arrays)


def _unknown(
    place: places.Place,
    steps: tuple[int, ...],
    why: str,
    tree: dict[DiskPath, Leaf | Hole],
    metadata: dict[str, Any],
    storage: Storage,
) -> Info:
    named = {
        leaves.spell(path): (str(path[0]), leaf)
        for path, leaf in tree.items()
        if isinstance(leaf, Leaf)
    }
    return Info(
        path=str(place),
        step=place.step,
        steps=steps,
        layout=None,
        why=tuple(why.splitlines()),
        scan_layers=None,
        scan_axis=None,
        sections=_sections(named),
        metadata=metadata,
        notes=(),
        tree=tree,
        container=getattr(storage, "container", "orbax"),
        recorded=_recorded(storage),
    )


def _sections(named: dict[str, tuple[str, Leaf]]) -> tuple[Section, ...]:
    inside: dict[str, list[Leaf]] = defaultdict(list)
    for section, leaf in named.values():
        inside[section].append(leaf)
    return tuple(
        Section(name, len(held), accounting.total(held), dict(Counter(leaf.dtype for leaf in held)))
        for name, held in inside.items()
    )


def outline(tree: dict[DiskPath, Leaf | Hole], depth: int | None = None) -> list[str]:
    """The disk tree as indented lines; below `depth` only totals."""
    totals: dict[DiskPath, list[int]] = defaultdict(lambda: [0, 0])
    for path, leaf in tree.items():
        if isinstance(leaf, Leaf):
            for level in range(1, len(path)):
                totals[path[:level]][0] += 1
                totals[path[:level]][1] += leaf.nbytes
    lines: list[str] = []
    shown: set[DiskPath] = set()
    for path in sorted(tree, key=lambda path: trees.natural_key(leaves.spell(path))):
        for level in range(1, len(path)):
            parent = path[:level]
            if parent in shown or (depth is not None and level > depth):
                continue
            shown.add(parent)
            count, nbytes = totals[parent]
            told = f"{count} arrays, {accounting.size(nbytes)}"
            lines.append(f"{'  ' * (level - 1)}{parent[-1]}/  {told}")
        if depth is None or len(path) <= depth:
            leaf = tree[path]
            told = leaf.value if isinstance(leaf, Hole) else str(leaf)
            lines.append(f"{'  ' * (len(path) - 1)}{path[-1]}  {told}")
    return lines
