"""Converts a checkpoint to another layout or scan layout, with an account of every leaf.

The plan is made from metadata alone, so a dry run is the same code; the engine carries it out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters import accounting, checkpoint, mapping, places, skeletons
from maxmig.converters.accounting import Accounting
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.compare import metadata
from maxmig.converters.engine import plan as engine_plan
from maxmig.converters.engine import run as engine_run
from maxmig.converters.engine.options import Options
from maxmig.converters.layouts import Layout
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping.plan import PARAMS_ONLY as DROPPED
from maxmig.converters.storage import orbax
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
    """The way of every array and what it costs, from metadata alone."""
    return engine_plan.plan(conversion(todo), str(destination), options or Options())


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
        _check_apart(todo, destination)
        engine_run.check_destination(prepared, str(destination), overwrite=overwrite, resume=resume)
    except errors.MaxmigError as error:
        return error
    return None


def _check_apart(todo: Plan, destination: str | Path) -> None:
    """Refuses a destination in the directory that the source was read from.

    The engine knows the source's step alone.
    """
    given = todo.source.given
    if given and places.inside(destination, given):
        raise errors.ConvertError(
            f"{destination}: expected a directory apart from {given}; the source is never changed"
        )


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
    _check_apart(todo, destination)
    return engine_run.run(
        prepared,
        str(destination),
        overwrite=overwrite,
        resume=resume,
        finish=lambda step, seen: _check_written(todo, step, seen),
        progress=progress,
    )


def _check_written(todo: Plan, directory: Path, seen: orbax.Orbax | None) -> None:
    """Looks at the metadata of the result as any reader would: it must be what was planned."""
    if seen is None:
        made = checkpoint.read(directory)
    else:
        place = places.locate(directory)
        made = checkpoint.view(place, seen.tree(), places.metadata(place))
    planned = conversion(todo)
    tree = {**planned.leaves, **planned.holes}
    state = todo.planned.state
    flat = planned.container != "orbax"  # such a file's own tree is checked where it is written
    if (made.tree != tree and not flat) or made.leaves.keys() != state.items.keys():
        raise errors.ConvertError(
            f"{directory}: what was written is not what was planned; nothing was put in place"
        )
    told, wanted = made.skeleton, state.skeleton
    if planned.container == "msgpack" and not todo.layout.exact:  # it has no metadata by itself
        told, wanted = skeletons.traced(told), skeletons.traced(wanted)
    if told != wanted:
        raise errors.ConvertError(
            f"{directory}: the optimizer's containers are not as planned; nothing was put in place"
        )
    if planned.container == "msgpack":
        metadata.keep(made.storage, planned.metadata)
        again = checkpoint.read(directory)
        if (again.places, again.skeleton) != (made.places, state.skeleton):
            raise errors.ConvertError(
                f"{directory}: with its metadata it is not what was planned; nothing was put in "
                "place"
            )
