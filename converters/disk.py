"""Orbax checkpoints on disk: find them, judge whether they are whole, read metadata, load leaves.

Nothing here knows layouts: paths are disk paths, and trees are what Orbax's metadata show.
"""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters import leaves
from maxmig.converters.leaves import DiskPath, Hole, Leaf

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
    """Finds a checkpoint: in a directory of steps, in one step's directory, or in an items directory.

    Args:
        path: any of the three.
        step: which step of a directory of steps; None takes the last complete one.

    Raises:
        CheckpointError: there is nothing, nothing whole, or nothing readable at the path.
    """
    path = _readable(Path(path))
    if (path / TREE_METADATA).is_file():
        found = _place_of_items(path)
    elif items := _items_of(path):
        found = Place(items, path, _number(path))
    elif path.name.isdigit() and (path / STEP_METADATA).is_file():
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
    directory = Path(directory)
    if not directory.is_dir():
        return []
    found = []
    for child in directory.iterdir():
        if child.name.isdigit() and (items := _items_of(child)):
            if incomplete(Place(items, child, int(child.name))) is None:
                found.append(int(child.name))
    return sorted(found)


def incomplete(place: Place) -> str | None:
    """Why a checkpoint is only half-written, or None when it is whole as far as names can tell."""
    if any(TEMPORARY in part.name for part in (place.items, place.step_dir) if part):
        return "its name is that of a save that was not finished"
    if place.step_dir is not None:
        marked = [(part / MARKER).is_file() for part in (place.step_dir, place.items)]
        if place.step_dir != place.items and marked[0] != marked[1]:
            return f"the commit marker {MARKER} is missing in one of {place.step_dir.name}/ and items/"
        described = place.step_dir / STEP_METADATA
        if described.is_file() and not marked[0] and not _json(described).get("commit_timestamp_nsecs"):
            return "no commit marker and no time of commit"
    if _json(place.items / TREE_METADATA).get("use_ocdbt"):
        if not (place.items / "manifest.ocdbt").is_file():
            return "manifest.ocdbt, the index of its arrays, is missing"
    return None


def metadata(place: Place) -> dict[str, Any]:
    """The custom metadata of a step: what the writer wanted to be remembered; empty when none."""
    for directory in (place.step_dir, place.items):
        if directory is not None and (directory / STEP_METADATA).is_file():
            return dict(_json(directory / STEP_METADATA).get("custom_metadata") or {})
    return {}


def add_metadata(step_dir: Path, custom: Mapping[str, Any]) -> None:
    """Adds custom metadata to a step that is not in use yet; what it says itself already, stays."""
    file = step_dir / STEP_METADATA
    found = _json(file)
    found["custom_metadata"] = {**custom, **(found.get("custom_metadata") or {})}
    file.write_text(json.dumps(found))


def tree(place: Place) -> dict[DiskPath, Leaf | Hole]:
    """All leaves and holes of a checkpoint with shapes and types; reads no array.

    Raises:
        CheckpointError: the metadata cannot be read.
    """
    import orbax.checkpoint as ocp
    from etils import epath

    _json(place.items / TREE_METADATA)
    with reading(place):
        nested = ocp.PyTreeCheckpointHandler().metadata(epath.Path(place.items)).tree
    keys = _key_impls(place)
    return {
        path: leaf if isinstance(leaf, Hole) else _leaf(path, leaf, keys)
        for path, leaf in leaves.walk(nested)
    }


def load(
    place: Place,
    stored: Mapping[DiskPath, Leaf | Hole],
    wanted: Mapping[DiskPath, Any],
) -> dict[DiskPath, Any]:
    """Reads some leaves and nothing else.

    Args:
        place: the checkpoint.
        stored: its whole tree, as `tree` tells it.
        wanted: {path: sharding}; None puts a leaf on the first CPU device. Shapes and types are
            those on disk: nothing is cast, cut or padded here.

    Raises:
        CheckpointError: the data are damaged, missing or not what the metadata say.
    """
    import jax
    import orbax.checkpoint as ocp
    from etils import epath

    items: dict[DiskPath, Any] = {}
    args: dict[DiskPath, Any] = {}
    for path, leaf in stored.items():
        items[path], args[path] = leaf, leaf
        if isinstance(leaf, Leaf):
            items[path], args[path] = ocp.PLACEHOLDER, ocp.RestoreArgs()
            if path in wanted:
                items[path] = struct(leaf)
                args[path] = _restore_args(leaf, wanted[path])
    with reading(place):
        request = ocp.args.PyTreeRestore(item=leaves.nest(items), restore_args=leaves.nest(args))
        restored = ocp.PyTreeCheckpointHandler().restore(epath.Path(place.items), args=request)
        found = {path: value for path, value in leaves.walk(restored) if path in wanted}
        jax.block_until_ready(found)
    for path, value in found.items():
        if describe(value) != stored[path]:
            raise errors.CheckpointError(
                f"{place}: {leaves.spell(path)}: the metadata say {stored[path]}, "
                f"the data are {describe(value)}; the checkpoint is damaged"
            )
    return found


