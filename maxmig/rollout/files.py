"""Writes several files, all or none: staged beside their targets, then renamed one by one.

A rename is atomic, a sequence of them is not: if one fails, those before it are undone. What a kill
in between leaves behind is in the ledger, which is written first.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maxmig.errors import DataError, PreflightError
from maxmig.rollout import document


@dataclass(frozen=True)
class Write:
    """A file that shall change from the bytes `before` to the bytes `after`."""

    path: Path
    before: bytes
    after: bytes
    name: str


def check_writable(writes: Sequence[Write]) -> None:
    """Refuses read-only files and folders before anything is written.

    Raises:
        DataError: a file or its folder cannot be written (exit code 4).
    """
    for write in writes:
        target = write.path.resolve()
        # Asked of the mode too: the administrator may write anything, and did not mean to.
        if not target.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
            raise DataError(f"{write.name}: the file is read-only; `chmod u+w {write.name}` first")
        for place in (target, target.parent):
            if not os.access(place, os.W_OK):
                raise DataError(f"{write.name}: {place} cannot be written by this user")


def commit(writes: Sequence[Write]) -> None:
    """Writes all files, or leaves all as they were.

    Raises:
        PreflightError: a file is no longer what it was when it was read.
        DataError: a write failed; the files that were written before it are as they were.
    """
    staged: dict[Path, Path] = {}
    try:
        for write in writes:
            staged[write.path] = _stage(write.path.resolve(), write.after)
        for write in writes:
            if document.read_bytes(write.path, write.name) != write.before:
                raise PreflightError(
                    f"{write.name}: the file changed just now; nothing was written"
                )
        _rename(writes, staged)
    except OSError as error:
        raise DataError(f"{error.filename}: not written: {error.strerror}") from error
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


def _rename(writes: Sequence[Write], staged: Mapping[Path, Path]) -> None:
    done: list[Write] = []
    try:
        for write in writes:
            staged[write.path].replace(write.path.resolve())
            done.append(write)
    except BaseException:  # an interrupt must not leave half of them either
        for write in reversed(done):
            _stage(write.path.resolve(), write.before).replace(write.path.resolve())
        raise
    for folder in {write.path.resolve().parent for write in writes}:
        _sync(folder)


def _stage(target: Path, data: bytes) -> Path:
    """A temporary file beside the target, with its mode and, where allowed, its owner."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".maxmig", dir=target.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    shutil.copymode(target, name)
    with contextlib.suppress(OSError):
        info = target.stat()
        os.chown(name, info.st_uid, info.st_gid)
    return Path(name)


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
