"""The leaves of a checkpoint as views in a common form, so that two checkpoints can be compared.

Layers are stacked or taken apart on the fly; nothing is read before a box is asked for.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from maxmig import errors
from maxmig.converters import restack, views
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.leaves import DiskPath, Leaf
from maxmig.converters.ops import MoveAxis, Same, Stack, Take
from maxmig.converters.transfers import Op
from maxmig.converters.views import Reader, View


@dataclass(frozen=True)
class Forms:
    """The leaves of one checkpoint.

    Attributes:
        views: the leaves by canonical path.
        notes: what could not be brought into the form.
    """

    views: Mapping[str, View]
    notes: tuple[str, ...] = ()


def reader(
    checkpoint: Checkpoint,
    budget: int = views.BUDGET,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Reader:
    """Reads the arrays of a checkpoint by box."""
    return Reader(checkpoint.storage, budget, progress)


def of(
    checkpoint: Checkpoint, source: Reader, *, scan: bool | None = None, axis: int | None = None
) -> Forms:
    """The leaves of a checkpoint with layers stacked, apart, or as they are stored.

    Args:
        checkpoint: whose leaves.
        source: reads them.
        scan: stack the layers, take them apart, or None: leave them.
        axis: the layer axis of stacked leaves; None keeps the source's.
    """
    notes: tuple[str, ...] = ()
    own = layer_axis(checkpoint)
    try:
        plan = restack.plan(
            checkpoint.leaves, checkpoint.skeleton, scan=scan, axis=axis, source_axis=own
        )
    except errors.ConvertError as error:
        notes = (f"{checkpoint.storage.url}: compared as it is stored: {error}",)
        plan = restack.plan(checkpoint.leaves, checkpoint.skeleton)
    found = {}
    for move in plan.moves:
        paths = tuple(checkpoint.places[path] for path in move.sources)
        found[move.target] = _view(source, paths, move.leaf, _op(move))
    return Forms(found, notes)


def layer_axis(checkpoint: Checkpoint) -> int | None:
    """The layer axis of a scanned checkpoint; None where there is none or it cannot be told."""
    try:
        return restack.layer_axis(checkpoint.leaves, checkpoint.own.get("param_scan_axis"))
    except errors.ConvertError:  # matters only where layers have to be restacked
        return None


def _view(source: Reader, paths: tuple[DiskPath, ...], leaf: Leaf, op: Op) -> View:
    return View(leaf, source, paths, op, cast=source.leaf(paths[0]).dtype != leaf.dtype)


def _op(move: restack.Move) -> Op:
    match move.op:
        case "stack":
            return Stack(move.axis)
        case "take":
            return Take(move.axis, move.index)
        case "move":
            return MoveAxis(move.source_axis, move.axis)
    return Same()


@functools.cache
def section(path: str) -> str:
    """The first segment of a canonical path: `params`, `opt_state`, `step`, `aux`, ..."""
    return path.partition("/")[0]


def chosen(path: str, only: str) -> bool:
    """Whether a leaf is among those that `--only` names."""
    sections = {"params": ("params",), "opt": ("opt_state", "step")}.get(only)
    return sections is None or section(path) in sections
