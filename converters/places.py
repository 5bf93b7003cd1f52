"""Finds checkpoints, and judges by names and small files whether they are whole."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from maxmig import errors
from maxmig.converters import remembered

STEP_METADATA = "_CHECKPOINT_METADATA"
TREE_METADATA = "_METADATA"
MARKER = "commit_success.txt"
WHOLE = "orbax.checkpoint"  # beside the items of Orbax's v1 API, which have no marker of their own
TEMPORARY = ".orbax-checkpoint-tmp"
_STEP = re.compile(r"(?:checkpoint_)?([0-9]+)")  # flax.training.checkpoints has checkpoint_3
PARTS = ("model_params", "optimizer_state")  # Tunix keeps one training state in two items


@dataclass(frozen=True)
class Place:
    """One checkpoint.

    Attributes:
        items: the directory that holds the tree.
        step_dir: the step's directory, None when `items` stands alone.
        step: the number of the step's directory, if it has one.
        parts: the items that hold the tree together, where they are several; `items` is then the
            step's directory.
    """

    items: Path
    step_dir: Path | None
    step: int | None
    parts: tuple[str, ...] = ()

    @property
    def trees(self) -> tuple[Path, ...]:
        """The directories of all of its Orbax trees."""
        return tuple(self.items / part for part in self.parts) or (self.items,)

    def __str__(self) -> str:
        # A path takes the second slash of a URL away.
        return re.sub(r"^(\w{2,}):/(?!/)", r"\1://", str(self.step_dir or self.items))


def absolute(path: str | Path) -> Path:
    """A path from the root; without `..`, which TensorStore refuses."""
    path = Path(path)
    return path.resolve() if ".." in path.parts else path.absolute()


def inside(place: str | Path, given: str | Path) -> bool:
    """Whether a place lies in a directory or bucket folder that a user gave, links followed."""
    if "://" in f"{place}{given}":
        return str(place).startswith(f"{str(given).rstrip('/')}/")
    return Path(os.path.realpath(given)) in Path(os.path.realpath(place)).parents


def locate(path: str | Path, step: int | None = None) -> Place:
    """Finds a checkpoint.

    Args:
        path: a directory of steps, one step's directory, or an items directory.
        step: which step of a directory of steps; None takes the last complete one.

    Raises:
        CheckpointError: there is nothing, nothing whole, or nothing readable at the path.
    """
    path = _readable(absolute(path))
    if (path / TREE_METADATA).is_file():
        found = _place_of_items(path)
    elif held := _held_in(path):
        found = held
    elif (path / STEP_METADATA).is_file():
        _refuse_several(path)
        raise errors.CheckpointError(_broken(path, "it holds no tree"))
    else:
        return _locate_step(path, step)
    if found.step is None:
        refuse_step(path, step)
    elif step is not None and step != found.step:
        raise errors.CheckpointError(
            f"{path}: expected step {step}, but this is the directory of step {found.step}; "
            "give the directory above it"
        )
    if reason := incomplete(found):
        raise errors.CheckpointError(_broken(found.step_dir or found.items, reason))
    return found


def refuse_step(path: str | Path, step: int | None) -> None:
    """Refuses a step that is asked for of a checkpoint by itself.

    Raises:
        CheckpointError: one is.
    """
    if step is not None:
        raise errors.CheckpointError(
            f"{path}: expected a directory of steps, of which {step} would be one, but this is a "
            "checkpoint by itself; leave the step out (--step)"
        )


def steps(directory: str | Path) -> list[int]:
    """The numbers of all complete steps, ascending; empty when the directory does not exist."""
    directory = absolute(directory)
    if not directory.is_dir():
        return []
    found = set()
    for child in directory.iterdir():
        named = _STEP.fullmatch(child.name)
        held = _held_in(child) if named else None
        if named and held and incomplete(held) is None:
            found.add(int(named[1]))
    return sorted(found)


def flax_file(directory: str | Path, step: int | None = None) -> Path | None:
    """The file of a step in a directory of `flax.training.checkpoints`, by default of the last.

    Returns:
        None: it is no such directory, or Orbax wrote the steps in it.

    Raises:
        CheckpointError: the step is not there.
    """
    directory = absolute(directory)
    if not directory.is_dir():
        return None
    try:
        children = [(child, _STEP.fullmatch(child.name)) for child in directory.iterdir()]
    except OSError:  # `locate` says so
        return None
    named = {int(match[1]): child for child, match in children if match and child.is_file()}
    found = {number: child for number, child in named.items() if not child.name.isdigit()}
    if not found or (directory / TREE_METADATA).is_file() or steps(directory):
        return None
    if step is not None and step not in found:
        raise errors.CheckpointError(
            f"{directory}: expected step {step}, which is not there; complete steps: "
            f"{', '.join(map(str, sorted(found)))}"
        )
    return found[max(found) if step is None else step]


def _directory(path: Path, step: int) -> Path:
    """The directory of a step, which `flax.training.checkpoints` calls `checkpoint_3`."""
    named = path / f"checkpoint_{step}"
    return named if named.is_dir() and not (path / str(step)).exists() else path / str(step)


def incomplete(place: Place) -> str | None:
    """Why a checkpoint is only half-written, or None when it is whole as far as names can tell."""
    if any(TEMPORARY in part.name for part in (place.items, place.step_dir) if part):
        return "its name is that of a save that was not finished"
    if place.step_dir is not None:
        whole = (place.step_dir / MARKER).is_file()
        marked = not (whole and (place.step_dir / WHOLE).is_file())
        for tree in place.trees:
            if marked and place.step_dir != tree and whole != (tree / MARKER).is_file():
                return (
                    f"the commit marker {MARKER} is missing in one of {place.step_dir.name}/ and "
                    f"{tree.name}/"
                )
        described = place.step_dir / STEP_METADATA
        if (
            described.is_file()
            and not whole
            and not read_json(described).get("commit_timestamp_nsecs")
        ):
            return "no commit marker and no time of commit"
    for tree in place.trees:
        told = read_json(tree / TREE_METADATA)
        indexed = told.get("use_ocdbt") and not _is_empty(told)
        if indexed and not (tree / "manifest.ocdbt").is_file():
            return "manifest.ocdbt, the index of its arrays, is missing"
    return None


def _is_empty(told: dict[str, Any]) -> bool:
    """Whether a tree's metadata list no array, so that Orbax has written no index of them."""
    from maxmig.converters.storage import orbax_tree

    try:
        entries = [each["value_metadata"]["value_type"] for each in told["tree_metadata"].values()]
    except (KeyError, TypeError, AttributeError):  # the reader of the tree says so
        return False
    return all(kind in orbax_tree.HOLES or kind == orbax_tree.TEXT for kind in entries)