def groups(
    stored: Mapping[DiskPath, Leaf | Hole], paths: Iterator[DiskPath], limit: int = 64 << 20
) -> Iterator[list[DiskPath]]:
    """Cuts paths into runs of at most `limit` bytes, or of one leaf that is larger."""
    group: list[DiskPath] = []
    size = 0
    for path in paths:
        leaf = stored[path]
        nbytes = leaf.nbytes if isinstance(leaf, Leaf) else 0
        if group and size + nbytes > limit:
            yield group
            group, size = [], 0
        group.append(path)
        size += nbytes
    if group:
        yield group


def describe(value: Any) -> Leaf:
    """Shape and type of an array or a `ShapeDtypeStruct`, random keys included."""
    import jax
    import numpy as np

    shape = tuple(value.shape)
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return _key_leaf(shape, _key_impl(value.dtype))
    dtype = np.dtype(value.dtype)
    return Leaf(shape, dtype.name, dtype.itemsize * int(np.prod(shape, dtype=np.int64)))


def struct(leaf: Leaf, sharding: Any = None) -> Any:
    """The `jax.ShapeDtypeStruct` of a leaf."""
    import jax
    import jax.numpy as jnp

    dtype = _key_dtype(leaf.dtype[4:-1]) if leaf.is_key else jnp.dtype(leaf.dtype)
    return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)


@contextlib.contextmanager
def reading(place: Place) -> Iterator[None]:
    """Turns whatever goes wrong while a checkpoint is read into a `CheckpointError`."""
    try:
        yield
    except errors.MaxmigError:
        raise
    except PermissionError as error:
        raise errors.CheckpointError(f"{place}: no permission to read {error.filename}") from error
    except Exception as error:
        told = "\n  ".join(str(error).strip().splitlines()[:4])
        raise errors.CheckpointError(
            f"{place}: expected a readable Orbax tree, but reading it failed; the files are damaged "
            f"or incomplete. Take another step or another copy.\n  {type(error).__name__}: {told}"
        ) from error


def _restore_args(leaf: Leaf, sharding: Any) -> Any:
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    if not leaf.is_key and jax.dtypes.canonicalize_dtype(leaf.dtype) != np.dtype(leaf.dtype):
        return ocp.RestoreArgs(restore_type=np.ndarray)  # JAX would narrow 64 bits to 32
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    if not leaf.is_key:
        return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding)
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array,
        sharding=sharding,
        global_shape=leaf.shape,
        dtype=_key_dtype(leaf.dtype[4:-1]),
    )


@functools.cache
def _key_impl(dtype: Any) -> str:
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        if _key_dtype(impl) == dtype:
            return impl
    raise errors.CheckpointError(
        f"expected random keys of JAX's own kinds (threefry2x32, rbg, unsafe_rbg), got {dtype}"
    )


@functools.cache
def _key_dtype(impl: str) -> Any:
    import jax

    return jax.eval_shape(lambda: jax.random.key(0, impl=impl)).dtype


def _key_leaf(shape: tuple[int, ...], impl: str) -> Leaf:
    import jax
    import numpy as np

    data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl)))
    return Leaf(shape, f"key<{impl}>", int(np.prod((*shape, *data.shape), dtype=np.int64)) * 4)


def _leaf(path: DiskPath, found: Any, keys: Mapping[str, str]) -> Leaf:
    impl = keys.get(".".join(str(key) for key in path))
    if impl is not None:
        return _key_leaf(tuple(found.shape[:-1]), impl)
    if not hasattr(found, "shape"):
        import numpy as np

        dtype = np.dtype(getattr(found, "dtype", None) or "float64")
        return Leaf((), dtype.name, dtype.itemsize)
    return describe(found)


def _key_impls(place: Place) -> dict[str, str]:
    """Which leaves are typed random keys; Orbax tells it beside the tree, not in it."""
    found = {}
    for file in sorted((place.items / "array_metadatas").glob("process_*")):
        for entry in _json(file).get("array_metadatas", []):
            array = entry.get("array_metadata", {})
            impl = (array.get("ext_metadata") or {}).get("random_key_impl")
            if impl:
                found[array["param_name"]] = impl
    return found


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
        raise errors.CheckpointError(_broken(path, "its name is that of a save that was not finished"))
    if step is not None:
        return _refuse_step(path, step, found)
    halves = [child for child in path.iterdir() if child.name.split(".")[0].isdigit()]
    if halves:
        raise errors.CheckpointError(
            f"{path}: expected at least one complete checkpoint, but all {len(halves)} steps in it "
            f"are half-written ({', '.join(sorted(half.name for half in halves))}); "
            "the writer was stopped before its first save was finished: start it again"
        )
    held = "it is empty" if not any(path.iterdir()) else "it holds none"
    raise errors.CheckpointError(
        f"{path}: expected a checkpoint (a directory of steps such as checkpoint/, one step such as "
        f"checkpoint/9, or its items/), but {held}; check the path"
    )


def _refuse_step(path: Path, step: int, found: list[int]) -> Place:
    directory = path / str(step)
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
        found = [
            child
            for child in directory.iterdir()
            if not child.name[0].isdigit() and (child / TREE_METADATA).is_file()
        ]
    except OSError:
        return None
    return found[0] if len(found) == 1 else None


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


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise errors.CheckpointError(
            f"{path}: expected Orbax metadata (JSON), but reading it failed: {error}; "
            "the checkpoint is damaged: take another step or another copy"
        ) from error
    if not isinstance(found, dict):
        raise errors.CheckpointError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found
