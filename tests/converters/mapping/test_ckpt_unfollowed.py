"""A list for each parameter in the optimizer's state (`optax.sm3`): copied, or refused by name."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mapping_cases
import optax
import pytest
from flax import nnx
from flax.training import train_state

from maxmig import errors
from maxmig.converters import checkpoint, mapping
from maxmig.converters.mapping import files

PARAMS = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
TOLD = r"opt_state/0/mu/a/bias: the optimizer keeps a list for each parameter \(2 such.*sm3"


def linen(tx: Any, path: Path) -> Path:
    state = train_state.TrainState.create(apply_fn=None, params=PARAMS, tx=tx)
    return mapping_cases.save(
        path, state.apply_gradients(grads=jax.tree.map(jnp.ones_like, PARAMS))
    )


def native(tx: Any, path: Path) -> Path:
    class Model(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Linear(2, 3, rngs=nnx.Rngs(0))

    model = Model()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    tree = {"model": nnx.state(model), "optimizer": nnx.state(optimizer)}
    return mapping_cases.save(path, tree)


@pytest.mark.parametrize("to", ["nnx", "nnx-pair"])
def test_lists_in_linen_are_refused_elsewhere(to: str, tmp_path: Path) -> None:
    source = checkpoint.read(linen(optax.sm3(0.1), tmp_path / "s"))
    with pytest.raises(errors.ConvertError, match=TOLD):
        mapping.plan(source, to)
    kept = mapping.plan(source, to, params_only=True).leaves
    assert not any("opt_state" in map(str, path) for path in kept)


def test_lists_in_nnx_are_refused_elsewhere(tmp_path: Path) -> None:
    """NNX has them inside its variables: `mu/a/bias/value/0`."""
    source = checkpoint.read(native(optax.sm3(0.1), tmp_path / "s"))
    assert "opt_state/0/mu/a/kernel/value/1" in source.leaves
    with pytest.raises(errors.ConvertError, match=TOLD):
        mapping.plan(source, "linen")


def test_lists_are_copied_as_they_are_and_follow_no_rule(tmp_path: Path) -> None:
    source = linen(optax.sm3(0.1), tmp_path / "s")
    made = mapping_cases.convert(source, tmp_path / "m", "linen")
    a, b = mapping_cases.arrays(source), mapping_cases.arrays(made)
    assert a.keys() == b.keys() and all(mapping_cases.same_bits(a[path], b[path]) for path in a)
    renamed = files.parse({"rules": [{"rename": "a", "to": "b"}]}, "here")
    with pytest.raises(errors.ConvertError, match=TOLD):
        mapping.plan(checkpoint.read(source), "linen", map_file=renamed)


def test_a_label_that_is_called_as_a_parameter_is_no_list(tmp_path: Path) -> None:
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 3))}
    labels = {"a": "b", "b": "a"}
    inner = optax.chain(optax.adam(0.1), optax.ema(0.9))
    tx = optax.multi_transform({"a": inner, "b": optax.sgd(0.1)}, labels)
    state = train_state.TrainState.create(apply_fn=None, params=params, tx=tx)
    source = mapping_cases.save(tmp_path / "s", state)
    assert mapping.plan(checkpoint.read(source), "nnx").leaves
