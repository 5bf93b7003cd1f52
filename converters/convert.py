"""Converts a checkpoint to another layout or scan layout, with an account of every leaf.

The plan is made from metadata alone, so a dry run is the same code. The result is written under a
temporary name and appears at once, whole.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters import accounting, checkpoint, leaves, places, restack
from maxmig.converters import layouts as known
from maxmig.converters.accounting import Accounting
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.layouts import Layout
from maxmig.converters.leaves import Leaf

_FATES = {
    "same": "kept",
    "stack": "stacked into one array",
    "take": "taken apart into layers",
    "move": "layer axis moved",
}
_ORIGINS = {
    "same": "copied",
    "stack": "stacked from layers",
    "take": "taken out of a stack",
    "move": "layer axis moved",
}
DROPPED = "left out (--params-only)"


@dataclass(frozen=True)
class Plan:
    """What a conversion will do; nothing has been read or written yet.

    Attributes:
        source: the checkpoint.
        layout: the layout of the result.
        restack: how each leaf of the result comes about.
        accounting: the fate of each leaf of the source, the origin of each leaf of the result.
        notes: what a reader should know.
    """

    source: Checkpoint
    layout: Layout
    restack: restack.Plan
    accounting: Accounting
    notes: tuple[str, ...]

    @property
    def leaves(self) -> dict[str, Leaf]:
        """The leaves of the result by canonical path."""
        return {move.target: move.leaf for move in self.restack.moves}

    @property
    def nbytes(self) -> int:
        """The size of the result; about this much memory is needed."""
        return accounting.total(self.leaves.values())


def plan(
    source: Checkpoint,
    to: str,
    *,
    scan: bool | None = None,
    scan_axis: int | None = None,
    from_scan_axis: int | None = None,
    params_only: bool = False,
) -> Plan:
    """Plans a conversion from metadata alone, and proves that it can be undone.

    Args:
        source: the checkpoint.
        to: the layout of the result.
        scan: stack the layers, take them apart, or None: as in the source.
        scan_axis: the layer axis of the result, 0 or 1; None keeps the source's.
        from_scan_axis: the layer axis of the source, where metadata and shapes do not tell.
        params_only: leave out the optimizer state, the step and random state.

    Raises:
        ConvertError: a leaf has no place, layers are missing, or the way back would differ.
    """
    kind = known.get(to)
    taken = {
        path: leaf
        for path, leaf in source.leaves.items()
        if not params_only or path.startswith("params/")
    }
    if not taken:
        raise errors.ConvertError(
            f"{source.place}: expected parameters, but there is no leaf to take"
        )
    skeleton = None if params_only else source.skeleton
    remembered = source.own.get("param_scan_axis")
    if from_scan_axis is None and source.scan_layers:
        from_scan_axis = remembered
    if scan and scan_axis is None and not source.scan_layers:
        scan_axis = remembered  # the way back restores the stacks as they were
    stacking = restack.plan(taken, skeleton, scan=scan, axis=scan_axis, source_axis=from_scan_axis)
    _check_inverse(kind, stacking)
    notes = (*source.notes, *stacking.notes)
    return Plan(source, kind, stacking, _account(source, taken, stacking), notes)


def run(
    todo: Plan,
    destination: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Path:
    """Converts: reads in small groups, writes under a temporary name, then renames.

    Args:
        todo: the plan.
        destination: the directory of steps to make; the step keeps its number.
        overwrite: replace a destination that exists.
        progress: called with the bytes of each leaf that was read.

    Returns:
        The directory of the new step.

    Raises:
        ConvertError: the destination exists, lies in the source or holds it.
        CheckpointError: reading or writing failed; the source and an old destination are untouched.
    """
    from maxmig.checkpoint import Store

    destination = Path(destination).absolute()
    _check_destination(todo.source, destination, overwrite)
    temporary = destination.with_name(f".{destination.name}.maxmig-tmp-{os.getpid()}")
    _clear_remains(destination)
    try:
        flat = _flat(todo, progress)
        step = _step_number(todo.source, flat)
        # Asynchronous saving would hold a second copy of everything.
        with Store(temporary, layout=todo.layout.name, asynchronous=False) as store:
            store.save(step, flat, skeleton=todo.restack.skeleton, metadata=_metadata(todo))
        _check_written(todo, temporary)
        _finish_step(todo.source, temporary / str(step))
        _commit(temporary, destination)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return destination / str(step)


def _flat(todo: Plan, progress: Callable[[int], None]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for move, array in checkpoint.stream(todo.source, todo.restack.moves, progress):
        if isinstance(array, Exception):
            raise array
        found[move.target] = array
    return found


def _check_inverse(kind: Layout, stacking: restack.Plan) -> None:
    """Writes and reads the result's metadata: what comes back must be what was planned."""
    planned = {move.target: move.leaf for move in stacking.moves}
    written = kind.write(planned, stacking.skeleton)
    tree = {
        at: planned[value] if isinstance(value, str) else value for at, value in written.items()
    }
    back = kind.read(tree)
    lost = [
        f"{path}: written to {leaves.spell(at)}, which is read back as another leaf"
        for at, path in written.items()
        if isinstance(path, str) and back.places.get(path) != at
    ]
    if lost:
        raise errors.ConvertError(
            f"layout {kind.name!r} cannot hold this state without loss:\n  " + "\n  ".join(lost)
        )


