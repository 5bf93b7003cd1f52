"""The one state that both sides start from: a checkpoint's, or one initialised once.

Never "the same seed on both sides": two frameworks may draw other numbers from one seed, and equal
draws would hide a conversion that loses a weight.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from maxmig import errors, trees
from maxmig.checkpoint import store
from maxmig.converters import checkpoint as on_disk
from maxmig.parity.findings.subject import Origin
from maxmig.train.runtime import Runtime

Flat = dict[str, np.ndarray]
_NUDGE = 0.1


@dataclasses.dataclass(frozen=True)
class Start:
    """A whole training state on the host, by canonical path, and where it comes from."""

    state: Flat
    origin: Origin

    @property
    def hash(self) -> str:
        """Of the weights: paths, types, shapes and bytes."""
        return hash_of({p: a for p, a in self.state.items() if p.startswith("params/")})


def from_seed(runtime: Runtime) -> Start:
    """Initialises once; leaves that are constant (biases, scales) get seeded noise."""
    seed = runtime.settings.seed
    state = host(runtime.state(runtime.init()))
    constant = [
        path
        for path, leaf in state.items()
        if path.startswith("params/") and leaf.size > 1 and (leaf == leaf.flat[0]).all()
    ]
    for path in constant:
        rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
        leaf = state[path]
        noise = _NUDGE * rng.standard_normal(leaf.shape)
        state[path] = (leaf.astype(np.float64) + noise).astype(leaf.dtype)
    nudged = tuple(path.removeprefix("params/") for path in constant)
    return Start(state, Origin(f"seed {seed}", 0, "fresh", nudged=nudged))


def from_checkpoint(runtime: Runtime, directory: str | Path) -> Start:
    """Restores the last step of a directory, in whichever layout it is.

    Without optimizer state in it the optimizer starts fresh.

    Raises:
        CheckpointError: there is no whole checkpoint, or it is not one of this model.
    """
    try:
        found = on_disk.read(directory)
    except errors.ConvertError as error:
        raise errors.CheckpointError(f"{directory}: {error}") from error
    full = any(path.startswith("opt_state/") for path in found.leaves)
    expect = {"param_scan_axis": runtime.cfg.stack.param_scan_axis}
    restored = store.Store(directory).restore(
        None, runtime.abstract, only="all" if full else "params", expect=expect
    )
    state = host(restored.flat)
    if not full:
        params = {
            path.removeprefix("params/"): jax.numpy.asarray(leaf) for path, leaf in state.items()
        }
        state = host(runtime.view.flat(runtime.backend.create(params, runtime.tx)))
    writer = restored.metadata.get("stage")
    notes = f"layout {restored.metadata['layout']}" + (f", written by {writer}" if writer else "")
    origin = Origin(
        str(directory), int(state["step"]), "restored" if full else "fresh", notes=notes
    )
    return Start({path: state[path] for path in runtime.view.paths}, origin)


def hash_of(flat: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of arrays by path."""
    found = hashlib.sha256()
    for path in trees.sort(flat):
        leaf = np.ascontiguousarray(flat[path])
        found.update(f"{path}\0{leaf.dtype}\0{leaf.shape}\0".encode())
        found.update(leaf.view(np.uint8).data if leaf.size and leaf.shape else leaf.tobytes())
    return found.hexdigest()


def host(flat: dict[str, jax.Array]) -> Flat:
    """Copies on the host. A view would not do: the next step may reuse the memory behind it."""
    return {path: _copy(leaf) for path, leaf in flat.items()}


def _copy(leaf: jax.Array) -> np.ndarray:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.array(leaf, copy=True)
