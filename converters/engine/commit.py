"""A result appears at once, whole, or not at all."""

import os
import shutil
import socket
from pathlib import Path

from maxmig import errors
from maxmig.converters import places
from maxmig.converters.engine import durable, joining, journal
from maxmig.converters.engine.joining import ALONE, Trees

_FILES = (".msgpack", ".safetensors")
_TREE = (places.TREE_METADATA, places.STEP_METADATA, places.MARKER)


class Taken(errors.ConvertError):
    """Something appeared at the destination while the conversion went on."""


def slot(destination: Path, step: int | None, trees: Trees = ALONE) -> Path:
    """Where a result goes: as a further step into a directory of steps, or as a further tree into
    such a step, else to DST itself.

    Args:
        destination: what the user gave.
        step: the number of the result's step; None: it is a file, or a tree without steps.
        trees: those of the source's step.
    """
    if step is None or not destination.is_dir():
        return destination
    place = destination / str(step)
    if trees.join(place):
        return place / trees.names[0]
    inside = list(destination.iterdir())
    if not inside or places.steps(destination) or any(map(_several, inside)):
        return place
    return destination


def check(
    origin: Path | None,
    destination: Path,
    step: int | None = None,
    trees: Trees = ALONE,
    *,
    overwrite: bool,
) -> None:
    """Refuses a destination before anything is written.

    Raises:
        ConvertError: it exists, is no checkpoint that could be replaced, lies in the source or
            holds it, or there is nothing to put it in.
    """
    place = slot(destination, step, trees)
    resolved = place.resolve()
    if origin is not None:
        origin = origin.resolve()
        if resolved == origin or origin in resolved.parents or resolved in origin.parents:
            raise errors.ConvertError(
                f"{place}: expected a directory apart from the source {origin}; "
                "the source is never changed"
            )
    if _exists(place):
        if not overwrite:
            raise errors.ConvertError(
                f"{place}: exists already; choose another directory or give --overwrite"
            )
        _check_replaceable(place)
    above = destination.parent
    if not above.is_dir():
        raise errors.ConvertError(f"{above}: expected a directory to write into; make it first")
    if not os.access(above, os.W_OK | os.X_OK):
        raise errors.ConvertError(f"{above}: no permission to write there; choose another place")


def there(destination: Path, step: int | None = None, trees: Trees = ALONE) -> str:
    """What is already where a result goes, in words; empty if nothing is."""
    place = slot(destination, step, trees)
    if not _exists(place):
        return ""
    if place.is_symlink() or not place.is_dir():
        return f"{place} exists: a {'link' if place.is_symlink() else 'file'}"
    held = [tree.name for tree in places.trees_of(place)]
    if len(held) > 1:
        return f"{place} exists: a step of {len(held)} trees, {', '.join(held)}"
    return f"{place} exists: a directory of {sum(1 for _ in place.iterdir())} entries"


def begin(destination: Path, digest: str, *, resume: bool) -> Path:
    """A temporary directory beside the destination: a new one, or that of a stopped conversion.

    What earlier conversions to this destination left behind, that were killed and are not resumed,
    is removed.
    """
    mine = destination.with_name(f".{destination.name}.maxmig-tmp-{os.getpid()}")
    remains = []
    for path in sorted(destination.parent.glob(f".{destination.name}.maxmig-tmp-*")):
        pid = path.name.rpartition("-")[2]
        here = journal.host_of(path) in (None, socket.gethostname())
        if here and pid.isdigit() and (int(pid) == os.getpid() or not _alive(int(pid))):
            remains.append(path)
    fitting = [path for path in remains if resume and journal.digest_of(path) == digest]
    for path in remains:
        if path not in fitting[:1]:
            remove(path)
    if fitting and fitting[0] != mine:
        fitting[0].rename(mine)
    mine.mkdir(exist_ok=True)
    return mine


def finish(
    temporary: Path,
    destination: Path,
    step: int | None,
    trees: Trees = ALONE,
    *,
    overwrite: bool,
    fsync: bool = True,
) -> Path:
    """Puts a tree in place; an old one goes only when the new one is there.

    Where a directory of steps has appeared meanwhile (other steps are converted at the same time),
    the step goes into it; and the tree into a step of other trees.

    Returns:
        The new step; of a tree that came to others its directory.

    Raises:
        Taken: something else is there now.
        CheckpointError: the disk did not take what was written.
    """
    while True:
        target = slot(destination, step, trees)
        made = temporary / target.relative_to(destination)
        old = _exists(target)
        if old and not overwrite:
            raise _taken(target)  # with the journal, so that --resume goes on
        shutil.rmtree(temporary / journal.FOLDER, ignore_errors=True)
        joins = target.parent.parent == destination
        if joins:  # before it comes: what is told of no tree does not count
            joining.tell(made.parent, target.parent, target.name, fsync=fsync)
        try:
            place(made, target, overwrite=old, fsync=fsync)  # never what is there only since
            break
        except Taken:
            if slot(destination, step, trees) == target and not overwrite:
                raise
    if made != temporary:
        remove(temporary)
    return target if joins or step is None else destination / str(step)


def place(made: Path, target: Path, *, overwrite: bool, fsync: bool = True) -> None:
    """Renames a finished file or directory to its place; what was there goes afterwards.

    Raises:
        Taken: something else is there now.
        CheckpointError: the disk did not take what was written.
    """
    if fsync:
        durable.settle(made)
    if _exists(target):
        if not overwrite:
            raise _taken(target)
        _check_replaceable(target)
        old = target.with_name(f".{target.name}.maxmig-old-{os.getpid()}")
        target.rename(old)
        try:
            made.rename(target)
        except BaseException:
            old.rename(target)
            raise
        remove(old)
    elif made.is_dir():
        try:
            made.rename(target)
        except OSError as error:
            if _exists(target):  # since a moment ago
                raise _taken(target) from error
            raise
    else:
        try:
            os.link(made, target)  # unlike a renaming, never in place of another file
        except FileExistsError as error:
            raise _taken(target) from error
        made.unlink()
    if fsync:
        durable.sync_folder(target.parent)


def remove(path: Path) -> None:
    """Removes a file, a link or a directory."""
    durable.forget(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _several(child: Path) -> bool:
    """Whether it is a step of several trees."""
    return child.name.isdigit() and child.is_dir() and len(places.trees_of(child)) > 1


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _taken(target: Path) -> Taken:
    return Taken(
        f"{target}: appeared while the conversion went on, and is left as it is. Move it away, and "
        "the same command with --resume puts the result in place"
    )


def _check_replaceable(target: Path) -> None:
    """Raises a `ConvertError` where something would go that is no checkpoint."""
    if target.is_dir() and not target.is_symlink():
        names = [child.name for child in target.iterdir()]
        if not names or any(name in names for name in _TREE) or all(map(str.isdigit, names)):
            return
        if places.steps(target):
            raise errors.ConvertError(
                f"{target}: holds a run's steps, and the result has none; choose another place"
            )
    elif target.is_file() and target.suffix in _FILES:
        return
    raise errors.ConvertError(
        f"{target}: --overwrite replaces checkpoints only, and this does not look like one; "
        "remove it yourself, or choose another place"
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's process
        pass
    return True
