"""A small training state, and the checkpoints that MaxText wrote."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxmig.converters import checkpoint, disk

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "maxtext"


@pytest.fixture
def fixtures() -> Path:
    """The folder of MaxText's checkpoints."""
    return FIXTURES


@pytest.fixture
def flat() -> dict[str, Any]:
    """Two scanned layers, AdamW-like moments, a random key."""
    rng = np.random.default_rng(0)
    shapes = {"decoder/layers/w": (8, 2, 4), "decoder/layers/b": (8, 2), "head": (8, 16)}
    made: dict[str, Any] = {
        f"{section}/{name}": jnp.asarray(rng.normal(size=shape).astype(np.float32))
        for section in ("params", "opt_state/0/mu", "opt_state/0/nu")
        for name, shape in shapes.items()
    }
    made["opt_state/0/count"] = made["opt_state/2/count"] = made["step"] = jnp.int32(5)
    made["aux/decoder/drop/rngs/dropout/key"] = jax.random.key(3)
    made["aux/decoder/drop/rngs/dropout/count"] = jnp.uint32(7)
    return made


@pytest.fixture
def skeleton() -> dict[str, Any]:
    """AdamW's containers, with empty states in the middle and at the end."""
    fields = {"count": "array", "mu": {"params": []}, "nu": {"params": []}}
    return {"tuple": [{"dict": fields}, None, {"dict": {"count": "array"}}, None]}


def target_of(flat: dict[str, Any], sharding: Any = None) -> dict[str, Any]:
    """What a model would ask for: shapes and types, on a sharding."""
    return {path: disk.struct(disk.describe(array), sharding) for path, array in flat.items()}


def targets_of(directory: Path) -> dict[str, Any]:
    """What a model that fits a checkpoint exactly would ask for."""
    return {path: disk.struct(leaf) for path, leaf in checkpoint.read(directory).leaves.items()}


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Fails unless two states have the same leaves, types and bits."""
    assert one.keys() == two.keys()
    for path in one:
        a, b = one[path], two[path]
        assert disk.describe(a) == disk.describe(b), path
        if disk.describe(a).is_key:
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


@pytest.fixture
def helpers() -> Any:
    """The helper functions of this file."""

    class Helpers:
        target_of = staticmethod(target_of)
        targets_of = staticmethod(targets_of)
        assert_equal = staticmethod(assert_equal)

    return Helpers
