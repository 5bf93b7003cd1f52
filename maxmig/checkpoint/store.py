"""Saves and restores training states with Orbax, in either layout, losing nothing.

The directory is shaped as MaxText's: `<directory>/<step>/items`, and `<step>/iter` for the data
loader's state, so that a MaxText checkpoint directory is a maxmig one.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxmig import errors, trees
from maxmig.checkpoint import faults, match
from maxmig.converters import checkpoint, layouts, leaves, places, skeletons, stacks
from maxmig.converters.accounting import Accounting

# Which layout a rung writes when nothing is asked for: its own.
_NATIVE = {
    "linen": "linen",
    "bridged-decoder": "linen",
    "bridged": "linen",
    "hybrid": "nnx",
    "nnx": "nnx",
}
_ITEMS, _DATA = "items", "iter"


@dataclass(frozen=True)
class Restored:
    """What came out of a checkpoint.

    Attributes:
        flat: {canonical path: array}. A leaf of the target whose origin is "derived" is not in it:
            the caller keeps its own.
        metadata: what the writer said of itself (stage, layout, versions, ...); for a checkpoint of
            another program what its tree tells: layout, scan_layers, skeleton.
        data_state: the data loader's state, None if it was not saved.
        accounting: the fate of every leaf on disk and the origin of every leaf asked for.
    """

    flat: dict[str, Any]
    metadata: dict[str, Any]
    data_state: dict[str, Any] | None
    accounting: Accounting


class Store:
    """The checkpoints of one run.

    Args:
        directory: where they are; for reading also one step's directory, or its items.
        layout: `linen`, `nnx`, or `auto`: that of the wing that saves.
        keep: how many steps stay; None keeps all.
        asynchronous: save in the background; `wait` or the next `save` tells of failures.
        ocdbt: one database instead of one directory an array.
        zarr3: Zarr version 3 instead of 2.
        checksums: write a record of checksums with the arrays: `on`, `off`, or `auto`: of a state
            of up to 1 GiB. Each of several processes records the chunks that it holds.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        layout: str = "auto",
        keep: int | None = None,
        asynchronous: bool = True,
        ocdbt: bool = True,
        zarr3: bool = True,
        checksums: str = "auto",
    ):
        if layout != "auto":
            layouts.get(layout)
        self.directory = places.absolute(directory)
        self._layout = layout
        self._keep = keep
        self._asynchronous = asynchronous
        self._handler_options = {"use_ocdbt": ocdbt, "use_zarr3": zarr3}
        self._checksums = checksums
        self._manager: Any = None
        self._saved: set[int] = set()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The numbers of the complete steps, ascending."""
        if (self.directory / places.TREE_METADATA).is_file() or _is_step(self.directory):
            step = places.locate(self.directory).step
            return [] if step is None else [step]
        return places.steps(self.directory)

    def latest(self) -> int | None:
        """The last complete step, or None; half-written ones do not count."""
        return max(self.steps(), default=None)

    def save(
        self,
        step: int,
        flat: Mapping[str, Any],
        *,
        skeleton: skeletons.Skeleton = None,
        metadata: Mapping[str, Any] | None = None,
        data_state: Mapping[str, Any] | None = None,
        layout: str | None = None,
    ) -> bool:
        """Saves a state under a step's number; atomic: it is there whole or not at all.

        Args:
            step: the number of the directory: the loop index of the last step, one less than the
                stored `step`.
            flat: {canonical path: array}.
            skeleton: the optimizer's containers; None infers them from the paths.
            metadata: what the run says of itself: stage, param_scan_axis, config_digest, seed, ...
            data_state: the data loader's state, JSON.
            layout: overrides the store's.

        Returns:
            Whether it was saved now: False when this store has saved that step already.

        Raises:
            CheckpointError: a leaf is a placeholder, the step exists from another run, or writing
                failed (also that of an earlier background save); earlier checkpoints stay good.
        """
        import orbax.checkpoint as ocp

        if step in self._saved:
            return False
        if step in places.steps(self.directory):
            raise errors.CheckpointError(
                f"{self.directory}: step {step} is there already, from another run; a run that "
                "goes back must save elsewhere, or the later steps must be deleted first"
            )
        own = dict(metadata or {})
        kind = layouts.get(self._resolve(layout, own))
        if skeleton is None:
            skeleton = skeletons.infer(flat)
        tree = _disk_tree(kind, flat, skeleton)
        own |= {"layout": kind.name, "skeleton": skeleton}
        own.setdefault("scan_layers", scan_layers(flat))
        own.setdefault("versions", versions())
        custom = {"scan_layers": own["scan_layers"], "maxmig": own}
        items = {_ITEMS: ocp.args.PyTreeSave(tree)}
        if data_state is not None:
            items[_DATA] = ocp.args.JsonSave(dict(data_state))
        with faults.writing(self.directory, self.latest, self._abandon):
            self._open().save(
                step, args=ocp.args.Composite(**items), custom_metadata=custom, force=True
            )
        self._saved.add(step)
        return True

    def restore(
        self,
        step: int | None,
        target: Mapping[str, Any],
        *,
        only: str = "all",
        layout: str | None = None,
        cast: bool = False,
        expect: Mapping[str, Any] | None = None,
    ) -> Restored:
        """Restores a step straight to the shapes, types and shardings of the target.

        Args:
            step: which one; None takes the last complete one.
            target: {canonical path: jax.ShapeDtypeStruct, with a sharding or without}.
            only: `all`, or `params` to leave the rest on disk.
            layout: the layout on disk; None finds out.
            cast: allow the conversion to the target's types; each cast is in the accounting.
            expect: facts of the model to hold against the metadata, such as `param_scan_axis`.

        Raises:
            CheckpointError: there is no whole checkpoint, or it does not match; all leaves that
                differ are listed.
        """
        if only not in ("all", "params"):
            raise ValueError(f"only: expected 'all' or 'params', got {only!r}")
        self.wait()
        try:
            found = checkpoint.read(self.directory, step=step, layout=layout)
        except errors.ConvertError as error:
            raise errors.CheckpointError(f"{self.directory}: {error}") from error
        account = match.match(found, target, only=only, cast=cast, expect=expect)
        wanted = {
            entry.path: getattr(target[entry.path], "sharding", None)
            for entry in account.origins
            if entry.path in found.leaves
        }
        flat = found.load(wanted)
        for path, array in flat.items():
            if array.dtype != target[path].dtype:
                flat[path] = array.astype(target[path].dtype)
        return Restored(flat, _metadata(found), _data_state(found.place), account)

    def wait(self) -> None:
        """Waits until the background save is done.

        Raises:
            CheckpointError: it failed; earlier checkpoints stay good.
        """
        if self._manager is not None:
            with faults.writing(self.directory, self.latest, self._abandon):
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees what the store holds; it may be used again."""
        self.wait()
        if self._manager is not None:
            manager, self._manager = self._manager, None
            manager.close()

    def _resolve(self, layout: str | None, own: Mapping[str, Any]) -> str:
        asked = layout or self._layout
        if asked != "auto":
            return asked
        stage = own.get("stage")
        name = _NATIVE.get(getattr(stage, "value", stage) or "linen")
        if name is None:
            raise errors.CheckpointError(
                f"expected the stage to be one of {', '.join(_NATIVE)}, got {stage!r}"
            )
        return name

    def _open(self) -> Any:
        import orbax.checkpoint as ocp

        if self._manager is None:
            if (self.directory / places.TREE_METADATA).is_file() or _is_step(self.directory):
                raise errors.CheckpointError(
                    f"{self.directory}: expected a directory of steps to save into, but this is "
                    "one checkpoint; save into the directory above it, or into another"
                )
            faults.quiet_orbax()
            self._manager = ocp.CheckpointManager(
                self.directory,
                item_handlers={
                    _ITEMS: self._handler(),
                    _DATA: ocp.JsonCheckpointHandler(),
                },
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=self._keep,
                    enable_async_checkpointing=self._asynchronous,
                    create=True,
                    cleanup_tmp_directories=True,  # left by saves that were killed
                ),
            )
        return self._manager

    def _handler(self) -> Any:
        import orbax.checkpoint as ocp

        if self._checksums == "off":
            return ocp.PyTreeCheckpointHandler(**self._handler_options)
        from maxmig.checkpoint import recorded

        limit = recorded.LIMIT if self._checksums == "auto" else None
        return recorded.handler(limit=limit, **self._handler_options)

    def _abandon(self) -> None:
        """After a failed save: the next starts with a fresh manager, which clears the remains."""
        manager, self._manager = self._manager, None
        self._saved &= set(places.steps(self.directory))
        faults.close(manager)


