"""Converts a checkpoint to another layout or scan layout, with an account of every leaf.

The plan is made from metadata alone, so a dry run is the same code; the engine carries it out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters import accounting, checkpoint, disk, mapping, places, storage
from maxmig.converters.accounting import Accounting
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.compare import metadata
from maxmig.converters.engine import plan as engine_plan
from maxmig.converters.engine import run as engine_run
from maxmig.converters.engine.options import Options
from maxmig.converters.layouts import Layout
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping.plan import PARAMS_ONLY as DROPPED
from maxmig.converters.storage import items, kv, orbax
from maxmig.converters.transfers import Conversion

__all__ = [
    "DROPPED",
    "Plan",
    "carry_out",
    "conversion",
    "plan",
    "prepare",
    "refusal",
    "replaced",
    "run",
]

_NUMBER = re.compile("[0-9]+")


@dataclass(frozen=True)
class Plan:
    """What a conversion will do; nothing has been read or written yet.

    Attributes:
        planned: the conversion, and how it came about.
    """

    planned: mapping.Planned

    @property
    def source(self) -> Checkpoint:
        """The checkpoint that is converted."""
        return self.planned.source

    @property
    def layout(self) -> Layout:
        """The layout of the result."""
        return self.planned.target

    @property
    def accounting(self) -> Accounting:
        """The fate of each leaf of the source, the origin of each leaf of the result."""
        return self.planned.conversion.accounting

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know."""
        return self.planned.conversion.notes

    @property
    def leaves(self) -> dict[str, Leaf]:
        """The leaves of the result by canonical path."""
        return self.planned.state.leaves()

    @property
    def nbytes(self) -> int:
        """The size of the result."""
        return accounting.total(self.leaves.values())


def plan(source: Checkpoint, to: str | None, **options: Any) -> Plan:
    """Plans a conversion from metadata alone, and proves that it can be undone.

    Args:
        source: the checkpoint.
        to: the layout of the result.
        options: those of `mapping.plan.Choices`, such as scan, dtype, params_only, container.

    Raises:
        ConvertError: a leaf has no place, layers are missing, or the way back would differ.
    """
    return Plan(mapping.planned(source, to, **options))


def conversion(todo: Plan) -> Conversion:
    """What the engine is to do: every array of the result by its place on disk."""
    return todo.planned.conversion


def prepare(
    todo: Plan, destination: str | Path, options: Options | None = None
) -> engine_plan.Plan:
    """The way of every array and what it costs, from metadata alone.

    Raises:
        CheckpointError: the source is no longer what it was when it was opened.
    """
    _check_unchanged(todo.source)
    return engine_plan.plan(conversion(todo), str(destination), options or Options())


def _check_unchanged(source: Checkpoint) -> None:
    """Local trees are opened twice: for the plan, and for their arrays."""
    if source.opened is not None:
        return
    try:
        held = source.storage.tree()
    except errors.CheckpointError:
        held = disk.tree(source.place)
        if held == source.tree:
            raise
    if held != source.tree:
        raise errors.CheckpointError(
            f"{source.place}: the source was changed while the conversion was planned; run it again"
        )


