"""Forces what was written to the disk, so that a power failure finds it whole."""

import contextlib
import functools
import os
from concurrent import futures
from pathlib import Path
from stat import S_ISREG

from maxmig import errors

_AT_ONCE = 32  # files


def settle(root: Path) -> None:
    """Waits until all that is new in a file or directory is on the disk.

    A power failure after the renaming then finds whole files under the final name. Files that are
    shared with the source by hard links were there before; their new names are in the directories.

    Raises:
        CheckpointError: the disk did not take it.
    """
    for future in forget(root):
        future.result()
    if not root.is_dir():
        _sync(str(root))
        return
    folders, fresh = [], []
    for folder, _, _ in os.walk(root):
        folders.append(folder)
        with os.scandir(folder) as entries:
            told = [(entry.path, entry.stat(follow_symlinks=False)) for entry in entries]
        fresh += [path for path, stat in told if S_ISREG(stat.st_mode) and stat.st_nlink == 1]
    with futures.ThreadPoolExecutor(_AT_ONCE) as executor:  # a journal takes many in one go
        list(executor.map(_sync, fresh))
        list(executor.map(sync_folder, folders))


def hasten(file: Path) -> None:
    """Sends a large file that is whole on its way to the disk, while other work goes on.

    It may be removed meanwhile, as copied nodes of an index that are not needed are.
    """
    _under_way[str(file)] = _hasty().submit(_sync, str(file), removed=True)


_under_way: dict[str, futures.Future[None]] = {}


def forget(root: Path) -> list[futures.Future[None]]:
    """What is under way below a directory, and is not any longer."""
    names = [name for name in _under_way if Path(name).is_relative_to(root)]
    return [_under_way.pop(name) for name in names]


@functools.cache
def _hasty() -> futures.ThreadPoolExecutor:
    return futures.ThreadPoolExecutor(4)


def _sync(path: str, *, removed: bool = False) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if removed and isinstance(error, FileNotFoundError):
            return
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
