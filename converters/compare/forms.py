"""The leaves of a checkpoint as views in a common form, so that two checkpoints can be compared.

Layers are stacked or taken apart on the fly; nothing is read before a box is asked for.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from maxmig import errors, trees
from maxmig.converters import axes
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.compare import record, views
from maxmig.converters.compare.views import Reader, View, Zeros
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import auto, back, carry, relayouts, restack
from maxmig.converters.mapping.rules import Layer, Rule
from maxmig.converters.mapping.state import Item, State, start

RANDOM = "aux"
_NOWHERE = back.Way()


@dataclass(frozen=True)
class Forms:
    """The leaves of one checkpoint.

    Attributes:
        views: the leaves by canonical path.
        notes: what could not be brought into the form.
        zeros: leaves that have no place in the form, which is right only if they are zero.
    """

    views: Mapping[str, View]
    notes: tuple[str, ...] = ()
    zeros: Mapping[str, View] = field(default_factory=dict)


def reader(
    checkpoint: Checkpoint,
    budget: int = views.BUDGET,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Reader:
    """Reads the arrays of a checkpoint by box, and holds them against its record of checksums."""
    return Reader(record.checked(checkpoint.storage), budget, progress)


def of(
    checkpoint: Checkpoint,
    source: Reader,
    *,
    scan: bool | None = None,
    axis: int | None = None,
    known: int | None = None,
    rules: Sequence[Rule] = (),
    way: back.Way = _NOWHERE,
    linen: bool = False,
) -> Forms:
    """The leaves of a checkpoint with layers stacked, apart, or as they are stored.

    Args:
        checkpoint: whose leaves.
        source: reads them.
        scan: stack the layers, take them apart, or None: leave them.
        axis: the layer axis of stacked leaves; None keeps the source's.
        known: the source's layer axis, where its own metadata do not tell it.
        rules: of a mapping file, carried out first, as a conversion would; leaves that they drop or
            derive are left out.
        way: of the checkpoint's own metadata, gone before all else.
        linen: layers that NNX lays out in another way (recurrent cells) get Linen's form.

    Raises:
        ConvertError: the rules do not fit.
    """
    notes: tuple[str, ...] = ()
    state = start(checkpoint.leaves, checkpoint.skeleton)
    carry.out(state, way.rules)
    known = way.axis if way.recorded else checkpoint.own.get("param_scan_axis", known)
    own = _layer_axis(state.leaves(), known)
    try:
        beside = checkpoint.own.get(auto.BESIDE)
        restack.on(state, scan=scan, axis=axis, source_axis=own, todo=rules, beside=beside)
    except errors.ConvertError as error:
        unclear = isinstance(error, axes.Unclear)  # of layers that can stay as they are
        if not unclear and (rules or way.rules):
            raise
        notes = (stored(checkpoint, error),)
        state = start(checkpoint.leaves, checkpoint.skeleton)
        if unclear:
            carry.out(state, way.rules)
            restack.on(state, todo=rules)
    if linen:
        _as_linen(state)
    return seen(checkpoint, source, state, notes)


def seen(
    checkpoint: Checkpoint, source: Reader, state: State, notes: tuple[str, ...] = ()
) -> Forms:
    """The leaves of a state that is made of a checkpoint's; derived ones are left out."""
    found = {}
    for target in trees.sort(state.items):
        item = state.items[target]
        if item.sources:
            found[target] = _view(checkpoint, source, item)
        elif section(target) != RANDOM:
            found[target] = Zeros(item.leaf, source)
    zeros = {path: View.stored(checkpoint.places[path], source) for path in state.zeros}
    return Forms(found, notes, zeros)


def _as_linen(state: State) -> None:
    """Gives recurrent cells Linen's form; one that does not fit stays as it is.

    Shapes and names alone tell what is a cell, so that the result depends on nothing else.
    """
    params = {path[7:]: leaf for path, leaf in state.leaves().items() if path[:7] == "params/"}
    cells = relayouts.in_nnx(params)
    for at in trees.sort(cells):
        before = dict(state.items), state.skeleton
        try:
            carry.out(state, (Layer(at, cells[at], "linen"),))
        except errors.ConvertError:
            state.items, state.skeleton = before


def layer_axis(checkpoint: Checkpoint, known: int | None = None) -> int | None:
    """The layer axis of a scanned checkpoint; None where there is none or it cannot be told.

    Args:
        checkpoint: whose layers.
        known: the axis, where its own metadata do not tell it.
    """
    return _layer_axis(checkpoint.leaves, checkpoint.own.get("param_scan_axis", known))


def unclear(checkpoint: Checkpoint) -> str:
    """What to say of layers that are on one of several axes; empty where that is told."""
    try:
        axes.layer_axis(checkpoint.leaves, checkpoint.own.get("param_scan_axis"))
    except axes.Unclear as error:
        return stored(checkpoint, error)
    except errors.ConvertError:
        pass
    return ""


def stored(checkpoint: Checkpoint, error: errors.ConvertError) -> str:
    """What to say of layers that stay as they are."""
    told = str(error)
    if isinstance(error, axes.Unclear):
        told = f"{told.partition(';')[0]}; an `unstack:` rule in a mapping file does (--map)"
    return f"{checkpoint.storage.url}: compared as it is stored: {told}"


def other_axis(checkpoint: Checkpoint) -> int | None:
    """The axis on which layers might be as well as on the usual one; None where it is told."""
    if checkpoint.own.get("param_scan_axis") is not None:
        return None
    return next(iter(axes.besides_usual(checkpoint.leaves)), None)


def _layer_axis(leaves: Mapping[str, Leaf], known: int | None) -> int | None:
    try:
        return axes.layer_axis(leaves, known)
    except errors.ConvertError:  # matters only where layers have to be restacked
        return None


def _view(checkpoint: Checkpoint, source: Reader, item: Item) -> View:
    paths = tuple(checkpoint.places[path] for path in item.sources)
    stored = [source.leaf(path) for path in paths]
    cast = stored[0].dtype != item.leaf.dtype != item.op.result(stored).dtype
    return View(item.leaf, source, paths, item.op, cast)


@functools.cache
def section(path: str) -> str:
    """The first segment of a canonical path: `params`, `opt_state`, `step`, `aux`, ..."""
    return path.partition("/")[0]


def chosen(path: str, only: str) -> bool:
    """Whether a leaf is among those that `--only` names."""
    sections = {"params": ("params",), "opt": ("opt_state", "step")}.get(only)
    return sections is None or section(path) in sections
