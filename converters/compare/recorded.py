"""Holds a checkpoint against its own record of checksums, and makes a record where it has none."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from maxmig import errors, trees
from maxmig.converters.compare import record
from maxmig.converters.compare.record import Record, Sums
from maxmig.converters.compare.verdicts import Line, Report
from maxmig.converters.leaves import DiskPath, Leaf, spell
from maxmig.converters.storage import Storage
from maxmig.converters.transfers import Box

_AHEAD = 2  # chunks that are read while one is looked at


@dataclass(frozen=True)
class Kept(Report):
    """A report on whether a checkpoint holds the bits that were recorded when it was written.

    Attributes:
        unknown: the arrays of which nothing is recorded.
        added: how many of them were read and recorded now.
    """

    unknown: tuple[str, ...] = ()
    added: int = 0

    @property
    def exit_code(self) -> int:
        """0 all is as recorded, 3 of some array nothing is, 4 one is not or cannot be read."""
        if "!" in self.counts:
            return 4
        return 3 if self.unknown or not self.lines else 0


def hold(
    storage: Storage,
    meant: Collection[DiskPath] | None = None,
    *,
    add: bool = False,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Kept:
    """Reads every recorded array, a few chunks at a time, and compares its checksums.

    Args:
        storage: the checkpoint.
        meant: the places of the arrays that are looked at; None: all.
        add: read the arrays of which nothing is recorded as well, and record them in the checkpoint
            if all others are as recorded.
        progress: called with the bytes that were read.

    Raises:
        CheckpointError: the record itself is damaged.
        DataError: the record cannot be written.
    """
    known = record.of(storage)
    arrays = {} if known is None else dict(known.arrays)
    whole = {path: leaf for path, leaf in storage.tree().items() if isinstance(leaf, Leaf)}
    tree = {path: leaf for path, leaf in whole.items() if meant is None or path in meant}
    lines = [
        Line("!", spell(path), f"{sums.leaf} was recorded, and is not there any more")
        for path, sums in arrays.items()
        if path not in whole
    ]
    unknown = []
    with ThreadPoolExecutor(_AHEAD) as pool:
        for path, leaf in tree.items():
            before = arrays.get(path)
            if before is None and not add:
                unknown.append(spell(path))
                continue
            line, found = _looked(storage, path, leaf, before, pool, progress)
            if before is None and line.sign == "=":
                arrays[path] = found
                unknown.append(spell(path))
            else:
                lines.append(line)
    lines.sort(key=lambda line: trees.natural_key(line.path))
    if not add or any(line.sign == "!" for line in lines):
        return Kept(tuple(lines), unknown=tuple(unknown))
    if unknown:
        _write(storage, Record(arrays, None if known is None else known.metadata))
    lines += [Line("=", name) for name in unknown]
    return Kept(tuple(lines), added=len(unknown))


def _write(storage: Storage, made: Record) -> None:
    place = record.home(storage)
    assert place is not None  # of every container that is opened by its path
    folder, name = place
    try:
        record.write(folder, made, name)
    except OSError as error:
        raise errors.DataError(
            f"{folder}: expected a directory that {name} can be written into, but: "
            f"{error.strerror}; nothing was changed"
        ) from error


def _looked(
    storage: Storage,
    path: DiskPath,
    leaf: Leaf,
    before: Sums | None,
    pool: ThreadPoolExecutor,
    progress: Callable[[int], None],
) -> tuple[Line, Sums]:
    """The verdict on one array, and its checksums as they are now."""
    name = spell(path)
    chunk = record.bounded(storage.grid(path)) if before is None else before.chunk
    found: list[int] = []
    try:
        if before is not None:
            record.refuse_other(storage, path, leaf, before)
        for box, value, nbytes in _read(storage, path, record.boxes(leaf.shape, chunk), pool):
            progress(nbytes)
            if before is not None and value != before.values[len(found)]:
                raise record.damaged(storage, path, before, box)
            found.append(value)
    except errors.CheckpointError as error:
        return Line("!", name, str(error).replace("\n", " ")), Sums(leaf, chunk, ())
    return Line("=", name), Sums(leaf, chunk, tuple(found))


def _read(
    storage: Storage, path: DiskPath, boxes: Iterable[Box], pool: ThreadPoolExecutor
) -> Iterator[tuple[Box, int, int]]:
    """(chunk, its checksum, bytes) in order; a few are read ahead."""

    def one(box: Box) -> tuple[Box, int, int]:
        array = storage.read(path, box)
        return box, record.checksum(array), array.nbytes

    waiting: deque[Future[tuple[Box, int, int]]] = deque()
    for box in boxes:
        waiting.append(pool.submit(one, box))
        if len(waiting) > _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
