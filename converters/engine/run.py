"""Carries a conversion out: what can be by reference, the rest in pieces; checks; commits."""

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

from maxmig import errors
from maxmig.converters import places, storage
from maxmig.converters.engine import (
    check,
    commit,
    documents,
    journal,
    pieces,
    plan,
    pool,
    processes,
    remote,
    tasks,
    work,
)
from maxmig.converters.engine.local import Local
from maxmig.converters.engine.plan import Plan
from maxmig.converters.engine.recording import Recording
from maxmig.converters.engine.work import Progress
from maxmig.converters.storage import kv, orbax

Finish = Callable[[Path, orbax.Orbax | None], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """What was done.

    Attributes:
        directory: the new step.
        checked: what verification looked at.
        resumed: how many pieces an earlier, stopped conversion had done already.
        finished: whether one had done all of it, so that nothing was left to do.
    """

    directory: str
    checked: check.Checked
    resumed: int = 0
    finished: bool = False


def run(
    todo: Plan,
    destination: str,
    *,
    overwrite: bool = False,
    resume: bool = False,
    finish: Finish = lambda step, seen: None,
    progress: Progress = lambda nbytes: None,
) -> Result:
    """Converts.

    Args:
        todo: the plan.
        destination: the directory of steps to make, local or as a URL; of other containers the
            file.
        overwrite: replace a destination that exists.
        resume: go on with an earlier conversion of the same plan, if it was stopped or killed; do
            nothing if it was finished (without `overwrite`, and if the plan is a marked one).
        finish: a last look at the new step before it is put in place: at its directory, and at
            its tree as it was read back.
        progress: called with the bytes of each piece that is done.

    Raises:
        ConvertError: the destination is not a good one.
        PreflightError: memory or disk is too small.
        CheckpointError: the source is damaged, or changed meanwhile; the destination is as before.
        Interrupted: the user stopped it; `resume` goes on.
    """
    if resume and not overwrite and (made := _finished(todo, destination)):
        return Result(made, check.Checked(), finished=True)
    plan.preflight(todo, destination)
    with pool.heap(keep=plan.workers(todo).keep) if todo.pieces else contextlib.nullcontext():
        if kv.is_url(destination):
            return _run_remote(
                todo, destination, overwrite=overwrite, resume=resume, progress=progress
            )
        return _run_local(
            todo,
            destination,
            overwrite=overwrite,
            resume=resume,
            finish=finish,
            progress=progress,
        )


def _run_local(
    todo: Plan,
    destination: str,
    *,
    overwrite: bool,
    resume: bool,
    finish: Finish,
    progress: Progress,
) -> Result:
    group = processes.current()
    place, step = _place(todo, destination)
    source = todo.conversion.storage
    root = None if kv.is_url(source.url) else Path(source.url)
    before = source.fingerprint()
    digest = f"{todo.digest} in {group.count} since {journal.boot()}"
    stop = pool.Stop()
    with group.joined(), stop.listening():
        if group.first:
            commit.check(root, place, step, todo.trees, overwrite=overwrite)
        begun = group.agree("begun", lambda: str(commit.begin(place, digest, resume=resume)))
        temporary = Path(begun)
        made = place
        notes = journal.Journal(temporary, digest, group.index)
        local = Local(todo, temporary, place.name, notes, group, stop, progress)
        try:
            checked = local.convert()
            work.check_unchanged(source, before)
            if group.first:
                finish(local.step, local.seen)
                made = local.commit(place, step, overwrite=overwrite)
            group.meet("committed")
        except pool.Stopped as stopped:
            raise errors.Interrupted(work.stopped(local.finished, local.total)) from stopped
        except commit.Taken:
            raise
        except BaseException:
            if group.first:
                commit.remove(temporary)
            raise
    return Result(str(made), checked, local.resumed)


def _place(todo: Plan, destination: str) -> tuple[Path, int | None]:
    """The local destination, links followed, and the number of the step that comes to it."""
    place = places.absolute(destination)
    flat_file = todo.conversion.container != "orbax"
    return place.resolve() if place.is_dir() else place, None if flat_file else todo.conversion.step


def check_destination(
    todo: Plan, destination: str, *, overwrite: bool, resume: bool = False
) -> None:
    """Refuses what a run would refuse before it writes anything.

    Raises:
        ConvertError: the destination is not a good one.
        PreflightError: memory or disk is too small.
    """
    if resume and not overwrite and _finished(todo, destination):
        return
    plan.preflight(todo, destination)
    if kv.is_url(destination):
        remote.Remote(todo, destination).check(overwrite=overwrite, resume=resume)
        return
    source = todo.conversion.storage
    root = None if kv.is_url(source.url) else Path(source.url)
    place, step = _place(todo, destination)
    commit.check(root, place, step, todo.trees, overwrite=overwrite)


def _finished(todo: Plan, destination: str) -> str | None:
    """Where the whole result of the same marked plan is already; None: it is not there."""
    if kv.is_url(destination):
        made = remote.Remote(todo, destination).step
    else:
        place, step = _place(todo, destination)
        made = str(commit.slot(place, step, todo.trees))
    with contextlib.suppress(errors.MaxmigError):
        if todo.mark and plan.mark_of(storage.open(made)) == todo.mark:
            return made
    return None


def there(todo: Plan, destination: str) -> str:
    """What is there already where the result is to be, in words; empty if nothing is."""
    if kv.is_url(destination):
        return remote.Remote(todo, destination).there()
    return commit.there(*_place(todo, destination), todo.trees)


def _run_remote(
    todo: Plan, destination: str, *, overwrite: bool, resume: bool, progress: Progress
) -> Result:
    if processes.current().count > 1:
        raise errors.ConfigError(f"{destination}: {remote.ALONE}")
    place = remote.Remote(todo, destination)
    done = place.begin(overwrite=overwrite, resume=resume)
    source = todo.conversion.storage
    before, stop = source.fingerprint(), pool.Stop()
    leaves = tasks.source_leaves(todo.conversion)
    made = documents.made_arrays(todo.conversion, todo.zarr)
    cut = list(enumerate(tasks.cut(todo.conversion, todo.pieces, todo.options)))
    finished, recording = set(done), Recording(todo)

    def one(item: tuple[int, tasks.Task]) -> None:
        number, task = item
        found = pieces.perform(task, todo, place.target, leaves, made, number, recording)
        place.finish(number, found)
        finished.add(number)

    try:
        with stop.listening():
            place.target.describe(work.described(todo, made))
            work.each(todo, [item for item in cut if item[0] not in done], one, progress, stop)
            place.tell(made)
            checked = work.checked(todo, place.target, {}, recording, place.sums())
            work.check_unchanged(source, before)
            place.commit()
    except pool.Stopped as stopped:
        raise errors.Interrupted(work.stopped(len(finished), len(cut))) from stopped
    except BaseException:
        place.remove()
        raise
    return Result(place.step, checked, len(done))
