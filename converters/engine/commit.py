"""A result appears at once, whole, or not at all."""

import os
import shutil
from pathlib import Path

from maxmig import errors
from maxmig.converters.engine import journal


def check(origin: Path | None, destination: Path, *, overwrite: bool) -> None:
    """Refuses a destination before anything is written.

    Raises:
        ConvertError: it exists, lies in the source or holds it, or there is nothing to put it in.
    """
    resolved = destination.resolve()
    if origin is not None:
        origin = origin.resolve()
        if resolved == origin or origin in resolved.parents or resolved in origin.parents:
            raise errors.ConvertError(
                f"{destination}: expected a directory apart from the source {origin}; "
                "the source is never changed"
            )
    if (destination.exists() or destination.is_symlink()) and not overwrite:
        raise errors.ConvertError(
            f"{destination}: exists already; choose another directory or give --overwrite"
        )
    above = destination.parent
    if not above.is_dir():
        raise errors.ConvertError(f"{above}: expected a directory to write into; make it first")
    if not os.access(above, os.W_OK | os.X_OK):
        raise errors.ConvertError(f"{above}: no permission to write there; choose another place")


def begin(destination: Path, digest: str, *, resume: bool) -> Path:
    """A temporary directory beside the destination: a new one, or that of a stopped conversion.

    What earlier conversions to this destination left behind, that were killed and are not resumed,
    is removed.
    """
    mine = destination.with_name(f".{destination.name}.maxmig-tmp-{os.getpid()}")
    remains = []
    for path in sorted(destination.parent.glob(f".{destination.name}.maxmig-tmp-*")):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and (int(pid) == os.getpid() or not _alive(int(pid))):
            remains.append(path)
    fitting = [path for path in remains if resume and journal.digest_of(path) == digest]
    for path in remains:
        if path not in fitting[:1]:
            remove(path)
    if fitting and fitting[0] != mine:
        fitting[0].rename(mine)
    mine.mkdir(exist_ok=True)
    return mine


def finish(temporary: Path, destination: Path) -> None:
    """Puts the result in place; an old destination goes only when the new one is there."""
    shutil.rmtree(temporary / journal.FOLDER, ignore_errors=True)
    place(temporary, destination)


def place(temporary: Path, destination: Path) -> None:
    """Renames a finished file or directory to its place; what was there goes afterwards."""
    if not destination.exists() and not destination.is_symlink():
        temporary.rename(destination)
        return
    old = destination.with_name(f".{destination.name}.maxmig-old-{os.getpid()}")
    destination.rename(old)
    try:
        temporary.rename(destination)
    except BaseException:
        old.rename(destination)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Removes a file, a link or a directory."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's process
        pass
    return True
