"""Finds checkpoints, and judges by names and small files whether they are whole."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from maxmig import errors

STEP_METADATA = "_CHECKPOINT_METADATA"
TREE_METADATA = "_METADATA"
MARKER = "commit_success.txt"
TEMPORARY = ".orbax-checkpoint-tmp"


@dataclass(frozen=True)
class Place:
    """One checkpoint.

    Attributes:
        items: the directory that holds the tree.
        step_dir: the step's directory, None when `items` stands alone.
        step: the number of the step's directory, if it has one.
    """

    items: Path
    step_dir: Path | None
    step: int | None

    def __str__(self) -> str:
        return str(self.step_dir or self.items)


def locate(path: str | Path, step: int | None = None) -> Place:
    """Finds a checkpoint.

    Args:
        path: a directory of steps, one step's directory, or an items directory.
        step: which step of a directory of steps; None takes the last complete one.

    Raises:
        CheckpointError: there is nothing, nothing whole, or nothing readable at the path.
    """
    path = _readable(Path(path).absolute())
    if (path / TREE_METADATA).is_file():
        found = _place_of_items(path)
    elif items := _items_of(path):
        found = Place(items, path, _number(path))
    elif path.name.isdigit() and (path / STEP_METADATA).is_file():
        _refuse_several(path)
        raise errors.CheckpointError(_broken(path, "it holds no tree"))
    else:
        return _locate_step(path, step)
    if step is not None and found.step is not None and step != found.step:
        raise errors.CheckpointError(
            f"{path}: expected step {step}, but this is the directory of step {found.step}; "
            "give the directory above it"
        )
    if reason := incomplete(found):
        raise errors.CheckpointError(_broken(found.step_dir or found.items, reason))
    return found


def steps(directory: str | Path) -> list[int]:
    """The numbers of all complete steps, ascending; empty when the directory does not exist."""
    directory = Path(directory).absolute()
    if not directory.is_dir():
        return []
    found = []
    for child in directory.iterdir():
        items = _items_of(child) if child.name.isdigit() else None
        if items and incomplete(Place(items, child, int(child.name))) is None:
            found.append(int(child.name))
    return sorted(found)


def incomplete(place: Place) -> str | None:
    """Why a checkpoint is only half-written, or None when it is whole as far as names can tell."""
    if any(TEMPORARY in part.name for part in (place.items, place.step_dir) if part):
        return "its name is that of a save that was not finished"
    if place.step_dir is not None:
        marked = [(part / MARKER).is_file() for part in (place.step_dir, place.items)]
        if place.step_dir != place.items and marked[0] != marked[1]:
            return (
                f"the commit marker {MARKER} is missing in one of {place.step_dir.name}/ and items/"
            )
        described = place.step_dir / STEP_METADATA
        if (
            described.is_file()
            and not marked[0]
            and not read_json(described).get("commit_timestamp_nsecs")
        ):
            return "no commit marker and no time of commit"
    ocdbt = read_json(place.items / TREE_METADATA).get("use_ocdbt")
    if ocdbt and not (place.items / "manifest.ocdbt").is_file():
        return "manifest.ocdbt, the index of its arrays, is missing"
    return None


def metadata(place: Place) -> dict[str, Any]:
    """The custom metadata of a step: what the writer wanted to be remembered; empty when none."""
    for directory in (place.step_dir, place.items):
        if directory is not None and (directory / STEP_METADATA).is_file():
            return dict(read_json(directory / STEP_METADATA).get("custom_metadata") or {})
    return {}


def _locate_step(path: Path, step: int | None) -> Place:
    found = steps(path)
    if step is None and found:
        step = found[-1]
    if step in found:
        directory = path / str(step)
        items = _items_of(directory)
        assert items is not None  # steps() saw it
        return Place(items, directory, step)
    if TEMPORARY in path.name:
        raise errors.CheckpointError(
            _broken(path, "its name is that of a save that was not finished")
        )
    if step is not None:
        _refuse_step(path, step, found)
    halves = [child for child in path.iterdir() if child.name.split(".")[0].isdigit()]
    for half in sorted(halves, key=lambda half: _number(half) or 0, reverse=True):
        _refuse_several(half)
    if halves:
        raise errors.CheckpointError(
            f"{path}: expected at least one complete checkpoint, but all {len(halves)} steps in it "
            f"are half-written ({', '.join(sorted(half.name for half in halves))}); "
            "the writer was stopped before its first save was finished: start it again"
        )
    files = sorted(child.name for child in path.glob("checkpoint_*") if child.is_file())
    if files:  # what `flax.training.checkpoints` wrote
        raise errors.CheckpointError(
            f"{path}: expected a checkpoint, but this is a directory of files, one for each "
            f"({', '.join(files[:5])}{', ...' if len(files) > 5 else ''}): give one of them"
        )
    held = "it is empty" if not any(path.iterdir()) else "it holds none"
    raise errors.CheckpointError(
        f"{path}: expected a checkpoint (a directory of steps such as checkpoint/, one step such "
        f"as checkpoint/9, or its items/), but {held}; check the path"
    )


def _refuse_step(path: Path, step: int, found: list[int]) -> NoReturn:
    directory = path / str(step)
    _refuse_several(directory)
    good = f"complete steps: {', '.join(map(str, found))}" if found else "there is no complete step"
    halves = list(path.glob(f"{step}{TEMPORARY}*"))
    if not directory.exists() and not halves:
        raise errors.CheckpointError(f"{path}: expected step {step}, which is not there; {good}")
    items = _items_of(directory) if directory.is_dir() else None
    reason = incomplete(Place(items, directory, step)) if items else "it holds no tree"
    if halves and not directory.exists():
        directory, reason = halves[0], "its name is that of a save that was not finished"
    raise errors.CheckpointError(_broken(directory, reason))


def _broken(directory: Path, reason: str | None) -> str:
    text = f"{directory}: half-written: {reason}"
    others = steps(directory.parent) if _number(directory) is not None else []
    if others:
        return f"{text}; the last good step beside it is {others[-1]}: load that one"
    return f"{text}; there is no complete step beside it"


def _place_of_items(path: Path) -> Place:
    above = path.parent
    if (above / STEP_METADATA).is_file() and not (path / STEP_METADATA).is_file():
        return Place(path, above, _number(above))
    return Place(path, path if _number(path) is not None else None, _number(path))


def _items_of(directory: Path) -> Path | None:
    """The item that holds the tree: `items`, or the only one that there is."""
    if (directory / "items" / TREE_METADATA).is_file():
        return directory / "items"
    try:
        if (directory / TREE_METADATA).is_file():
            return directory
        found = trees_of(directory)
    except OSError:
        return None
    return found[0] if len(found) == 1 else None


def trees_of(directory: Path) -> list[Path]:
    """All items of a step that hold a tree, such as `params` and `ema`."""
    return sorted(
        child
        for child in directory.iterdir()
        if not child.name[0].isdigit() and (child / TREE_METADATA).is_file()
    )


def _refuse_several(directory: Path) -> None:
    """Refuses to choose among the trees of a step."""
    found = [item.name for item in trees_of(directory)] if directory.is_dir() else []
    if len(found) > 1:
        raise errors.CheckpointError(
            f"{directory}: expected a step with one tree, but it holds {len(found)}: "
            f"{', '.join(found)}; give the path of one, such as {directory / found[0]}"
        )


def _number(directory: Path) -> int | None:
    head = directory.name.split(".")[0]
    return int(head) if head.isdigit() else None


def _readable(path: Path) -> Path:
    try:
        if path.is_dir():
            next(path.iterdir(), None)
            return path
        kind = "it is a file" if path.exists() else "there is nothing"
    except OSError as error:
        kind = f"it cannot be read ({error.strerror})"
    raise errors.CheckpointError(f"{path}: expected the directory of a checkpoint, but {kind}")


def read_json(path: Path) -> dict[str, Any]:
    """A file of Orbax metadata; raises as `load_json`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(str(path), error) from error
    return load_json(data, str(path))


def load_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: it is not one, or is nested too deep to be read.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _unreadable(where, error) from error
    if not isinstance(found, dict):
        raise errors.CheckpointError(f"{where}: expected a JSON object, got {type(found).__name__}")
    return found


def _unreadable(where: str, error: Exception) -> errors.CheckpointError:
    return errors.CheckpointError(
        f"{where}: expected Orbax metadata (JSON), but reading it failed: {error}; "
        "the checkpoint is damaged: take another step or another copy"
    )