def metadata(place: Place) -> dict[str, Any]:
    """The custom metadata of a step: what the writer wanted to be remembered; empty when none."""
    for directory in (place.step_dir, place.items):
        if directory is not None and (directory / STEP_METADATA).is_file():
            file = directory / STEP_METADATA
            return remembered.custom(read_json(file), str(file), place.items.name)
    return {}


def _locate_step(path: Path, step: int | None) -> Place:
    found = steps(path)
    if step is None and found:
        step = found[-1]
    if step in found:
        held = _held_in(_directory(path, step))
        assert held is not None  # steps() saw it
        return held
    if TEMPORARY in path.name:
        raise errors.CheckpointError(
            _broken(path, "its name is that of a save that was not finished")
        )
    if step is not None:
        _refuse_step(path, step, found)
    halves = [child for child in path.iterdir() if child.is_dir() and _number(child) is not None]
    for half in sorted(halves, key=lambda half: _number(half) or 0, reverse=True):
        _refuse_several(half)
    if halves:
        raise errors.CheckpointError(
            f"{path}: expected at least one complete checkpoint, but all {len(halves)} steps in it "
            f"are half-written ({', '.join(sorted(half.name for half in halves))}); "
            "the writer was stopped before its first save was finished: start it again"
        )
    kind = "it is empty" if not any(path.iterdir()) else "it holds none"
    raise errors.CheckpointError(
        f"{path}: expected a checkpoint (a directory of steps such as checkpoint/, one step such "
        f"as checkpoint/9, or its items/), but {kind}; check the path"
    )


def _refuse_step(path: Path, step: int, found: list[int]) -> NoReturn:
    directory = _directory(path, step)
    _refuse_several(directory)
    good = f"complete steps: {', '.join(map(str, found))}" if found else "there is no complete step"
    halves = list(path.glob(f"{step}{TEMPORARY}*"))
    if not directory.exists() and not halves:
        raise errors.CheckpointError(f"{path}: expected step {step}, which is not there; {good}")
    held = _held_in(directory) if directory.is_dir() else None
    reason = incomplete(held) if held else "it holds no tree"
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


def _held_in(directory: Path) -> Place | None:
    """What a step's directory holds: the tree in `items`, Tunix's items, or the only tree."""
    number = _number(directory)
    if (directory / "items" / TREE_METADATA).is_file():
        return Place(directory / "items", directory, number)
    try:
        if (directory / TREE_METADATA).is_file():
            return Place(directory, directory, number)
        found = trees_of(directory)
    except OSError:
        return None
    if parts := parts_of([item.name for item in found]):
        return Place(directory, directory, number, parts)
    return Place(found[0], directory, number) if len(found) == 1 else None


def parts_of(names: Iterable[str]) -> tuple[str, ...]:
    """The items of a step, if they hold one tree together; none otherwise."""
    held = set(names)
    whole = PARTS[0] in held and held <= set(PARTS)
    return tuple(name for name in PARTS if name in held) if whole else ()


def trees_of(directory: Path) -> list[Path]:
    """All items of a step that hold a tree, such as `params` and `ema`."""
    return sorted(
        child
        for child in directory.iterdir()
        if not child.name[0].isdigit()
        and not _STEP.fullmatch(child.name)
        and (child / TREE_METADATA).is_file()
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
    found = _STEP.fullmatch(directory.name.split(".")[0])
    return int(found[1]) if found else None


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


def denied(error: BaseException) -> str | None:
    """What to say of an error that is a lack of permission, also TensorStore's; None of others."""
    file: object = getattr(error, "filename", None)
    if not isinstance(error, PermissionError):
        if "PERMISSION_DENIED" not in str(error):
            return None
        named = re.findall(r'"([^"]+)"', str(error))
        file = named[-1] if named else None
    return f"no permission to read {file or 'it'}; read it as its owner, or have its mode changed"


def _unreadable(where: str, error: Exception) -> errors.CheckpointError:
    if told := denied(error):
        return errors.CheckpointError(f"{where}: {told}")
    return errors.CheckpointError(
        f"{where}: expected Orbax metadata (JSON), but reading it failed: {error}; "
        "the checkpoint is damaged: take another step or another copy"
    )
