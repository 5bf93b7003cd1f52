"""Forces what was written to the disk, so that a power failure finds it whole."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent import futures
from pathlib import Path
from stat import S_ISREG

from maxmig import errors

_FEW = 32  # files that are not worth starting threads for
_AT_ONCE = 32  # files; the journal of a file system takes many in one go
_TOGETHER = 8 << 20  # bytes that are verified before new files are looked for,
_EACH = 8 << 10  # and as many more for each file there is: looking takes time
_UNFINISHED = ".__lock"  # TensorStore writes a file under such a name, and renames it


def settle(root: Path) -> None:
    """Waits until all that is new in a file or directory is on the disk.

    A power failure after the renaming then finds whole files under the final name. Files that are
    shared with the source by hard links were there before; their new names are in the directories.

    Raises:
        CheckpointError: the disk did not take it.
    """
    done: dict[str, int] = {}
    for future in forget(root):
        done |= future.result()
    if not root.is_dir():
        _sync(str(root))
        return
    folders, fresh = [], []
    for folder, _, _ in os.walk(root):
        folders.append(folder)
        with os.scandir(folder) as entries:
            told = [(entry.path, entry.stat(follow_symlinks=False)) for entry in entries]
        own = [(path, at) for path, at in told if S_ISREG(at.st_mode) and at.st_nlink == 1]
        fresh += [path for path, at in own if done.get(path) != at.st_mtime_ns]
    apply: Callable = map if len(fresh) <= _FEW else _threads().map
    list(apply(_sync, fresh))
    list(apply(sync_folder, folders))


def hasten(file: Path) -> None:
    """Sends a large file that is whole and verified to the disk, while other work goes on.

    Its pages are let go of then: the next file gets them, and what other programs have in the page
    cache stays there. It may be removed meanwhile, as nodes of an index that are not needed are.
    """
    _under_way[str(file)] = _threads().submit(_sync, str(file), passing=True)


class Arrivals:
    """Hastens the data files of a database, as what they hold is verified.

    Args:
        folder: where they come to be.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._lock = threading.Lock()
        self._waiting = 0
        self._seen: set[Path] = set()

    def verified(self, nbytes: int) -> None:
        """Takes note that so many bytes more are read back."""
        with self._lock:
            self._waiting += nbytes
            if self._waiting < _TOGETHER + _EACH * len(self._seen):
                return
            self._waiting = 0
            files = set(self._folder.iterdir()) - self._seen
            came = [file for file in files if file.suffix != _UNFINISHED]
            self._seen.update(came)
        for file in came:
            hasten(file)


def ahead(root: Path, names: Iterable[str]) -> None:
    """Sends small files below a directory to the disk, one after another, while work goes on."""

    def work() -> dict[str, int]:
        done: dict[str, int] = {}
        for name in names:
            done |= _sync(str(root / name))
        return done

    _under_way[str(root)] = _threads().submit(work)


_under_way: dict[str, futures.Future[dict[str, int]]] = {}


def forget(root: Path) -> list[futures.Future[dict[str, int]]]:
    """What is under way below a directory, and is not any longer."""
    names = [name for name in _under_way if Path(name).is_relative_to(root)]
    return [_under_way.pop(name) for name in names]


@functools.cache
def _threads() -> futures.ThreadPoolExecutor:
    return futures.ThreadPoolExecutor(_AT_ONCE)


def _sync(path: str, *, passing: bool = False) -> dict[str, int]:
    """Forces a file to the disk; {its path: when it was last changed before}."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            changed = os.fstat(handle).st_mtime_ns
            os.fsync(handle)
            if passing and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            return {path: changed}
        finally:
            os.close(handle)
    except OSError as error:
        if passing and isinstance(error, FileNotFoundError):
            return {}
        raise errors.CheckpointError(
            f"{path}: the disk did not take what was written ({error.strerror}); nothing was "
            "put in place"
        ) from error


def sync_folder(path: str | Path) -> None:
    """Forces the names in a directory to the disk."""
    with contextlib.suppress(OSError):  # not every file system knows it of directories
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
