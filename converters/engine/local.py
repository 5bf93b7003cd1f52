"""One conversion to a local disk, in a temporary directory beside its destination."""

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path

from maxmig.converters import places
from maxmig.converters.compare import record
from maxmig.converters.engine import (
    check,
    commit,
    documents,
    durable,
    flat,
    journal,
    pieces,
    pool,
    processes,
    reference,
    routes,
    tasks,
    work,
)
from maxmig.converters.engine.plan import Plan
from maxmig.converters.engine.recording import Recording
from maxmig.converters.engine.target import Target
from maxmig.converters.engine.work import Progress
from maxmig.converters.storage import files, kv, orbax


class Local:
    """One conversion under way.

    Args:
        todo: the plan.
        temporary: the directory that the result is written to.
        name: of the destination.
        notes: the journal.
        group: the processes that share the work.
        stop: whether the user has asked to stop.
        progress: called with the bytes of each piece that is done.

    Attributes:
        step: the result, not yet in its place.
        seen: the result as it was read back; None of a file.
        resumed: how many pieces an earlier conversion had done.
        finished: how many are done now.
        total: how many there are.
    """

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
        """Writes the result, and looks at it."""
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
            told = self._documents()
            wanted = self._share(target)
            if todo.options.fsync:
                durable.ahead(self.items, told)
        group.meet("whole")
        if not group.first:
            return check.Checked()
        checked = work.checked(todo, target, wanted, self.recording, self.journal.sums())
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
            for found in self.journal.sums():
                self.recording.add(found)
            self.recording.write(*record.beside(self.items))
        counted = self.todo.options.verify != "none"
        return check.Checked(len(self.todo.routes) if counted else 0)

    def commit(self, place: Path, step: int | None, *, overwrite: bool) -> Path:
        """Puts the result in place; says where it is."""
        fsync = self.todo.options.fsync
        if not self.flat:
            trees = self.todo.trees
            return commit.finish(
                self.temporary, place, step, trees, overwrite=overwrite, fsync=fsync
            )
        made, told = (Path(*record.beside(each)) for each in (self.items, place))
        if overwrite or not place.exists():
            told.unlink(missing_ok=True)  # of a file that was there before
        commit.place(self.items, place, overwrite=overwrite, fsync=fsync)
        if made.exists():
            commit.place(made, told, overwrite=False, fsync=fsync)
        commit.remove(self.temporary)
        return place

    def _describe(self, mine: Target, target: Target) -> None:
        (mine if self.group.count > 1 else target).describe(work.described(self.todo, self.made))

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
        work.each(todo, pending, one, self.progress, self.stop)

    def _documents(self) -> Iterable[str]:
        """Writes Orbax's own files; the names of those of the tree."""
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
        return told


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
