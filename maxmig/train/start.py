"""Where a run starts from: its own last checkpoint, another's state or weights, or the seed."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from maxmig import errors
from maxmig.checkpoint import lineage
from maxmig.checkpoint.store import Restored, Store
from maxmig.config import Config
from maxmig.converters import places
from maxmig.data.loader import Loader
from maxmig.train.runtime import Leaves, Runtime


@dataclasses.dataclass(frozen=True)
class Start:
    """The first state of a run.

    Attributes:
        leaves: the state.
        step: number of updates that it has had.
        origin: one line that tells where it came from.
        remembered: metadata for the checkpoints of the run: how the first of them was converted.
        note: what a user should know of that; empty if nothing.
    """

    leaves: Leaves
    step: int
    origin: str
    remembered: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""


def begin(runtime: Runtime, store: Store | None, loader: Loader | None) -> Start:
    """The state that a run starts from.

    In this order: the last checkpoint of the run itself, `load_full_state_path`,
    `load_parameters_path`, the seed. The data loader is put where the restored run was.

    Raises:
        CheckpointError: a checkpoint is damaged, or does not match the model.
        DataError: it belongs to other data.
    """
    cfg = runtime.cfg.checkpoint
    if store is not None:
        _check_newest(store)
    if store is not None and store.latest() is not None:
        return _resume(runtime, store, loader)
    if cfg.load_full_state_path:
        with open_store(cfg.load_full_state_path) as other:
            return _resume(runtime, other, loader)
    leaves = runtime.init()
    if not cfg.load_parameters_path:
        return Start(leaves, 0, f"new weights from seed {runtime.settings.seed}")
    found = _parameters(runtime, cfg.load_parameters_path, None)
    flat = runtime.state(leaves) | found.flat
    remembered, note = lineage.inherited(found, flat, runtime.skeleton)
    origin = f"weights of {cfg.load_parameters_path}"
    return Start(runtime.leaves(flat), 0, origin, remembered, note)


def parameters(
    runtime: Runtime, directory: str | Path, step: int | None = None
) -> dict[str, jax.Array]:
    """The weights of a checkpoint, {params/...: array}; nothing else is read.

    Raises:
        CheckpointError: they are not those of the model; all leaves that differ are listed.
    """
    return _parameters(runtime, directory, step).flat


def open_store(directory: str | Path) -> Store:
    """A checkpoint directory for reading.

    Raises:
        CheckpointError: it does not exist.
    """
    if not Path(directory).exists():
        raise errors.CheckpointError(
            f"{directory}: expected a checkpoint directory, but there is no such directory"
        )
    return Store(directory, asynchronous=False)


def _check_newest(store: Store) -> None:
    """Refuses to go on from behind a checkpoint that lost files: its step could not be saved again.

    What a killed save leaves has another name, and does not get here.
    """
    good = store.latest()
    for path in store.directory.glob("[0-9]*"):
        if not path.name.isdigit() or int(path.name) <= (-1 if good is None else good):
            continue
        try:
            places.locate(path)
        except errors.CheckpointError as error:
            back = "from the start" if good is None else f"from step {good}, the last whole one"
            raise errors.CheckpointError(f"{error}. To go on {back}, move {path} away") from error


def _parameters(runtime: Runtime, directory: str | Path, step: int | None) -> Restored:
    wanted = {p: leaf for p, leaf in runtime.abstract.items() if p.startswith("params/")}
    with open_store(directory) as store:
        return _restore(runtime.cfg, store, step, wanted, only="params")


def _resume(runtime: Runtime, store: Store, loader: Loader | None) -> Start:
    restored = _restore(runtime.cfg, store, None, runtime.abstract, only="all")
    if loader is not None and restored.data_state is not None:
        loader.restore(restored.data_state)
    step = int(restored.flat["step"])
    wrote = restored.metadata.get("stage")
    by = f", written by the rung {wrote}" if wrote else ""
    layout = restored.metadata["layout"]
    origin = f"step {step} of {store.directory} (layout {layout}{by})"
    remembered, note = lineage.inherited(restored, runtime.abstract, runtime.skeleton)
    return Start(runtime.leaves(restored.flat), step, origin, remembered, note)


def _restore(cfg: Config, store: Store, step: int | None, wanted: dict, *, only: str) -> Restored:
    expect = {"param_scan_axis": cfg.stack.param_scan_axis}
    return store.restore(step, wanted, only=only, expect=expect)
