"""A small checkpoint in each of Orbax's four ways of keeping arrays, to be damaged."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WAYS = {
    "ocdbt, zarr 2": {"use_ocdbt": True, "use_zarr3": False},
    "ocdbt, zarr 3": {"use_ocdbt": True, "use_zarr3": True},
    "files, zarr 2": {"use_ocdbt": False, "use_zarr3": False},
    "files, zarr 3": {"use_ocdbt": False, "use_zarr3": True},
}


def state() -> dict[str, Any]:
    """Two layers apart, a moment for each parameter, a square weight."""
    random = np.random.default_rng(5)

    def params() -> dict[str, Any]:
        layers = {
            f"layers_{i}": {
                name: {"kernel": random.normal(size=(16, 24)).astype(np.float32)}
                for name in ("wi", "gate")
            }
            for i in range(2)
        }
        square = random.normal(size=(20, 20)).astype(np.float32)
        return {"decoder": {**layers, "square": {"kernel": square}}}

    adam = {"count": np.int32(3), "mu": {"params": params()}}
    return {"params": {"params": params()}, "opt_state": [adam, None], "step": np.int32(3)}


def save(path: Path, tree: Any, **ways: bool) -> Path:
    """Writes a tree with Orbax as one step."""
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns of a database not being there
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**ways)) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(tree))
    return path


@pytest.fixture(scope="session", params=WAYS)
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undamaged checkpoint."""
    return save(tmp_path_factory.mktemp("good") / "items", state(), **WAYS[request.param])


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undamaged checkpoint with a file for each chunk."""
    return save(tmp_path_factory.mktemp("plain") / "items", state(), **WAYS["files, zarr 3"])


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a checkpoint to a place of its own: TensorStore remembers what it read by path."""
    count = 0

    def run(source: Path) -> Path:
        nonlocal count
        count += 1
        made = tmp_path / f"copy_{count}"
        shutil.copytree(source, made)
        return made

    return run


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    """Saves a tree: saved(tree)."""
    count = 0

    def run(tree: Any) -> Path:
        nonlocal count
        count += 1
        return save(tmp_path / f"saved_{count}", tree, **WAYS["ocdbt, zarr 3"])

    return run


@pytest.fixture
def changed(saved: Callable[[Any], Path]) -> Callable[..., Path]:
    """Saves the state after a change of its tree: changed(lambda tree: ...)."""

    def run(change: Callable[[Any], Any]) -> Path:
        tree = state()
        change(tree)
        return saved(tree)

    return run
