"""Does one piece of a conversion: reads, makes, writes, and looks at what was written."""

import contextlib
import functools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

from maxmig import errors
from maxmig.converters import casts, ops, transfers
from maxmig.converters.engine import check, passing, tasks
from maxmig.converters.engine.flat import FlatTarget
from maxmig.converters.engine.plan import Plan, workers
from maxmig.converters.engine.recording import Found, Recording
from maxmig.converters.engine.target import Target
from maxmig.converters.leaves import Leaf, spell
from maxmig.converters.storage import Storage, decode, files, kv, orbax, orbax_tree

Write = tuple[str, Any, transfers.Box, Any]  # name, stored form, box, array


def perform(
    task: tasks.Task,
    todo: Plan,
    target: "Target | FlatTarget",
    leaves: dict[Any, Leaf],
    made: dict[Any, Any],
    number: int,
    recording: Recording,
) -> Found:
    """Does one piece: reads, makes, writes, and looks at what was written; tells its checksums.

    Raises:
        CheckpointError: the source is damaged, or what was written reads otherwise.
    """
    looked = check.wanted(todo.options.verify, number)
    if isinstance(task, tasks.Copy):
        assert isinstance(target, Target)
        _copy(task, todo, target, looked)
        return {}
    found: Found = {}
    writes = _noted(_arrays(task, recording.source, leaves, made), target, recording, found)
    where = todo.conversion.storage.url
    if isinstance(target, Target) and task.payload <= tasks.GROUPED:
        _together(target, list(writes), where, looked)
    else:
        _streamed(target, writes, where, looked, todo)
    return found


def _noted(
    writes: Iterable[Write], target: "Target | FlatTarget", recording: Recording, found: Found
) -> Iterator[Write]:
    """Takes the checksums of what passes."""
    import numpy as np

    for name, array, box, data in writes:
        write = (name, array, box, np.asarray(data, order="C"))  # once: all that follows needs it
        for name, sums in recording.written(target, [write]).items():
            found.setdefault(name, {}).update(sums)
        yield write


def _together(target: Target, writes: list[Write], where: str, looked: bool) -> None:
    """Writes small parts in one transaction."""
    import tensorstore as ts

    with ts.Transaction() as transaction:
        written = [target.write(*write, transaction) for write in writes]
        for each in written:
            each.result()
    if looked:
        for write, each in zip(writes, written, strict=True):
            check.same(write, each, where)


def _streamed(
    target: "Target | FlatTarget",
    writes: Iterator[Write],
    where: str,
    looked: bool,
    todo: Plan,
) -> None:
    """Writes parts and reads them back in other threads, while the next ones are made."""
    ahead = workers(todo).ahead
    under_way: deque[tuple[int, futures.Future]] = deque()

    def one(write: Write) -> None:
        written = target.write(*write)
        written.result()
        if looked:
            check.same(write, written, where)
            if todo.options.fsync and isinstance(target, Target):
                target.verified(*write[:3], write[3].nbytes)

    try:
        for write in writes:
            under_way.append((write[3].nbytes, _writers().submit(one, write)))
            del write  # it is let go of when it is written
            while sum(nbytes for nbytes, _ in under_way) > ahead:
                under_way.popleft()[1].result()
        for _, future in under_way:
            future.result()
    finally:
        futures.wait([future for _, future in under_way])  # nothing goes on when one has failed


@functools.cache
def _writers() -> futures.ThreadPoolExecutor:
    return futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def _arrays(
    task: "tasks.Piece | tasks.Making",
    source: Storage,
    leaves: dict[Any, Leaf],
    made: dict[Any, Any],
) -> Iterator[Write]:
    """(name, stored form, box, array) of everything that a piece writes."""
    if isinstance(task, tasks.Making):
        for item in task.made:
            data = make(item)
            yield (
                orbax_tree.name_of(item.target),
                made[item.target],
                transfers.whole(item.leaf),
                data,
            )
        return
    if task.passes:
        with contextlib.suppress(decode.Unknown):  # then all is made anew, as it usually is
            yield from passing.writes(task, source)
            return
    chunk = _chunk(task, source, leaves) if task.read else None
    for route, box in task.writes:
        transfer = route.transfer
        kinds = [leaves[path] for path in transfer.sources]
        arrays = []
        for place, part in transfer.op.parts(box, kinds):
            path = transfer.sources[place]
            if chunk is None or task.read is None:
                arrays.append(source.read(path, part))
                continue
            inside = (
                slice(start - begin, stop - begin)
                for (start, stop), (begin, _) in zip(part, task.read[1], strict=True)
            )
            arrays.append(chunk[tuple(inside)])
        yield route.name, route.array, box, ops.make(transfer, box, kinds, arrays)


def _chunk(task: tasks.Piece, source: Storage, leaves: dict[Any, Leaf]) -> Any:
    """The chunk of the source that a piece is made of; as bfloat16 if only that is wanted."""
    assert task.read is not None
    path, box = task.read
    wanted = {route.transfer.leaf.dtype for route, _ in task.writes}
    if (
        leaves[path].dtype == "float32"
        and wanted == {"bfloat16"}
        and isinstance(source, orbax.Orbax)
    ):
        transfer = task.writes[0][0].transfer
        try:
            return source.read_narrowed(path, box)
        except OverflowError as error:
            raise casts.too_large(error, transfer.leaf, spell(transfer.target)) from error
    return source.read(path, box)


def make(item: transfers.Made) -> Any:
    """The array of a leaf without a source.

    Raises:
        ConvertError: it is not what was announced.
    """
    import numpy as np

    data = np.asarray(item.make())
    dtype = casts.numpy_dtype(item.leaf.dtype)
    if data.shape != item.leaf.stored or data.dtype != dtype:
        raise errors.ConvertError(
            f"{'/'.join(map(str, item.target))}: expected {item.leaf}, made "
            f"{data.dtype}{list(data.shape)}"
        )
    return data


def _copy(task: tasks.Copy, todo: Plan, target: Target, looked: bool) -> None:
    import tensorstore as ts

    source = todo.conversion.storage
    assert isinstance(source, orbax.Orbax)
    futures = [(origin, name, source.store.read(origin)) for origin, name in task.values]
    held: list[tuple[str, bytes]] = []
    with files.reading(source.url):
        for origin, name, future in futures:
            result = future.result()
            if result.state == "value":
                held.append((name, result.value))
            elif source.apart(origin)[1].told.stored_fill:
                raise errors.CheckpointError(
                    f"{source.url}: the chunk {origin} is missing; the checkpoint is damaged: take "
                    "another step or another copy"
                )
    with ts.Transaction() as transaction:
        store = target.store.with_transaction(transaction)
        for name, data in held:
            store[name] = data
    if looked:
        for name, data in held:
            if target.store.read(name).result().value != data:
                raise errors.CheckpointError(
                    f"{kv.join(target.url, name)}: what was written reads otherwise: the disk or "
                    "the memory is faulty; nothing was put in place"
                )
