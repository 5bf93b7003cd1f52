"""What the tests of models, wings, optimizers and steps share."""

import functools
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxmig import trees
from maxmig.config import Config, load
from maxmig.config.flags import Stage
from maxmig.core import attention, dense, embed, mlp, moe, norms, part
from maxmig.core.context import Context
from maxmig.train.runtime import Runtime

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
# MAXMIG_MAXTEXT_FIXTURES names a folder of further checkpoints of the same kind.
MAXTEXT = Path(os.environ.get("MAXMIG_MAXTEXT_FIXTURES", FIXTURES / "maxtext"))

FAMILIES = ("tiny_llama2", "tiny_gpt3", "tiny_mixtral")

Flat = dict[str, Any]


def config(name: str | Path, *overrides: str, stage: Stage = Stage.LINEN) -> Config:
    """A configuration of configs/ (or a file) on one rung."""
    path = name if isinstance(name, Path) else ROOT / "configs" / f"{name}.yml"
    return load(path, [*overrides, *flags(stage)])


def maxtext_reference(name: str) -> Path | None:
    """MaxText's numbers; the older NNX layout holds the very weights of its newer namesake."""
    for folder in (name, name.replace("pre3929nnx", "nnx")):
        path = MAXTEXT / folder / "reference.npz"
        if path.is_file():
            return path
    return None


def flags(stage: Stage) -> list[str]:
    """The overrides that select a rung."""
    return [f"{key}={str(value).lower()}" for key, value in stage.flags.as_dict().items()]


def environment() -> dict[str, str]:
    """As this process has it, but with one device: for processes that a test starts."""
    words = os.environ.get("XLA_FLAGS", "").split()
    others = " ".join(word for word in words if "device_count" not in word)
    return {**os.environ, "XLA_FLAGS": others, "PYTHONPATH": str(ROOT)}


@functools.lru_cache(maxsize=16)
def runtime(
    name: str | Path, *overrides: str, stage: Stage = Stage.LINEN, devices: int = 1
) -> Runtime:
    """The runtime of a configuration; tests of one process share it, and so its programs."""
    cfg = config(name, *overrides, stage=stage)
    return Runtime(cfg, devices=jax.devices()[:devices])


def numpy(flat: Mapping[str, Any]) -> Flat:
    """The same leaves in NumPy, so that no test can see its inputs donated."""
    return {path: np.array(leaf) for path, leaf in flat.items()}


