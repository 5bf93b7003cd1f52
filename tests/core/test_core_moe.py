"""Mixture of experts against float64 NumPy and closed forms."""

import dataclasses
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from maxmig.core import moe, part
from maxmig.core.numerics import Numerics

BLOCK = moe.Moe(6, 10, 5, 2, ("silu", "linear"), Numerics())
KERNELS = ("gate/kernel", "wi_0", "wi_1", "wo")


def weights(cfg: moe.Moe = BLOCK) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {path: param.shape for path, param in part.spec(cfg).items()}
    return {path: rng.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}


def tokens(rows: int = 2, length: int = 9) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, length, 6)).astype(np.float32)


def apply(cfg: moe.Moe, params: Any, x: Any) -> Any:
    y, cache, aux = helpers.Pure(cfg, params)(jnp.asarray(x), helpers.context(*x.shape[:2]))
    assert cache is None
    return y, aux


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("chosen", [1, 2, 5])
def test_a_mixture_is_the_definition(chosen: int, sparse: bool) -> None:
    cfg = dataclasses.replace(BLOCK, chosen=chosen, sparse=sparse)
    params, x = weights(), tokens()
    kernels = [np.float64(params[path]) for path in KERNELS]
    wanted = reference.mixture(np.float64(x), *kernels, chosen)
    got, aux = apply(cfg, params, x)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5)
    assert aux == {}
    # Negative controls: another number of experts, and two experts that changed places.
    other = reference.mixture(np.float64(x), *kernels, chosen - 1 or 2)
    assert np.abs(got - other).max() > 0.1
    swapped = params | {"wo": params["wo"][[1, 0, 2, 3, 4]]}
    assert np.abs(got - apply(cfg, swapped, x)[0]).max() > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sorted_tokens_and_all_experts_are_one_function(dtype: str) -> None:
    numerics = Numerics(dtype=jnp.dtype(dtype))
    dense = dataclasses.replace(BLOCK, sparse=False, numerics=numerics)
    params, x = {k: jnp.asarray(v) for k, v in weights().items()}, jnp.asarray(tokens())

    def total(cfg: moe.Moe) -> Any:
        return lambda p, x: jnp.sum(jnp.sin(apply(cfg, p, x)[0].astype(jnp.float32)))

    wanted = jax.grad(total(dense), argnums=(0, 1))(params, x)
    got = jax.grad(total(dataclasses.replace(dense, sparse=True)), argnums=(0, 1))(params, x)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert helpers.relative(one, other) < (1e-5 if dtype == "float32" else 2e-2)
        assert float(jnp.abs(other).max()) > 0.1


def test_an_expert_that_nobody_chose_does_nothing() -> None:
    params, x = weights(), np.abs(tokens())
    params["gate/kernel"][:, 3] = -10.0
    got, _ = apply(BLOCK, params, x)
    changed = {path: value.copy() for path, value in params.items()}
    for name in ("wi_0", "wi_1", "wo"):
        changed[name][3] *= 100
    np.testing.assert_array_equal(got, apply(BLOCK, changed, x)[0])
    changed["wo"][2] *= 100  # the control
    assert np.abs(got - apply(BLOCK, changed, x)[0]).max() > 1


def test_tokens_are_mixed_each_by_itself() -> None:
    params, x = weights(), tokens()
    got, _ = apply(BLOCK, params, x)
    order = np.random.default_rng(2).permutation(18)
    moved = x.reshape(18, 6)[order].reshape(2, 9, 6)
    again, _ = apply(BLOCK, params, moved)
    wanted = np.reshape(got, (18, 6))[order].reshape(2, 9, 6)
    np.testing.assert_allclose(again, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("router", [True, False])
@pytest.mark.parametrize("total", [True, False])
def test_the_router_and_the_sum_in_float32(router: bool, total: bool) -> None:
    """What is computed in bfloat16 and what is not, from the types of the equations."""
    numerics = Numerics(dtype=jnp.dtype("bfloat16"))
    cfg = dataclasses.replace(BLOCK, numerics=numerics, float32_router=router, float32_sum=total)
    traced = jax.make_jaxpr(lambda x: apply(cfg, weights(), x)[0])(tokens())

    def operands(name: str, shape: tuple[int, ...] | None = None) -> set[str]:
        return {
            str(e.invars[0].aval.dtype)
            for e in helpers.equations(traced.jaxpr)
            if e.primitive.name == name and shape in (None, e.outvars[0].aval.shape)
        }

    assert operands("top_k") == {"float32" if router else "bfloat16"}
    assert operands("ragged_dot_general") == {"bfloat16"}
    assert operands("mul", (2, 9, 2, 6)) == {"float32" if total else "bfloat16"}
    assert str(traced.out_avals[0].dtype) == "bfloat16"


@pytest.mark.parametrize("chosen", [1, 3])
def test_an_even_load_costs_the_number_of_choices(chosen: int) -> None:
    """Four tokens that choose in turn, a router that is nearly indifferent: E^2 * K/E * 1/E."""
    logits = jnp.asarray(1e-6 * np.eye(4, dtype=np.float32))[None]
    picks = (jnp.arange(4)[None, :, None] + jnp.arange(chosen)[None, None]) % 4
    assert float(moe.imbalance(logits, picks)) == pytest.approx(chosen, rel=1e-5)
    # All tokens to one expert, and sure of it: E.
    sure = jnp.zeros((1, 4, 4)).at[..., 2].set(50.0)
    assert float(moe.imbalance(sure, jnp.full((1, 4, 1), 2))) == pytest.approx(4, rel=1e-6)


def test_the_loss_of_imbalance_is_its_formula_and_is_weighed() -> None:
    params, x = weights(), tokens(3, 7)
    weighed = dataclasses.replace(BLOCK, balance=0.25)
    same, aux = apply(weighed, params, x)
    np.testing.assert_array_equal(same, apply(BLOCK, params, x)[0])
    scores = np.float64(x) @ np.float64(params["gate/kernel"])
    total = 0.0
    for row in scores:
        picked = np.zeros(5)
        for token in row:
            picked[np.argsort(-token)[:2]] += 1 / len(row)
        total += picked @ reference.softmax(row).mean(0) / 5 / len(scores)
    assert float(aux["moe_lb_loss"]) == pytest.approx(0.25 * 25 * total, rel=1e-5)


def test_gradients_of_the_imbalance_go_to_the_router_alone() -> None:
    params, x = {k: jnp.asarray(v) for k, v in weights().items()}, tokens()
    cfg = dataclasses.replace(BLOCK, balance=1.0)
    found = jax.grad(lambda p: apply(cfg, p, x)[1]["moe_lb_loss"])(params)
    assert float(jnp.abs(found.pop("gate/kernel")).max()) > 1e-3
    assert all(float(jnp.abs(g).max()) == 0 for g in found.values())
