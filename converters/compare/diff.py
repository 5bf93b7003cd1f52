"""Compares two checkpoints leaf by leaf, whatever their layouts, in bounded memory.

One line a leaf: `=` same bits, `~` equal under what was declared (a cast or a tolerance), `*`
differs, `+` only in B, `-` only in A, `>` renamed, `!` unreadable.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maxmig import errors, trees
from maxmig.converters import axes
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.compare import families, forms, gaps, pairs, replan, tiles, views
from maxmig.converters.compare.verdicts import SIGNS, Line, Only, Report, Tolerance
from maxmig.converters.compare.views import Reader, View, Zeros
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.ops import Stack

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SIGNS", "Line", "Only", "Report", "Tolerance", "compare", "diff"]

Views = Mapping[str, View]
Sides = tuple[forms.Forms, forms.Forms]


def diff(
    a: Checkpoint,
    b: Checkpoint,
    *,
    only: Only = "all",
    tolerance: Tolerance | None = None,
    cast: bool = False,
    rules: Sequence[Rule] = (),
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
        rules: of a mapping file, carried out on A first, as a conversion would.
        max_memory: bytes; a few chunks of each side are needed in any case.
        progress: called with the bytes that were read.
    """
    tolerance = tolerance or Tolerance()
    left, right = _aligned(a, b, rules, max_memory // 4, progress)
    found = dict(left.views), dict(right.views)
    _held_at_zero(left, found[0], found[1])
    _held_at_zero(right, found[1], found[0])
    ours = {path: view for path, view in found[0].items() if forms.chosen(path, only)}
    theirs = {path: view for path, view in found[1].items() if forms.chosen(path, only)}
    lines = list(_compared(ours, theirs, tolerance, cast, max_memory // 4))
    left_only = {path: view for path, view in ours.items() if path not in theirs}
    right_only = {path: view for path, view in theirs.items() if path not in ours}
    lines += families.paired(left_only, right_only, tolerance, max_memory // 4)
    lines += _unpaired(left_only, right_only)
    lines.sort(key=lambda line: trees.natural_key(line.path))
    notes = (*left.notes, *right.notes, *_params_only(ours, theirs))
    return Report(tuple(lines), tolerance, notes)


def _params_only(ours: Views, theirs: Views) -> Iterator[str]:
    """What to say where one side holds parameters and nothing else, and the other more."""
    for name, side, other in (("A", ours, theirs), ("B", theirs, ours)):
        rest = [path for path in other if forms.section(path) != "params"]
        if side and rest and all(forms.section(path) == "params" for path in side):
            named = ", ".join(dict.fromkeys(map(forms.section, rest)))
            yield (
                f"{name} holds parameters only; what the other side has beside them "
                f"({len(rest):,} arrays: {named}) counts as a difference. To compare the "
                "parameters alone, say --only params"
            )


def compare(path: str, a: "np.ndarray", b: "np.ndarray", tolerance: Tolerance) -> Line:
    """The verdict on two arrays of one shape and type."""
    return gaps.gap(a, b, tolerance).line(path, tolerance)


def _aligned(
    a: Checkpoint,
    b: Checkpoint,
    rules: Sequence[Rule],
    budget: int,
    progress: Callable[[int], None],
) -> Sides:
    """Both sides in one form: as they are, or in the first other form in which more leaves fit."""
    readers = [forms.reader(side, budget, progress) for side in (a, b)]
    found = _stacked(a, b, readers, rules)
    if rules:
        return found
    for other in (_as_linen, _as_recorded, _as_layers):
        if not _unlike(found):
            break
        made = other(a, b, readers)
        if made is not None and _unlike(made) < _unlike(found):
            found = made
    return found


def _stacked(
    a: Checkpoint,
    b: Checkpoint,
    readers: Sequence[Reader],
    rules: Sequence[Rule] = (),
    linen: bool = False,
) -> Sides:
    """Both sides in one scan layout: the stacked one, which has one line for all layers."""
    sides = (a, b)
    scan = True if {a.scan_layers, b.scan_layers} == {True, False} else None
    known = [_axis_told(a, b), _axis_told(b, a)]
    own = [forms.layer_axis(side, told) for side, told in zip(sides, known, strict=True)]
    told = [s.own.get("param_scan_axis", axis) for s, axis in zip(sides, known, strict=True)]
    if a.leaves == b.leaves and None in own:
        own = [max(told, key=lambda axis: axis is not None)] * 2  # no other one where shapes agree
    axis = next((each for each in own if each is not None), None)
    lost = [forms.unclear(s) if each is None else "" for s, each in zip(sides, own, strict=True)]
    if any(lost) and (scan or axis is not None):
        scan, own = None, [None, None]  # what may be on several axes is no equal of anything else
    else:
        lost = ["", ""]
    moved = [bool(scan) or each not in (None, axis) for each in own]
    if any(moved) and any(axes.nested(side.leaves) for side in sides):
        scan, moved = False, [False, False]  # stacks in stacks have no single axis
    both = []
    for side, reader, other, first, why in zip(sides, readers, moved, known, lost, strict=True):
        to, mine = axis if other else None, rules if side is a else ()
        asked: dict[str, Any] = {"scan": scan, "axis": to, "known": first, "rules": mine}
        found = forms.of(side, reader, **asked, linen=linen)
        notes = _axis_taken(side, first) if any(moved) and not mine else ()
        more = (why,) if why and not mine else ()
        both.append(dataclasses.replace(found, notes=(*found.notes, *notes, *more)))
    return both[0], both[1]


def _axis_taken(side: Checkpoint, told: int | None) -> Iterator[str]:
    """What to say where a layer axis is not the side's own."""
    if told is not None:
        yield (
            f"{side.storage.url}: its layers are taken to be on axis {told}, as the conversion was "
            "told that the other side records (--from-scan-axis)"
        )
    elif (other := forms.other_axis(side)) is not None:
        yield (
            f"{side.storage.url}: its layers are taken to be on axis {axes.DEFAULT_AXIS}, as is "
            f"usual: neither the metadata nor the shapes tell it from axis {other}; of A an "
            "`unstack:` rule in a mapping file does (--map)"
        )


def _axis_told(side: Checkpoint, other: Checkpoint) -> int | None:
    """The layer axis that the conversion to the other side was told, if it can be this side's."""
    told = replan.recorded(other, side).get("from_scan_axis")
    if "param_scan_axis" in side.own or not side.scan_layers or not isinstance(told, int):
        return None
    return told if forms.layer_axis(side, told) == told else None


def _as_linen(a: Checkpoint, b: Checkpoint, readers: Sequence[Reader]) -> Sides:
    """Recurrent cells on both sides as Linen has them."""
    return _stacked(a, b, readers, linen=True)


def _as_recorded(a: Checkpoint, b: Checkpoint, readers: Sequence[Reader]) -> Sides | None:
    """One side in the form that the conversion to the other gave it, if that records one."""
    one, two = readers
    if (made := _made_of(a, one, b)) is not None:
        return made, forms.of(b, two)
    if (made := _made_of(b, two, a)) is not None:
        return forms.of(a, one), made
    return None


def _as_layers(a: Checkpoint, b: Checkpoint, readers: Sequence[Reader]) -> Sides:
    """Layers apart on both sides, as statistics may be on another axis than their parameters."""
    one, two = readers
    found = forms.of(a, one, scan=False, known=_axis_told(a, b))
    return found, forms.of(b, two, scan=False, known=_axis_told(b, a))


def _made_of(source: Checkpoint, reader: Reader, result: Checkpoint) -> forms.Forms | None:
    """What the conversion that a result records makes of a checkpoint; no cast, nothing left out.

    None if it records none from such a layout, or this checkpoint does not fit.
    """
    options = replan.recorded(result, source)
    if not options:
        return None
    try:
        state = replan.planned(source, options, without=("dtype",)).state
    except errors.MaxmigError:
        return None
    made = forms.seen(source, reader, state)
    gone = {
        path if path not in made.views else f"{path} (left out)": View.stored(at, reader)
        for path, at in source.places.items()
        if path in state.dropped and path not in state.zeros
    }
    note = (
        f"{source.storage.url} is compared as the conversion to layout {result.layout.name!r} "
        f"lays it out that {result.storage.url} records"
    )
    return forms.Forms({**made.views, **gone}, (note,), made.zeros)


def _unlike(sides: Sides) -> int:
    """How many leaves have no counterpart of the same shape; random state is not counted."""
    left, right = ({(path, view.leaf.shape) for path, view in side.views.items()} for side in sides)
    return sum(forms.section(path) != forms.RANDOM for path, _ in left ^ right)


def _held_at_zero(side: forms.Forms, ours: dict[str, View], theirs: dict[str, View]) -> None:
    """Leaves that one side has no place for are held against zeros."""
    for path, view in side.zeros.items():
        if path not in ours and path not in theirs:
            ours[path], theirs[path] = view, Zeros(view.leaf, view.reader)


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
        stored = [_stored(each) for each in (view, other)]
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


def _stored(view: View) -> str:
    """The type that is on disk; of zeros that are nowhere, their own."""
    return view.reader.leaf(view.paths[0]).dtype if view.paths else view.leaf.dtype


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