@functools.cache
def weights(name: str | Path, *overrides: str, seed: int = 0) -> Flat:
    """Parameters by canonical path in which no norm scale and no bias is trivial."""
    spec = runtime(name, *overrides).backend.spec
    init = part.initialise(spec, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    noise = {p: rng.standard_normal(param.shape) for p, param in spec.items()}
    return {
        path: (np.asarray(init[path]) + (0.1 * noise[path] if param.fan_in is None else 0)).astype(
            param.dtype
        )
        for path, param in spec.items()
    }


def fresh(runtime: Runtime, params: Mapping[str, Any]) -> tuple[jax.Array, ...]:
    """A training state at step 0 with these parameters."""
    state = runtime.view.flat(runtime.backend.create(dict(params), runtime.tx))
    return runtime.leaves(numpy(state))


def only(runtime: Runtime, params: Mapping[str, Any]) -> tuple[jax.Array, ...]:
    """The parameters as `evaluate`, `logits` and `gradients` take them."""
    return tuple(jnp.asarray(params[path]) for path in runtime.param_paths)


def batch(
    rows: int = 2, length: int = 16, *, vocab: int = 256, seed: int = 0, packed: bool = True
) -> dict[str, np.ndarray]:
    """A batch; packed rows hold two documents and a padding tail, of other lengths in each row."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(1, vocab, (rows, length), dtype=np.int32)
    targets = rng.integers(1, vocab, (rows, length), dtype=np.int32)
    segments = np.ones((rows, length), np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    for row in range(rows if packed else 0):
        first, pad = length // 3 + row % 3, 1 + (2 * row) % (length // 3)
        segments[row, first:] = 2
        positions[row, first:] = np.arange(length - first)
        segments[row, length - pad :] = 0
        positions[row, length - pad :] = 0
    real = segments != 0
    return {
        "inputs": inputs * real,
        "inputs_position": positions,
        "inputs_segmentation": segments,
        "targets": targets * real,
        "targets_position": positions,
        "targets_segmentation": segments,
    }


def train(
    runtime: Runtime, leaves: tuple[Any, ...], batches: list[dict[str, np.ndarray]]
) -> tuple[list[dict[str, float]], Flat]:
    """Trains on the batches: the metrics of each step, and the last state."""
    metrics = []
    for one in batches:
        leaves, scalars = runtime.train(leaves, one)
        metrics.append({key: float(value) for key, value in scalars.items()})
    return metrics, numpy(runtime.state(leaves))


def same(one: Mapping[str, Any], other: Mapping[str, Any], atol: float = 0.0) -> None:
    """Asserts that two flat trees agree, to the last bit when `atol` is 0."""
    assert set(one) == set(other), set(one) ^ set(other)
    assert one, "nothing was compared"
    worst = {
        path: float(np.max(np.abs(np.float64(one[path]) - np.float64(other[path])), initial=0.0))
        for path in one
    }
    off = {path: value for path, value in worst.items() if not value <= atol}
    assert not off, off


def relative(one: Any, other: Any) -> float:
    """Norm of the difference over the norm of `other`."""
    one, other = np.float64(one), np.float64(other)
    return float(np.linalg.norm(one - other) / max(np.linalg.norm(other), 1e-30))


def restack(params: Mapping[str, Any], axis: int | None) -> Flat:
    """Unscanned layers as one stack with the layer axis at `axis`; None unstacks from axis 1."""
    out: Flat = {}
    stacks: dict[str, dict[int, Any]] = {}
    for path, value in params.items():
        head, _, tail = path.partition("layers")
        if not tail:
            out[path] = value
        elif axis is None:
            for i in range(value.shape[1]):
                out[f"{head}layers_{i}{tail}"] = np.take(value, i, axis=1)
        else:
            index, _, rest = tail.removeprefix("_").partition("/")
            stacks.setdefault(f"{head}layers/{rest}", {})[int(index)] = value
    for path, values in stacks.items():
        one = values[0]
        out[path] = np.stack([values[i] for i in range(len(values))], min(axis or 0, one.ndim))
    return out


def safetensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file: a JSON table of offsets, then the data."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    table = json.loads(raw[8 : 8 + size])
    data = raw[8 + size :]
    out = {}
    for name, entry in table.items():
        if name != "__metadata__":
            assert entry["dtype"] == "F32", name
            start, end = entry["data_offsets"]
            out[name] = np.frombuffer(data[start:end], "<f4").reshape(entry["shape"])
    return out


_FORWARD = {
    dense.Dense: dense.forward,
    norms.RMSNorm: norms.forward,
    norms.LayerNorm: norms.forward,
    embed.Embed: embed.forward,
    attention.Attention: attention.forward,
    mlp.Mlp: mlp.forward,
    moe.Moe: moe.forward,
}


class Pure:
    """A module of no framework: the core's functions over plain arrays."""

    def __init__(self, cfg: part.Part, params: Mapping[str, Any]):
        self.cfg: Any = cfg
        for name in cfg.params():
            setattr(self, name, jnp.asarray(params[name]))
        for name, child in cfg.parts().items():
            setattr(self, name, Pure(child, trees.subtree(params, name)))

    def __call__(self, *args: Any) -> Any:
        return _FORWARD[type(self.cfg)](self, self.cfg, *args)


def owner(**arrays: Any) -> SimpleNamespace:
    """Something that owns these arrays."""
    return SimpleNamespace(**{name: jnp.asarray(value) for name, value in arrays.items()})


def context(rows: int, length: int, key: Any = None) -> Context:
    """One document a row."""
    return Context.of(jnp.zeros((rows, length), jnp.int32), key=key)


def equations(jaxpr: Any) -> list[Any]:
    """All equations of a jaxpr, those of inner jaxprs too."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation)
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"),
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found += equations(inner)
    return found


def primitives(function: Any, *args: Any) -> list[str]:
    """Names of all primitives that a function runs."""
    return [e.primitive.name for e in equations(jax.make_jaxpr(function)(*args).jaxpr)]
