"""Compares two checkpoints leaf by leaf, whatever their layouts, in bounded memory.

One line a leaf: `=` same bits, `~` equal under what was declared (a cast or a tolerance), `*`
differs, `+` only in B, `-` only in A, `>` renamed, `!` unreadable.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from maxmig import trees
from maxmig.converters import forms, gaps, pairs, tiles, views
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.leaves import Leaf
from maxmig.converters.ops import Stack
from maxmig.converters.verdicts import SIGNS, Line, Only, Report, Tolerance
from maxmig.converters.views import View

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SIGNS", "Line", "Only", "Report", "Tolerance", "compare", "diff"]

Views = Mapping[str, View]


def diff(
    a: Checkpoint,
    b: Checkpoint,
    *,
    only: Only = "all",
    tolerance: Tolerance | None = None,
    cast: bool = False,
    max_memory: int = views.BUDGET,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Report:
    """Compares names, shapes, types and values; stacks the layers if one side has them stacked.

    Args:
        a: one checkpoint.
        b: the other.
        only: parameters, optimizer state with the step, or all.
        tolerance: None asks for equal bits.
        cast: a leaf of another type in B is held against A's, cast to that type.
        max_memory: bytes; a few chunks of each side are needed in any case.
        progress: called with the bytes that were read.
    """
    tolerance = tolerance or Tolerance()
    left, right = _aligned(a, b, max_memory // 4, progress)
    ours = {path: view for path, view in left.views.items() if forms.chosen(path, only)}
    theirs = {path: view for path, view in right.views.items() if forms.chosen(path, only)}
    lines = list(_compared(ours, theirs, tolerance, cast, max_memory // 4))
    lines += _unpaired(
        {path: view for path, view in ours.items() if path not in theirs},
        {path: view for path, view in theirs.items() if path not in ours},
    )
    lines.sort(key=lambda line: trees.natural_key(line.path))
    return Report(tuple(lines), tolerance, (*left.notes, *right.notes))


def compare(path: str, a: "np.ndarray", b: "np.ndarray", tolerance: Tolerance) -> Line:
    """The verdict on two arrays of one shape and type."""
    return gaps.gap(a, b, tolerance).line(path, tolerance)


def _aligned(
    a: Checkpoint, b: Checkpoint, budget: int, progress: Callable[[int], None]
) -> tuple[forms.Forms, forms.Forms]:
    """Both sides in one scan layout: the stacked one, which has one line for all layers."""
    sides = (a, b)
    scan = True if {a.scan_layers, b.scan_layers} == {True, False} else None
    axes = [forms.layer_axis(side) for side in sides]
    axis = next((each for each in axes if each is not None), None)
    both = []
    for side, own in zip(sides, axes, strict=True):
        moved = scan or (own is not None and own != axis)
        source = forms.reader(side, budget, progress)
        both.append(forms.of(side, source, scan=scan, axis=axis if moved else None))
    return both[0], both[1]


def _compared(
    ours: Views, theirs: Views, tolerance: Tolerance, cast: bool, limit: int
) -> Iterator[Line]:
    todo, casts = [], {}
    for path, view in ours.items():
        other = theirs.get(path)
        if other is None:
            continue
        if cast and _castable(view.leaf, other.leaf):
            view = dataclasses.replace(view, leaf=other.leaf, cast=True)
        if view.leaf != other.leaf:
            yield Line("*", path, f"{view.leaf} in A, {other.leaf} in B")
            continue
        stored = [each.reader.leaf(each.paths[0]).dtype for each in (view, other)]
        if stored[0] != stored[1]:
            casts[path] = f"{stored[0]} in A, {stored[1]} in B"
        todo.append(pairs.Pair(path, view, other))
    for line in pairs.compare(todo, tolerance, limit=limit):
        if line.path in casts and line.sign in "=~":
            told = f"same after the cast: {casts[line.path]}"
            line = dataclasses.replace(
                line, sign="~", detail=f"{told}; {line.detail}" if line.detail else told
            )
        yield line


def _castable(a: Leaf, b: Leaf) -> bool:
    """Whether a cast can be what makes two leaves differ: the same shape, and plain numbers."""
    return a.shape == b.shape and a.dtype != b.dtype and not (a.is_key or b.is_key)


def _unpaired(left: Views, right: Views) -> Iterator[Line]:
    """Leaves of one side only; where bits and type agree with just one leaf opposite, a rename."""
    kinds = {view.leaf for view in left.values()} & {view.leaf for view in right.values()}
    stacks = {
        view.leaf: view.op.axis
        for side in (left, right)
        for view in side.values()
        if isinstance(view.op, Stack)
    }
    names, others = (_by_content(side, kinds, stacks) for side in (left, right))
    renamed = {
        paths[0]: others[content][0]
        for content, paths in names.items()
        if len(paths) == 1 and len(others.get(content, ())) == 1
    }
    for path, view in left.items():
        if path in renamed:
            told = f"is {renamed[path]} in B, same bits"
            yield Line(">", path, told, other=renamed[path])
        else:
            yield Line("-", path, f"{view.leaf}")
    taken = set(renamed.values())
    yield from (
        Line("+", path, f"{view.leaf}") for path, view in right.items() if path not in taken
    )


def _by_content(side: Views, kinds: set[Leaf], stacks: Mapping[Leaf, int]) -> dict[str, list[str]]:
    """The leaves of some kinds by fingerprint; what cannot be read has none.

    Where layers are stacked on the way, tiles hold one layer each, since that is how they come.
    """
    wanted = {path: view for path, view in side.items() if view.leaf in kinds}
    tile = {
        path: tiles.tile_shape(view.leaf.shape, stacks[view.leaf])
        for path, view in wanted.items()
        if view.leaf in stacks
    }
    found: dict[str, list[str]] = {}
    for path, told in pairs.fingerprints(wanted, lambda path, error: None, tile).items():
        if told is not None:
            found.setdefault(told, []).append(path)
    return found
