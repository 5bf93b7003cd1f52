"""The step: compiled once, consumes its state, never leaves the device, keeps its dtypes."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxmig.config.flags import Stage

SMALL = "base_num_decoder_layers=2"


def abstract(rt: Any) -> tuple[Any, ...]:
    return tuple(rt.abstract[path] for path in rt.view.paths)


@pytest.mark.parametrize(
    ("devices", "stage"), [*((1, s) for s in Stage), (8, Stage.LINEN), (8, Stage.NNX)]
)
def test_a_step_is_compiled_once_and_consumes_its_state(devices: int, stage: Stage) -> None:
    rows = f"per_device_batch_size={8 // devices}"
    rt = helpers.runtime("tiny_llama2", SMALL, rows, stage=stage, devices=devices)
    leaves = rt.init()
    for seed in range(3):
        before = leaves
        leaves, _ = rt.train(leaves, helpers.batch(rows=8, seed=seed))
        assert all(leaf.is_deleted() for leaf in before)
    assert not any(leaf.is_deleted() for leaf in leaves)
    assert rt.train._cache_size() == 1
    rt.train(leaves, helpers.batch(rows=8, length=8))
    assert rt.train._cache_size() == 2  # the control: another shape is another program


def test_evaluation_consumes_nothing_and_is_compiled_once(wing: Stage) -> None:
    rt = helpers.runtime("tiny_llama2", SMALL, "eval_steps=7", stage=wing)
    params = rt.params(rt.init())
    results = [rt.evaluate(params, helpers.batch(seed=seed)) for seed in range(2)]
    assert not any(leaf.is_deleted() for leaf in params)
    assert rt.evaluate._cache_size() == 1
    assert float(results[0].cross_entropy) != float(results[1].cross_entropy)


HOST = ("callback", "infeed", "outfeed", "debug_print")


@pytest.mark.parametrize(
    "options",
    [("dropout_rate=0.1", "gradient_accumulation_steps=2"), ("skip_step_on_spikes=true",)],
)
def test_a_step_makes_no_round_trip_to_the_host(options: tuple[str, ...], stage: Stage) -> None:
    rt = helpers.runtime("tiny_llama2", SMALL, *options, stage=stage)
    names = helpers.primitives(rt.train, abstract(rt), helpers.batch())
    assert len(names) > 500
    assert not [name for name in names if any(host in name for host in HOST)]

    def chatty(x: Any) -> Any:
        jax.debug.print("{}", x)
        return x

    found = helpers.primitives(jax.jit(chatty), 1.0)
    assert any(host in name for name in found for host in HOST)  # the control


def products(rt: Any) -> set[Any]:
    """Dtypes of the matrix products of a step's forward and backward pass."""
    jaxpr = jax.make_jaxpr(rt.train)(abstract(rt), helpers.batch()).jaxpr
    return {
        str(e.outvars[0].aval.dtype)
        for e in helpers.equations(jaxpr)
        if e.primitive.name == "dot_general"
    }


@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_bfloat16_computes_and_float32_remembers(name: str, wing: Stage) -> None:
    rt = helpers.runtime(name, SMALL, "dtype=bfloat16", "warmup_steps_fraction=0", stage=wing)
    assert {str(leaf.dtype) for leaf in rt.abstract.values()} == {"float32", "int32"}
    integers = {path for path, leaf in rt.abstract.items() if leaf.dtype == jnp.int32}
    assert all(path == "step" or path.endswith("count") for path in integers)
    params = helpers.weights(name, SMALL)
    metrics, state = helpers.train(rt, helpers.fresh(rt, params), [helpers.batch()] * 3)
    assert {path: value.dtype for path, value in state.items()} == {
        path: leaf.dtype for path, leaf in rt.abstract.items()
    }
    assert "bfloat16" in products(rt)
    # Close to float32, and not the same.
    wide = helpers.runtime(name, SMALL, "warmup_steps_fraction=0", stage=wing)
    wanted, _ = helpers.train(wide, helpers.fresh(wide, params), [helpers.batch()] * 3)
    assert products(wide) == {"float32"}
    gaps = [abs(m["loss"] - w["loss"]) / w["loss"] for m, w in zip(metrics, wanted, strict=True)]
    assert 0 < gaps[0] < 2e-2 and max(gaps) < 2e-2


def test_bfloat16_is_the_same_on_both_wings() -> None:
    params, losses = helpers.weights("tiny_llama2", SMALL), []
    for stage in (Stage.LINEN, Stage.NNX):
        rt = helpers.runtime(
            "tiny_llama2", SMALL, "dtype=bfloat16", "warmup_steps_fraction=0", stage=stage
        )
        losses.append(helpers.train(rt, helpers.fresh(rt, params), [helpers.batch()] * 3)[0])
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("options", "kind", "dtype"),
    [
        (("mu_dtype=bfloat16",), "/mu/", "bfloat16"),
        (("mu_dtype=bfloat16",), "/nu/", "float32"),
        (("mu_dtype=bfloat16",), "params/", "float32"),
        (("weight_dtype=bfloat16",), "/mu/", "bfloat16"),
        (("weight_dtype=bfloat16",), "params/", "bfloat16"),
        (("weight_dtype=bfloat16", "mu_dtype=float32"), "/mu/", "float32"),
    ],
)
@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_moments_have_the_dtype_asked_for(
    name: str, options: tuple[str, ...], kind: str, dtype: str, wing: Stage
) -> None:
    rt = helpers.runtime(name, SMALL, *options, stage=wing)
    leaves = {path: leaf for path, leaf in rt.abstract.items() if kind in path}
    assert len(leaves) > 5
    assert {str(leaf.dtype) for leaf in leaves.values()} == {dtype}
    # A step keeps the dtypes that the state had.
    after = jax.eval_shape(rt.train, abstract(rt), helpers.batch())[0]
    assert [leaf.dtype for leaf in after] == [leaf.dtype for leaf in abstract(rt)]


@pytest.mark.parametrize("precision", ["high", "highest"])
def test_the_precision_reaches_every_product(precision: str, wing: Stage) -> None:
    rt = helpers.runtime("tiny_llama2", SMALL, f"matmul_precision={precision}", stage=wing)
    params = tuple(rt.backend.spec[path].abstract for path in rt.param_paths)
    jaxpr = jax.make_jaxpr(rt.logits)(params, helpers.batch()).jaxpr
    asked = [
        e.params["precision"] for e in helpers.equations(jaxpr) if e.primitive.name == "dot_general"
    ]
    assert len(asked) >= 10
    wanted = jax.lax.Precision(precision)
    assert {p if isinstance(p, jax.lax.Precision) else p[0] for p in asked} == {wanted}


def test_the_steps_number_counts_and_learning_follows(wing: Stage) -> None:
    rt = helpers.runtime("tiny_llama2", SMALL, "warmup_steps_fraction=0", stage=wing)
    assert rt.abstract["step"].dtype == jnp.int32
    params = helpers.weights("tiny_llama2", SMALL)
    metrics, state = helpers.train(rt, helpers.fresh(rt, params), [helpers.batch()] * 10)
    assert int(state["step"]) == 10 == int(state["opt_state/0/count"])
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.1
    assert np.isfinite([m["loss"] for m in metrics]).all()