def scan_layers(flat: Mapping[str, Any]) -> bool:
    """Whether the layers of a canonical state are stacked."""
    return any(stacks.scanned(path) is not None for path in skeletons.params_of(flat))


@functools.cache
def versions() -> dict[str, str]:
    """The versions of what writes and reads checkpoints."""
    from importlib import metadata

    names = ("jax", "flax", "optax", "orbax-checkpoint", "maxmig")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _disk_tree(kind: layouts.Layout, flat: Mapping[str, Any], skeleton: skeletons.Skeleton) -> Any:
    arrays = {}
    problems = []
    for path in trees.sort(flat):
        value = flat[path]
        if value is None or value is ... or type(value).__name__ == "ShapeDtypeStruct":
            problems.append(f"{path}: expected an array, got a placeholder ({value})")
            continue
        arrays[path] = _storable(path, value, kind.step_dtype)
    if problems:
        raise errors.CheckpointError(
            "not saved, because leaves hold no data:\n  " + "\n  ".join(problems)
        )
    try:
        written = kind.write(arrays, skeleton)
    except errors.ConvertError as error:
        raise errors.CheckpointError(f"not saved: {error}") from error
    return leaves.nest(
        {at: arrays[value] if isinstance(value, str) else value for at, value in written.items()}
    )


def _storable(path: str, value: Any, step_dtype: str) -> Any:
    import jax
    import jax.numpy as jnp
    import numpy as np

    if path == "step" and str(value.dtype) != step_dtype:
        value = value.astype(step_dtype)
    if isinstance(value, jax.Array):
        return value
    value = np.asarray(value)
    narrow = jax.dtypes.canonicalize_dtype(value.dtype) != value.dtype
    return value if narrow else jnp.asarray(value)


def _metadata(found: checkpoint.Checkpoint) -> dict[str, Any]:
    return {
        **found.own,
        "layout": found.layout.name,
        "scan_layers": found.scan_layers,
        "skeleton": found.skeleton,
    }


def _data_state(place: places.Place) -> dict[str, Any] | None:
    file = (place.step_dir or place.items) / _DATA / "metadata"
    if not file.is_file():
        return None
    try:
        state = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise errors.CheckpointError(
            f"{file}: expected the data loader's state (JSON), but reading it failed: {error}"
        ) from error
    return dict(state)


def _is_step(directory: Path) -> bool:
    return (directory / places.STEP_METADATA).is_file() and directory.name.split(".")[0].isdigit()
