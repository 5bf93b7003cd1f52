"""Converting in tests: planned by the mapping, carried out by the engine; and optimizers."""

from pathlib import Path
from typing import Any

import numpy as np

from maxmig.converters import checkpoint, mapping
from maxmig.converters.engine import plan, run
from maxmig.converters.engine.options import Options


def convert(source: Path, destination: Path, to: str | None = None, **options: Any) -> Path:
    """Converts a checkpoint; the directory of the result's tree."""
    found = mapping.plan(checkpoint.read(source), to, **options)
    made = run.run(plan.plan(found, str(destination), Options()), str(destination))
    directory = Path(made.directory)
    return directory / "items" if (directory / "items").is_dir() else directory


def save(path: Path, tree: Any) -> Path:
    """Writes a tree as any user does."""
    import orbax.checkpoint as ocp

    ocp.PyTreeCheckpointer().save(path, tree)
    return path


def same_bits(a: Any, b: Any) -> bool:
    """Whether two arrays have one type, one shape and the same bits."""
    import jax

    if isinstance(a, jax.Array) and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def arrays(directory: Path) -> dict[str, Any]:
    """All arrays of a checkpoint by their place on disk."""
    storage = checkpoint.read(directory).storage
    from maxmig.converters.leaves import Leaf, spell

    return {
        spell(p): storage.read(p) for p, leaf in storage.tree().items() if isinstance(leaf, Leaf)
    }


def digest(directory: Path) -> str:
    """The digest of a state, which a layout does not change."""
    from maxmig.converters.compare import hash

    return hash.fingerprint(checkpoint.read(directory)).digest


def optimizers() -> dict[str, Any]:
    """The sixteen of the field, and some nested deeper."""
    import jax
    import optax

    rate = 1e-2
    schedule = optax.linear_schedule(1e-2, 0.0, 10)

    def matrices(params: Any) -> Any:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda x: "a" if x.ndim > 1 else "z", params)

    adam = optax.adam(rate)
    return {
        "sgd": optax.sgd(rate),
        "momentum": optax.sgd(rate, momentum=0.9, nesterov=True),
        "adam": adam,
        "adamw-schedule": optax.adamw(schedule),
        "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule)),
        "masked": optax.chain(optax.masked(adam, matrices)),
        "multi-transform": optax.multi_transform({"a": adam, "z": optax.set_to_zero()}, labels),
        "multi-steps": optax.MultiSteps(adam, 2).gradient_transformation(),
        "inject": optax.inject_hyperparams(optax.adamw)(learning_rate=schedule),
        "adafactor": optax.adafactor(rate, min_dim_size_to_factor=2),
        "lion": optax.lion(rate),
        "novograd": optax.novograd(rate),
        "muon": optax.contrib.muon(rate),
        "apply-if-finite": optax.apply_if_finite(adam, 3),
        "schedule-free": optax.contrib.schedule_free_adamw(rate),
        "ema": optax.chain(adam, optax.ema(0.9)),
        "nested": optax.chain(
            optax.clip(1.0),
            optax.multi_transform(
                {"a": optax.chain(optax.trace(0.9), optax.adamw(schedule)), "z": optax.sgd(rate)},
                labels,
            ),
        ),
    }