def refusal(
    todo: Plan,
    prepared: engine_plan.Plan,
    destination: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> errors.MaxmigError | None:
    """The error that a run would end with before it writes anything; None: it would begin."""
    try:
        _check_place(todo, destination)
        marked = prepared.marked() if resume else prepared
        engine_run.check_destination(marked, str(destination), overwrite=overwrite, resume=resume)
    except errors.MaxmigError as error:
        return error
    return None


def _check_place(todo: Plan, destination: str | Path) -> None:
    """Refuses a destination in the directory that the source was read from (the engine knows the
    source's step alone), and one that is a step of a run: the result has a step of its own.
    """
    given = todo.source.given
    if given and places.inside(destination, given):
        raise errors.ConvertError(
            f"{destination}: expected a directory apart from {given}; the source is never changed"
        )
    _check_no_step(todo, destination)


def _check_no_step(todo: Plan, destination: str | Path) -> None:
    step, own = conversion(todo).step, todo.source.place.step
    if step is None or conversion(todo).container != "orbax":
        return
    url = kv.is_url(destination)
    place = str(destination).rstrip("/") if url else str(places.absolute(destination))
    above, _, name = place.rpartition("/")
    told = above if url else Path(destination).parent
    what = f"looks like a step of {told}"
    if not _NUMBER.fullmatch(name):
        if url or not _is_step(Path(above)):
            return
        told = Path(above).parent
        what = f"lies in a step of {told}"
    elif items.holds_steps(place) or (int(name) != own and not items.holds_steps(above or "/")):
        return
    raise errors.ConfigError(
        f"{destination}: expected a directory of steps, and this {what}: the result would be "
        f"{place}/{step}, which is none of {told}; give {told}, as the step keeps its number, or a "
        "directory with another name"
    )


def _is_step(directory: Path) -> bool:
    number = directory.name
    return bool(_NUMBER.fullmatch(number)) and int(number) in places.steps(directory.parent)


def replaced(prepared: engine_plan.Plan, destination: str | Path) -> str:
    """What is there already where the result is to be, in words; empty if nothing is."""
    return engine_run.there(prepared, str(destination))


def run(
    todo: Plan,
    destination: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    options: Options | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Path:
    """Converts under a temporary name, then renames.

    Args:
        todo: the plan.
        destination: the directory of steps to make; the step keeps its number.
        overwrite: replace a destination that exists.
        resume: go on with an earlier conversion that was stopped or killed.
        options: how it is carried out.
        progress: called with the bytes of each piece that is done.

    Returns:
        The directory of the new step.

    Raises:
        ConfigError: the destination looks like a step, not like a directory of steps.
        ConvertError: the destination exists, lies in the source (or in the directory of steps that
            was given) or holds it.
        CheckpointError: reading or writing failed; the source and an old destination are untouched.
        PreflightError: memory or disk is too small.
        Interrupted: the user stopped it.
    """
    prepared = prepare(todo, destination, options)
    done = carry_out(
        todo, prepared, destination, overwrite=overwrite, resume=resume, progress=progress
    )
    return Path(done.directory)


def carry_out(
    todo: Plan,
    prepared: engine_plan.Plan,
    destination: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> engine_run.Result:
    """Like `run`, for a plan whose routes are known; tells what was verified."""
    _check_place(todo, destination)
    prepared = prepared.marked()
    return engine_run.run(
        prepared,
        str(destination),
        overwrite=overwrite,
        resume=resume,
        finish=lambda step, seen: _check_written(todo, prepared, step, seen),
        progress=progress,
    )


def _check_written(
    todo: Plan, prepared: engine_plan.Plan, directory: Path, seen: orbax.Orbax | None
) -> None:
    """Looks at the metadata of the result as any reader would: it must be what was planned."""
    planned = conversion(todo)
    if planned.container != "orbax":
        told = prepared.conversion.metadata  # a msgpack file has none by itself
        beside = told if planned.container == "msgpack" else {}
        metadata.keep(storage.open(directory), engine_plan.marked(beside, prepared.mark))
    if seen is None:
        made = checkpoint.read(directory)
    else:
        place = places.locate(directory)
        made = checkpoint.view(place, seen.tree(), places.metadata(place))
    tree = {**planned.leaves, **planned.holes}
    state = todo.planned.state
    flat = planned.container != "orbax"  # such a file's own tree is checked where it is written
    if (made.tree != tree and not flat) or made.leaves.keys() != state.items.keys():
        raise errors.ConvertError(
            f"{directory}: what was written is not what was planned; nothing was put in place"
        )
    if made.skeleton != state.skeleton:
        raise errors.ConvertError(
            f"{directory}: the optimizer's containers are not as planned; nothing was put in place"
        )
