"""Models of Flax's examples with every collection: equal outputs, and back bit by bit."""

from pathlib import Path
from typing import Any

import mapping_cases
import mapping_models
import pytest


def linen_state(pair: mapping_models.Pair) -> Any:
    """A state that was trained a little, so that no leaf has its initial value."""
    import jax
    import numpy as np
    import optax
    from flax.training import train_state

    class State(train_state.TrainState):
        batch_stats: Any = None

    variables = dict(pair.linen.init(jax.random.key(0), *pair.inputs))
    rng = np.random.default_rng(0)

    def moved(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: x + jax.numpy.asarray(rng.uniform(0.1, 0.3, x.shape), x.dtype), tree
        )

    variables = moved(variables)
    state = State.create(
        apply_fn=pair.linen.apply,
        params=variables.pop("params"),
        tx=optax.adam(1e-2),
        batch_stats=variables.pop("batch_stats", None),
    )
    assert not variables
    return state.apply_gradients(grads=moved(jax.tree.map(jax.numpy.zeros_like, state.params)))


def linen_outputs(pair: mapping_models.Pair, state: Any) -> list[Any]:
    import jax
    from flax import linen as nn

    variables = {"params": nn.meta.unbox(state.params)}
    if state.batch_stats is not None:
        variables["batch_stats"] = state.batch_stats
    return jax.tree.leaves(state.apply_fn(variables, *pair.inputs))


def native_outputs(pair: mapping_models.Pair, optimizer: Any) -> list[Any]:
    import jax

    optimizer.model.eval()
    return jax.tree.leaves(optimizer.model(*pair.inputs))


@pytest.mark.parametrize("model", mapping_models.pairs())
def test_equal_outputs_and_the_way_back(model: str, tmp_path: Path) -> None:
    import numpy as np
    import optax
    import orbax.checkpoint as ocp
    from flax import nnx

    pair = mapping_models.pairs()[model]
    state = linen_state(pair)
    source = mapping_cases.save(tmp_path / "linen", state)
    options: dict[str, Any] = {}
    if pair.mapping:
        file = tmp_path / "map.yml"
        file.write_text(pair.mapping)
        options["map_file"] = file
    made = mapping_cases.convert(source, tmp_path / "nnx", "nnx-optimizer", **options)
    native = nnx.ModelAndOptimizer(pair.native(), optax.adam(1e-2), wrt=nnx.Param)
    before = native_outputs(pair, native)
    nnx.update(native, ocp.PyTreeCheckpointer().restore(made, item=nnx.state(native)))
    wanted, found = linen_outputs(pair, state), native_outputs(pair, native)
    assert len(wanted) == len(found)
    for one, other, fresh in zip(wanted, found, before, strict=True):
        np.testing.assert_array_equal(one, other)
        assert not np.array_equal(one, fresh)  # the check can fail
    if optimizer_state := native.opt_state[0]:
        assert int(optimizer_state.count[...]) == 1

    back = mapping_cases.convert(tmp_path / "nnx", tmp_path / "back", "linen")
    a, b = mapping_cases.arrays(source), mapping_cases.arrays(back)
    assert a.keys() == b.keys()
    assert [path for path in a if not mapping_cases.same_bits(a[path], b[path])] == []
    assert len({mapping_cases.digest(place) for place in (source, made, back)}) == 1