def _check_written(todo: Plan, directory: Path) -> None:
    made = checkpoint.read(directory)
    if made.leaves != todo.leaves or made.skeleton != todo.restack.skeleton:
        raise errors.ConvertError(
            f"{directory}: what was written is not what was planned; nothing was put in place"
        )


def _account(source: Checkpoint, taken: dict[str, Leaf], stacking: restack.Plan) -> Accounting:
    fates: dict[str, str] = {}
    origins: dict[str, str] = {}
    for move in stacking.moves:
        origins[move.target] = _ORIGINS[move.op]
        fates |= dict.fromkeys(move.sources, _FATES[move.op])
    fates |= {path: DROPPED for path in source.leaves if path not in taken}
    lost = [path for path in source.leaves if path not in fates]
    if lost:
        raise errors.ConvertError("leaves without a fate:\n  " + "\n  ".join(lost))
    return Accounting(
        accounting.entries({path: fates[path] for path in source.leaves}, source.leaves),
        accounting.entries(origins, {move.target: move.leaf for move in stacking.moves}),
    )


def _metadata(todo: Plan) -> dict[str, Any]:
    """The source's own metadata, with what changed, and where it came from."""
    source = todo.source
    found = {key: value for key, value in source.own.items() if key not in ("versions", "skeleton")}
    params = [path for path in todo.leaves if path.startswith("params/")]
    from maxmig.checkpoint import store

    found["scan_layers"] = store.scan_layers(dict.fromkeys(params))
    if todo.restack.axis is not None:
        found["param_scan_axis"] = todo.restack.axis
    found["converted_from"] = {
        "layout": source.layout.name,
        "scan_layers": source.scan_layers,
        "versions": source.own.get("versions"),
    }
    return found


def _step_number(source: Checkpoint, flat: dict[str, Any]) -> int:
    if source.place.step is not None:
        return source.place.step
    return max(0, int(flat["step"]) - 1) if "step" in flat else 0


def _finish_step(source: Checkpoint, made: Path) -> None:
    """Takes over what else is in the step: the loader's state, other items, metadata keys."""
    if source.place.step_dir is None or source.place.step_dir == source.place.items:
        return
    for child in source.place.step_dir.iterdir():
        if child.is_dir() and child != source.place.items:
            shutil.copytree(child, made / child.name, dirs_exist_ok=True)
    places.add_metadata(made, source.metadata)


def _check_destination(source: Checkpoint, destination: Path, overwrite: bool) -> None:
    origin = (source.place.step_dir or source.place.items).resolve()
    resolved = destination.resolve()
    if resolved == origin or origin in resolved.parents or resolved in origin.parents:
        raise errors.ConvertError(
            f"{destination}: expected a directory apart from the source {origin}; "
            "the source is never changed"
        )
    if destination.exists() and not overwrite:
        raise errors.ConvertError(
            f"{destination}: exists already; choose another directory or give --overwrite"
        )
    above = destination.parent
    if not above.is_dir():
        raise errors.ConvertError(f"{above}: expected a directory to write into; make it first")


def _clear_remains(destination: Path) -> None:
    """Removes what conversions to this destination left behind when they were killed."""
    for path in destination.parent.glob(f".{destination.name}.maxmig-tmp-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and (int(pid) == os.getpid() or not _alive(int(pid))):
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's process
        pass
    return True


def _commit(temporary: Path, destination: Path) -> None:
    """Puts the result in place; an old destination goes only when the new one is there."""
    if not destination.exists():
        temporary.rename(destination)
        return
    old = destination.with_name(f".{destination.name}.maxmig-old-{os.getpid()}")
    destination.rename(old)
    try:
        temporary.rename(destination)
    except BaseException:
        old.rename(destination)
        raise
    shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
