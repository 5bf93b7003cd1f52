"""Sixteen optimizers, both ways: real training states go on from the result bit by bit."""

import re
import types
from typing import Any

import mapping_cases
import pytest

from maxmig.converters import checkpoint, layouts
from maxmig.converters.leaves import Hole

NAMES = tuple(mapping_cases.optimizers())


def grads(params: Any, seed: int) -> Any:
    import jax
    import numpy as np

    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jax.numpy.asarray(rng.normal(size=x.shape), x.dtype), params)


def weights() -> Any:
    return grads_like({"encoder": {"kernel": (3, 4), "bias": (4,)}, "head": {"kernel": (4, 2)}})


def grads_like(shapes: Any) -> Any:
    import jax
    import numpy as np

    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: jax.numpy.asarray(rng.normal(size=shape), np.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def linen_state(tx: Any, params: Any) -> Any:
    from flax.training import train_state

    return train_state.TrainState.create(apply_fn=None, params=params, tx=tx)


def nnx_optimizer(tx: Any, params: Any) -> Any:
    from flax import nnx

    class Part(nnx.Module):
        def __init__(self, held: Any):
            for name, value in held.items():
                setattr(self, name, nnx.Param(value))

    class Model(nnx.Module):
        def __init__(self) -> None:
            for name, held in params.items():
                setattr(self, name, Part(held))

    return nnx.ModelAndOptimizer(Model(), tx, wrt=nnx.Param)


def nnx_step(optimizer: Any, found: Any) -> None:
    from flax import nnx

    state = nnx.state(optimizer.model, nnx.Param)
    nnx.replace_by_pure_dict(state, found)
    optimizer.update(state)


def restored(directory: Any, like: Any) -> Any:
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointer().restore(directory, item=like)


def flat(tree: Any) -> dict[tuple[str, ...], Any]:
    """Leaves by the words of their paths, so that tuples and dictionaries spell alike."""
    import jax

    found = jax.tree_util.tree_leaves_with_path(tree)
    words = ((re.findall(r"\w+", jax.tree_util.keystr(path)), leaf) for path, leaf in found)
    return {tuple(word for word in path if word != "value"): leaf for path, leaf in words}


def flat_linen(state: Any) -> dict[tuple[str, ...], Any]:
    return flat({"model": state.params, "opt_state": state.opt_state})


def flat_nnx(optimizer: Any) -> dict[tuple[str, ...], Any]:
    from flax import nnx

    state = nnx.state(optimizer)
    return flat({key: state[key] for key in ("model", "opt_state") if key in state})


def assert_equal_states(linen: Any, native: Any) -> None:
    a, b = flat_linen(linen), flat_nnx(native)
    assert a.keys() == b.keys()
    assert [path for path in a if not mapping_cases.same_bits(a[path], b[path])] == []
    assert int(linen.step) == int(native.step[...])


@pytest.mark.parametrize("optimizer", NAMES)
def test_linen_to_nnx_and_one_step(optimizer: str, tmp_path: Any) -> None:
    tx = mapping_cases.optimizers()[optimizer]
    linen = linen_state(tx, weights())
    for seed in (1, 2, 3):
        linen = linen.apply_gradients(grads=grads(linen.params, seed))
    source = mapping_cases.save(tmp_path / "linen", linen)
    made = mapping_cases.convert(source, tmp_path / "nnx", "nnx")

    from flax import nnx

    native = nnx_optimizer(tx, grads(weights(), 9))
    nnx.update(native, restored(made, nnx.state(native)))
    assert_equal_states(linen, native)
    found = grads(linen.params, 4)
    linen = linen.apply_gradients(grads=found)
    nnx_step(native, found)
    assert_equal_states(linen, native)

    back = mapping_cases.convert(tmp_path / "nnx", tmp_path / "back", "linen")
    assert mapping_cases.arrays(back).keys() == mapping_cases.arrays(source).keys()
    again = restored(back, linen_state(tx, weights()))
    before = restored(source, linen_state(tx, weights()))
    a, b = flat_linen(again), flat_linen(before)
    assert a.keys() == b.keys()
    assert all(mapping_cases.same_bits(a[path], b[path]) for path in a)


@pytest.mark.parametrize("optimizer", NAMES)
def test_nnx_to_linen_and_one_step(optimizer: str, tmp_path: Any) -> None:
    """From what NNX wrote itself; the optimizer tells the empty states that left no trace."""
    from flax import nnx

    tx = mapping_cases.optimizers()[optimizer]
    native = nnx_optimizer(tx, weights())
    for seed in (1, 2, 3):
        nnx_step(native, grads(weights(), seed))
    source = mapping_cases.save(tmp_path / "nnx", nnx.state(native))
    made = mapping_cases.convert(source, tmp_path / "linen", "linen", optimizer=tx)
    linen = restored(made, linen_state(tx, grads(weights(), 9)))
    assert_equal_states(linen, native)
    found = grads(weights(), 4)
    nnx_step(native, found)
    assert_equal_states(linen.apply_gradients(grads=found), native)


def test_another_optimizer_is_refused(tmp_path: Any) -> None:
    from flax import nnx

    from maxmig import errors

    found = mapping_cases.optimizers()
    native = nnx_optimizer(found["adam"], weights())
    source = mapping_cases.save(tmp_path / "nnx", nnx.state(native))
    with pytest.raises(errors.ConvertError, match=r"missing in the checkpoint: opt_state/0/trace"):
        mapping_cases.convert(source, tmp_path / "x", "linen", optimizer=found["momentum"])
    broken = types.SimpleNamespace(init=lambda params: params["other"])
    with pytest.raises(errors.ConfigError, match="its init failed: KeyError: 'other'"):
        mapping_cases.convert(source, tmp_path / "x", "linen", optimizer=broken)


def test_a_pair_of_states_and_the_way_back_to_the_same_layout(tmp_path: Any) -> None:
    """An optimizer without its model beside the model, as flax 0.11 and later have them."""
    import optax
    from flax import nnx

    tx = optax.adamw(1e-3)
    linen = linen_state(tx, weights()).apply_gradients(grads=grads(weights(), 1))
    source = mapping_cases.save(tmp_path / "linen", linen)
    made = mapping_cases.convert(source, tmp_path / "pair", "nnx-pair")
    model = nnx_optimizer(tx, grads(weights(), 9)).model
    alone = nnx.Optimizer(model, tx, wrt=nnx.Param)
    pair = {"model": nnx.state(model), "optimizer": nnx.state(alone)}
    found = restored(made, pair)
    merged = {"model": found["model"], "opt_state": found["optimizer"]["opt_state"]}
    a, b = flat_linen(linen), flat(merged)
    assert a.keys() == b.keys()
    assert all(mapping_cases.same_bits(a[path], b[path]) for path in a)
    mapping_cases.convert(tmp_path / "pair", tmp_path / "back", "linen")
    assert mapping_cases.checkpoint.read(tmp_path / "back").layout.name == "linen-state"
    native = mapping_cases.save(tmp_path / "native", pair)  # no metadata tell of it
    mapping_cases.convert(native, tmp_path / "state", "linen-state")
    again = mapping_cases.convert(tmp_path / "state", tmp_path / "again", "nnx")
    assert mapping_cases.arrays(again).keys() == mapping_cases.arrays(native).keys()


def averaging(rate: float) -> Any:
    """An optimizer of a user's own, whose state is a dataclass with a node without fields in it."""
    import jax
    import optax
    from flax import struct

    @struct.dataclass
    class Nothing:
        pass

    @struct.dataclass
    class Averages:
        average: Any
        none: Any
        steps: int = struct.field(pytree_node=False, default=3)

    def update(found: Any, state: Any, params: Any = None) -> Any:
        moved = jax.tree.map(lambda old, new: old * rate + new, state.average, found)
        return jax.tree.map(lambda each: -each, moved), state.replace(average=moved)

    def init(params: Any) -> Any:
        return Averages(jax.tree.map(jax.numpy.zeros_like, params), Nothing())

    return optax.chain(optax.identity(), optax.GradientTransformation(init, update))


@pytest.mark.parametrize("kept", ["dataclass", "nothing"])
def test_the_containers_that_only_the_optimizer_tells(kept: str, tmp_path: Any) -> None:
    """A dataclass as state, and an optimizer that keeps nothing, out of what NNX wrote."""
    import optax
    from flax import nnx

    tx = averaging(0.5) if kept == "dataclass" else optax.set_to_zero()
    native = nnx_optimizer(tx, weights())
    nnx_step(native, grads(weights(), 1))
    source = mapping_cases.save(tmp_path / "nnx", nnx.state(native))
    made = mapping_cases.convert(source, tmp_path / "linen", "linen-state", optimizer=tx)
    like = linen_state(tx, grads(weights(), 9))
    linen = restored(made, like)
    assert_equal_states(linen, native)
    own = checkpoint.read(mapping_cases.save(tmp_path / "own", linen)).tree
    assert {at: leaf for at, leaf in checkpoint.read(made).tree.items() if at != ("step",)} == {
        at: leaf for at, leaf in own.items() if at != ("step",)
    }


def test_an_empty_mask_before_others_in_maxtexts_form(tmp_path: Any) -> None:
    """The outermost list of MaxText's NNX form has None for an entry of which nothing is kept."""
    import optax

    def kernels(params: Any) -> Any:
        return {name: {key: key == "kernel" for key in held} for name, held in params.items()}

    tx = optax.chain(
        optax.masked(optax.set_to_zero(), kernels), optax.masked(optax.adam(1e-3), kernels)
    )
    linen = linen_state(tx, weights()).apply_gradients(grads=grads(weights(), 1))
    source = mapping_cases.save(tmp_path / "linen", linen)
    made = checkpoint.read(mapping_cases.convert(source, tmp_path / "made", "maxtext-nnx"))
    assert made.tree["opt_state", 0] is Hole.NONE
    assert ("opt_state", 1, "inner_state", "0", "mu", "head", "kernel") in made.tree
    back = mapping_cases.convert(tmp_path / "made", tmp_path / "back", "linen-state")
    assert checkpoint.read(back).tree == checkpoint.read(source).tree


@pytest.mark.parametrize("masked", [False, True])
def test_variables_that_the_optimizer_does_not_train_are_told(masked: bool, tmp_path: Any) -> None:
    """NNX writes no kinds of variables; a masked parameter has a place in the state."""
    import jax
    import optax
    from flax import nnx

    from maxmig import errors
    from maxmig.converters import mapping

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda each: each.ndim > 1, params)

    def notes(source: Any, **hints: Any) -> list[str]:
        found = checkpoint.read(source, hints=layouts.Hints(**hints))
        return [note for note in mapping.plan(found, "linen-state").notes if "no state" in note]

    tx = optax.masked(optax.adam(1e-3), kernels) if masked else optax.adam(1e-3)
    own = nnx_optimizer(tx, weights())
    assert not notes(mapping_cases.save(tmp_path / "own", nnx.state(own)))
    own.model.head.seen = nnx.Cache(jax.numpy.int32(3))
    source = mapping_cases.save(tmp_path / "seen", nnx.state(own))
    (note,) = notes(source)
    assert note.startswith("head/seen: taken for parameters") and "{head/seen: cache}" in note
    assert not notes(source, collections={"head/seen": "cache"})
    if not masked:
        with pytest.raises(errors.ConvertError, match=r"such as head/seen is no parameter"):
            mapping.plan(checkpoint.read(source), "linen-state", optimizer=tx)
