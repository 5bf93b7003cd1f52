"""Holds a checkpoint against the state that a model expects, leaf by leaf, on both sides."""

import contextlib
from collections.abc import Mapping
from typing import Any

from maxmig import errors, trees
from maxmig.converters import accounting, disk, layouts, stacks
from maxmig.converters.accounting import Accounting
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import restack


def match(
    found: Checkpoint,
    target: Mapping[str, Any],
    *,
    only: str = "all",
    cast: bool = False,
    expect: Mapping[str, Any] | None = None,
) -> Accounting:
    """Gives every leaf of the checkpoint its fate and every leaf of the target its origin.

    Raises:
        CheckpointError: leaves are missing, extra, or of another shape or type; all are listed.
    """
    wanted = {path: disk.describe(leaf) for path, leaf in target.items() if _asked(path, only)}
    if not wanted:
        raise errors.CheckpointError(
            f"{found.place}: nothing to restore: the model asks for none of its "
            f"{'parameters' if only == 'params' else 'leaves'}"
        )
    _check_expected(found, expect or {})
    problems: list[str] = []
    origins: dict[str, str] = {}
    fates: dict[str, str] = {}
    for path in trees.sort(wanted):
        origins[path] = _origin(path, wanted[path], found.leaves.get(path), cast, problems)
    for path, leaf in found.leaves.items():
        fates[path] = _fate(path, leaf, path in wanted, only, problems)
    if problems:
        raise errors.CheckpointError(_explain(found, wanted, problems))
    return Accounting(
        fates=accounting.entries(fates, found.leaves), origins=accounting.entries(origins, wanted)
    )


def _asked(path: str, only: str) -> bool:
    return only == "all" or path.startswith("params/")


def _origin(path: str, wanted: Leaf, stored: Leaf | None, cast: bool, problems: list[str]) -> str:
    if stored is None:
        if path.startswith("aux/") and layouts.is_random(tuple(path.split("/")), wanted):
            return accounting.DERIVED
        problems.append(
            f"missing  {path}: the model expects {wanted}, the checkpoint has no such leaf"
        )
    elif wanted.shape != stored.shape:
        problems.append(f"shape    {path}: the model expects {wanted}, the checkpoint has {stored}")
    elif wanted.dtype != stored.dtype:
        if cast and not wanted.is_key and not stored.is_key:
            return f"restored, cast {stored.dtype} -> {wanted.dtype}"
        problems.append(f"type     {path}: the model expects {wanted}, the checkpoint has {stored}")
    return accounting.RESTORED


def _fate(path: str, leaf: Leaf, wanted: bool, only: str, problems: list[str]) -> str:
    if wanted:
        return accounting.RESTORED
    if not _asked(path, only):
        return accounting.NOT_ASKED
    if path.startswith("aux/") and layouts.is_random(tuple(path.split("/")), leaf):
        return accounting.DERIVED
    problems.append(f"extra    {path}: the checkpoint has {leaf}, the model has no place for it")
    return accounting.NOT_ASKED


def _check_expected(found: Checkpoint, expect: Mapping[str, Any]) -> None:
    axis = found.own.get("param_scan_axis")
    wanted = expect.get("param_scan_axis")
    if found.scan_layers and None not in (axis, wanted) and axis != wanted:
        raise errors.CheckpointError(
            f"{found.place}: its layers are stacked on axis {axis}, the model's on axis {wanted}; "
            f"convert it: maxmig ckpt convert {found.place} DST --to {found.layout.name} "
            f"--scan-axis {wanted}"
        )


def _explain(found: Checkpoint, wanted: Mapping[str, Leaf], problems: list[str]) -> str:
    head = f"{found.place} (layout {found.layout.name}): the checkpoint does not match the model; "
    told = "\n  ".join(problems)
    advice = _advice(found, wanted, only_shapes=all(p.startswith("shape") for p in problems))
    return f"{head}{_count(problems)}:\n  {told}\n{advice}"


def _count(problems: list[str]) -> str:
    return "1 leaf differs" if len(problems) == 1 else f"{len(problems)} leaves differ"


def _advice(found: Checkpoint, wanted: Mapping[str, Leaf], *, only_shapes: bool) -> str:
    convert = f"maxmig ckpt convert {found.place} DST --to {found.layout.name}"
    models = [path.partition("/")[2] for path in wanted if path.startswith("params/")]
    scanned = any(stacks.scanned(path) is not None for path in models)
    unscanned = any(stacks.unscanned(path) for path in models)
    if found.scan_layers and unscanned and not scanned:
        return (
            "The checkpoint has its layers stacked (scan_layers=true), the model has them apart. "
            f"Convert it: {convert} --no-scan (or set scan_layers=true)"
        )
    if found.scan_layers is False and scanned:
        return (
            "The checkpoint has its layers apart (scan_layers=false), the model has them stacked. "
            f"Convert it: {convert} --scan (or set scan_layers=false)"
        )
    if only_shapes and found.scan_layers and (axis := _moved_axis(found, wanted)) is not None:
        return (
            "Its layers are stacked on another axis than the model's. Convert it: "
            f"{convert} --scan-axis {axis}{_or_set(found, axis)}"
        )
    return (
        "Load it with the configuration that it was trained with (model sizes, weight_dtype, "
        "opt_type), or only its parameters if just the optimizer differs (load_parameters_path)"
    )


def _or_set(found: Checkpoint, axis: int) -> str:
    """The other way, if the checkpoint's axis is one that a model can have."""
    own = found.own.get("param_scan_axis")
    return f" (or set param_scan_axis={1 - axis})" if own in (None, 1 - axis) else ""


def _moved_axis(found: Checkpoint, wanted: Mapping[str, Leaf]) -> int | None:
    """The layer axis of the model, if only that differs."""
    own = found.own.get("param_scan_axis")
    for axis in (0, 1):
        with contextlib.suppress(errors.ConvertError):
            state, _ = restack.plan(found.leaves, found.skeleton, axis=axis, source_axis=own)
            moved = state.leaves()
            if all(moved.get(path) == leaf for path, leaf in wanted.items()):
                return axis
    return None
