"""Carries a conversion out: what can be by reference, the rest in pieces; checks; commits."""

import dataclasses
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters import places
from maxmig.converters.engine import (
    check,
    commit,
    documents,
    flat,
    journal,
    pieces,
    plan,
    pool,
    processes,
    reference,
    remote,
    routes,
    tasks,
)
from maxmig.converters.engine.plan import Plan
from maxmig.converters.engine.recording import Found, Recording
from maxmig.converters.engine.target import Target
from maxmig.converters.storage import files, kv, orbax, orbax_tree

Progress = Callable[[int], None]
Finish = Callable[[Path, orbax.Orbax | None], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """What was done.

    Attributes:
        directory: the new step.
        checked: what verification looked at.
        resumed: how many pieces an earlier, stopped conversion had done already.
    """

    directory: str
    checked: check.Checked
    resumed: int = 0


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
        resume: go on with an earlier conversion of the same plan, if it was stopped or killed.
        finish: a last look at the new step before it is put in place: at its directory, and at
            its tree as it was read back.
        progress: called with the bytes of each piece that is done.

    Raises:
        ConvertError: the destination is not a good one.
        PreflightError: memory or disk is too small.
        CheckpointError: the source is damaged, or changed meanwhile; the destination is as before.
        Interrupted: the user stopped it; `resume` goes on.
    """
    plan.preflight(todo, destination)
    with pool.heap(keep=plan.workers(todo).keep):
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
            commit.check(root, place, step, overwrite=overwrite)
        begun = group.agree("begun", lambda: str(commit.begin(place, digest, resume=resume)))
        temporary = Path(begun)
        notes = journal.Journal(temporary, digest, group.index)
        work = _Work(todo, temporary, place.name, notes, group, stop, progress)
        try:
            checked = work.convert()
            _check_unchanged(source, before)
            if group.first:
                finish(work.step, work.seen)
                work.commit(place, step, overwrite=overwrite)
            group.meet("committed")
        except pool.Stopped as stopped:
            raise errors.Interrupted(_stopped(work.finished, work.total)) from stopped
        except commit.Taken:
            raise
        except BaseException:
            if group.first:
                commit.remove(temporary)
            raise
    made = place if work.flat else place / work.step.relative_to(temporary)
    return Result(str(made), checked, work.resumed)


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
    plan.preflight(todo, destination)
    if kv.is_url(destination):
        remote.Remote(todo, destination).check(overwrite=overwrite, resume=resume)
        return
    source = todo.conversion.storage
    root = None if kv.is_url(source.url) else Path(source.url)
    commit.check(root, *_place(todo, destination), overwrite=overwrite)


def there(todo: Plan, destination: str) -> str:
    """What is there already where the result is to be, in words; empty if nothing is."""
    if kv.is_url(destination):
        return remote.Remote(todo, destination).there()
    return commit.there(*_place(todo, destination))


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
            place.target.describe(_described(todo, made))
            _each(todo, [item for item in cut if item[0] not in done], one, progress, stop)
            place.tell(made)
            checked = _checked(todo, place.target, {}, recording, place.sums())
            _check_unchanged(source, before)
            place.commit()
    except pool.Stopped as stopped:
        raise errors.Interrupted(_stopped(len(finished), len(cut))) from stopped
    except BaseException:
        place.remove()
        raise
    return Result(place.step, checked, len(done))


def _checked(
    todo: Plan, target: Target, shared: dict[str, str], recording: Recording, sums: Iterable[Found]
) -> check.Checked:
    """Looks at the result, and writes the record of its checksums."""
    for found in sums:
        recording.add(found)
    recording.carry()
    checked = check.check(todo, target, shared, recording)
    recording.write(target.url)
    return checked


def _check_unchanged(source: Any, before: str) -> None:
    if source.fingerprint() != before:
        raise errors.CheckpointError(
            f"{source.url}: the source was changed while it was read; nothing was put in place. "
            "Convert it when nobody writes to it"
        )


def _described(todo: Plan, made: dict[Any, Any]) -> list[tuple[str, Any]]:
    arrays = [(route.name, route.array) for route in todo.routes]
    return arrays + [(orbax_tree.name_of(path), array) for path, array in made.items()]


def _each(
    todo: Plan,
    items: Iterable[tuple[int, tasks.Task]],
    work: Callable[[tuple[int, tasks.Task]], None],
    progress: Progress,
    stop: pool.Stop,
) -> None:
    workers = plan.workers(todo)

    def one(item: tuple[int, tasks.Task]) -> None:
        work(item)
        progress(item[1].payload)

    pool.each(
        items,
        one,
        threads=workers.threads,
        budget=pool.Budget(workers.memory),
        size=lambda item: item[1].nbytes,
        stop=stop,
    )


def _stopped(finished: int, total: int) -> str:
    return (
        f"interrupted: {finished} of {total} pieces are done and kept. "
        "Go on with the same command and --resume"
    )


class _Work:
    """One conversion under way."""

    def __init__(
        self,
        todo: Plan,
        temporary: Path,
        name: str,
        notes: journal.Journal,
        group: processes.Group,
        stop: pool.Stop,
        progress: Progress,
    ):
        self.todo, self.group, self.stop, self.progress = todo, group, stop, progress
        self.temporary = temporary
        self.flat = todo.conversion.container != "orbax"
        number = todo.conversion.step
        self.step = temporary if number is None else temporary / str(number)
        names = documents.item_names(todo.conversion)
        one = len(names) == 1 and not todo.conversion.items
        self.items = self.step / names[0] if one else self.step
        self.trees = [self.step / name for name in names] or [self.step]
        if self.flat:
            self.step = self.items = temporary / name  # its suffix tells what it is
        self.leaves = tasks.source_leaves(todo.conversion)
        self.journal = notes
        self.made = documents.made_arrays(todo.conversion, todo.zarr)
        self.recording = Recording(todo)
        self.seen: orbax.Orbax | None = None
        self.resumed = self.finished = self.total = 0

    def convert(self) -> check.Checked:
        todo, group = self.todo, self.group
        if self.flat:
            return self._convert_flat()
        for tree in self.trees:
            tree.mkdir(parents=True, exist_ok=True)
        parts = todo.conversion.items
        target = Target(str(self.items), use_ocdbt=todo.ocdbt, parts=parts)
        mine = target
        if group.count > 1 and todo.ocdbt:
            mine = Target(str(self.items), use_ocdbt=True, folder=group.folder, parts=parts)
        if group.first:
            self._describe(mine, target)
        group.meet("described")
        self._pieces(mine)
        group.meet("written")
        wanted: dict[str, str] = {}
        if group.first:
            group.merge(target)
            wanted = self._share(target)
            self._documents()
        group.meet("whole")
        if not group.first:
            return check.Checked()
        checked = _checked(todo, target, wanted, self.recording, self.journal.sums())
        self.seen = target.seen
        return checked

    def _convert_flat(self) -> check.Checked:
        target = flat.FlatTarget(self.items, self.todo.conversion)
        if self.group.first:
            target.describe(())
        self.group.meet("described")
        self._pieces(target)
        self.group.meet("written")
        if self.group.first:
            flat.check(self.todo.conversion, self.items)
        counted = self.todo.options.verify != "none"
        return check.Checked(len(self.todo.routes) if counted else 0)

    def commit(self, place: Path, step: int | None, *, overwrite: bool) -> None:
        """Puts the result in place."""
        fsync = self.todo.options.fsync
        if not self.flat:
            commit.finish(self.temporary, place, step, overwrite=overwrite, fsync=fsync)
            return
        commit.place(self.items, place, overwrite=overwrite, fsync=fsync)
        commit.remove(self.temporary)

    def _describe(self, mine: Target, target: Target) -> None:
        (mine if self.group.count > 1 else target).describe(_described(self.todo, self.made))

    def _share(self, target: Target) -> dict[str, str]:
        chosen = self.todo.of(routes.REFERENCE)
        copied = self.todo.of(routes.CHUNK) if self.todo.files else []
        source = self.todo.conversion.storage
        if not isinstance(source, orbax.Orbax):
            return {}
        how = reference.How(stopped=self.stop.asked.is_set)
        options = self.todo.options
        looked = check.wanted(options.verify, 0)
        copying = dataclasses.replace(how, copy=True, compare=looked, fsync=options.fsync)
        wanted = reference.share(source, target, chosen, how)
        wanted |= reference.share(source, target, copied, copying)
        self.progress(sum(route.transfer.leaf.nbytes for route in (*chosen, *copied)))
        return wanted

    def _pieces(self, target: "Target | flat.FlatTarget") -> None:
        done = self.journal.done()
        self.resumed = len(done)
        todo = self.todo
        cut = list(enumerate(tasks.cut(todo.conversion, todo.pieces, todo.options)))
        self.total, self.finished = len(cut), len(done)
        share = [item for item in cut if item[0] % self.group.count == self.group.index]

        def one(item: tuple[int, tasks.Task]) -> None:
            number, task = item
            found = pieces.perform(
                task, todo, target, self.leaves, self.made, number, self.recording
            )
            self.journal.finish(number, found)
            self.finished += 1

        pending = [item for item in share if item[0] not in done]
        _each(todo, pending, one, self.progress, self.stop)

    def _documents(self) -> None:
        todo = self.todo
        told = documents.tree(
            todo.conversion, todo.routes, self.made, ocdbt=todo.ocdbt, version=todo.zarr
        )
        others = _take_over(todo, self.step)
        told_step = documents.step(todo.conversion, others)
        for name, data in told.items():
            file = self.items / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        (self.step / places.STEP_METADATA).write_bytes(told_step)
        for directory in {self.step, *self.trees}:
            marker = f"Checkpoint commit was successful to {directory.name}\n"
            (directory / places.MARKER).write_text(marker)


def _take_over(todo: Plan, step: Path) -> list[str]:
    """Copies what else is in the source's step: the data loader's state, other items."""
    source = todo.conversion.storage
    if not isinstance(source, orbax.Orbax) or not documents.item_names(todo.conversion):
        return []
    above = files.Files(str(source.step_dir))
    found, _ = documents.beside(todo.conversion)
    for name in found:
        (step / name).parent.mkdir(parents=True, exist_ok=True)
        if kv.is_url(source.items):
            (step / name).write_bytes(above.read(name) or b"")
        else:
            shutil.copyfile(Path(str(source.step_dir)) / name, step / name)
    return sorted({name.partition("/")[0] for name in found})
