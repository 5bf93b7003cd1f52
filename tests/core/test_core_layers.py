"""Each layer against float64 NumPy and closed forms."""

import dataclasses
import math
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from maxmig.core import attention, dense, embed, mlp, norms, rope
from maxmig.core.context import Context
from maxmig.core.numerics import Numerics

POLICY = Numerics()
SEGMENTS = np.array([[1, 1, 1, 1, 2, 2, 2, 0, 0], [1, 1, 2, 2, 2, 2, 2, 2, 2]], np.int32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def attended(
    cfg: attention.Attention, segments: np.ndarray = SEGMENTS
) -> tuple[Any, Any, Any, Any]:
    q = normal(2, 9, cfg.heads, cfg.head_dim, seed=1)
    k, v = (normal(2, 9, cfg.kv_heads, cfg.head_dim, seed=s) for s in (2, 3))
    context = Context(jnp.zeros((2, 9), jnp.int32), jnp.asarray(segments))
    seen = attention.mask(cfg, context, 9)
    return attention.attend(cfg, jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), seen), q, k, v


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [0, 1, 3])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_attention_is_the_definition(kv_heads: int, window: int, cap: float | None) -> None:
    cfg = attention.Attention(8, 4, kv_heads, 6, POLICY, window=window, soft_cap=cap)
    got, q, k, v = attended(cfg)
    wanted = reference.attend(*map(np.float64, (q, k, v)), SEGMENTS, window, cap)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


def test_a_window_of_one_returns_the_value_itself() -> None:
    got, _, _, v = attended(attention.Attention(8, 2, 2, 6, POLICY, window=1))
    np.testing.assert_array_equal(got, v)


@pytest.mark.parametrize(
    "change", [{"window": 4}, {"soft_cap": 2.1}, {"kv_heads": 4}], ids=lambda c: next(iter(c))
)
def test_each_option_of_attention_matters(change: dict[str, Any]) -> None:
    """Negative control of the comparison above."""
    cfg = attention.Attention(8, 4, 2, 6, POLICY, window=3, soft_cap=2.0)
    got = attended(cfg)[0]
    other = attended(dataclasses.replace(cfg, **change))[0]
    assert float(jnp.abs(got - other).max()) > 1e-3


def test_the_mask_is_causal_inside_one_segment_and_the_window() -> None:
    cfg = attention.Attention(8, 2, 2, 4, POLICY, window=3)
    context = Context(jnp.zeros((2, 9), jnp.int32), jnp.asarray(SEGMENTS))
    seen = np.asarray(attention.mask(cfg, context, 9))
    for row, i, j in np.ndindex(2, 9, 9):
        wanted = j <= i < j + 3 and SEGMENTS[row, i] == SEGMENTS[row, j]
        assert bool(seen[row, i, j]) == wanted, (row, i, j)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, jnp.bfloat16),
        ({"float32_logits": True}, jnp.bfloat16),
        ({"float32_qk_product": True}, jnp.float32),
    ],
)
def test_the_dtype_of_the_logits_is_that_of_the_policy(
    options: dict[str, bool], dtype: Any
) -> None:
    policy = Numerics(dtype=jnp.bfloat16, **options)
    cfg = attention.Attention(8, 2, 2, 4, policy)
    x = jax.ShapeDtypeStruct((1, 5, 2, 4), jnp.bfloat16)
    seen = jnp.ones((1, 5, 5), jnp.bool_)
    jaxpr = jax.make_jaxpr(lambda q, k, v: attention.attend(cfg, q, k, v, seen))(x, x, x)
    products = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert products[0].outvars[0].aval.dtype == dtype
    exponentials = [e for e in helpers.equations(jaxpr.jaxpr) if e.primitive.name == "exp"]
    wide = jnp.float32 if options else jnp.bfloat16
    assert [e.outvars[0].aval.dtype for e in exponentials] == [wide]
    assert jaxpr.out_avals[0].dtype == jnp.bfloat16


@pytest.mark.parametrize(("least", "most"), [(1.0, 10_000.0), (2.0, 500.0)])
def test_rope_is_the_definition(least: float, most: float) -> None:
    x, positions = normal(2, 7, 3, 8), np.array([[0, 1, 2, 3, 0, 1, 2], [5, 6, 90, 91, 0, 0, 7]])
    got = rope.forward(rope.Rope(least, most), jnp.asarray(x), jnp.asarray(positions, jnp.int32))
    for row, i, head in np.ndindex(2, 7, 3):
        wanted = reference.rotate(np.float64(x[row, i, head]), positions[row, i], most, least)
        np.testing.assert_allclose(got[row, i, head], wanted, rtol=0, atol=2e-5)


def test_rope_keeps_norms_and_sees_only_differences_of_positions() -> None:
    q, k = jnp.asarray(normal(1, 1, 1, 16)), jnp.asarray(normal(1, 1, 1, 16, seed=1))

    def turned(x: Any, position: int) -> Any:
        return rope.forward(rope.Rope(), x, jnp.full((1, 1), position, jnp.int32))

    assert float(jnp.linalg.norm(turned(q, 37))) == pytest.approx(float(jnp.linalg.norm(q)), 1e-6)
    products = [float(jnp.sum(turned(q, p) * turned(k, p - 3))) for p in (3, 10, 60)]
    assert products == pytest.approx([products[0]] * 3, abs=2e-5)
    assert abs(float(jnp.sum(turned(q, 3) * turned(k, 1))) - products[0]) > 1e-3
    np.testing.assert_array_equal(turned(q, 0), q)


@pytest.mark.parametrize("shift", [0.0, 100.0])
@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_norms_are_their_definitions(shift: float, epsilon: float) -> None:
    x, scale, bias = normal(2, 3, 16) + np.float32(shift), normal(16, seed=1), normal(16, seed=2)
    rms = norms.forward(
        helpers.owner(scale=scale), norms.RMSNorm(16, epsilon, POLICY), jnp.asarray(x)
    )
    np.testing.assert_allclose(rms, reference.rms_norm(np.float64(x), scale, epsilon), atol=2e-6)
    layer = norms.forward(
        helpers.owner(scale=scale, bias=bias), norms.LayerNorm(16, epsilon, POLICY), jnp.asarray(x)
    )
    wanted = reference.layer_norm(np.float64(x), scale, bias, epsilon)
    np.testing.assert_allclose(layer, wanted, atol=2e-4 if shift else 5e-6)


def test_rms_norm_computes_in_float32_whatever_the_activations() -> None:
    """In bfloat16 the mean of 1000 squares would be off by far more than an ulp of the result."""
    x = jnp.asarray(normal(1, 1, 1000) + 3, jnp.bfloat16)
    cfg = norms.RMSNorm(1000, 1e-6, Numerics(dtype=jnp.bfloat16))
    got = norms.forward(helpers.owner(scale=np.ones(1000, np.float32)), cfg, x)
    assert got.dtype == jnp.bfloat16
    wanted = reference.rms_norm(np.float64(x), np.ones(1000), 1e-6)
    np.testing.assert_array_equal(np.float64(got), reference.bfloat16(wanted))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "activations", [("silu", "linear"), ("gelu",), ("relu", "sigmoid", "tanh")]
)
def test_mlp_is_the_definition(activations: tuple[str, ...], fused: bool, bias: bool) -> None:
    functions = {
        "silu": reference.silu,
        "gelu": reference.gelu_tanh,
        "relu": lambda y: np.maximum(y, 0),
        "sigmoid": lambda y: 1 / (1 + np.exp(-y)),
        "tanh": np.tanh,
        "linear": lambda y: y,
    }
    cfg = mlp.Mlp(6, 10, activations, POLICY, fused=fused, bias=bias)
    spec = {path: normal(*p.shape, seed=len(path)) for path, p in _spec(cfg).items()}
    x = normal(2, 3, 6)
    got = helpers.Pure(cfg, spec)(jnp.asarray(x), helpers.context(2, 3), None)[0]
    w = {path: np.float64(value) for path, value in spec.items()}
    h = np.ones((2, 3, 10))
    for i, name in enumerate(activations):
        at = "wi" if fused or len(activations) == 1 else f"wi_{i}"
        pick = (lambda a, i=i: a[..., i, :]) if fused else (lambda a: a)
        up = x @ pick(w[f"{at}/kernel"]) + (pick(w[f"{at}/bias"]) if bias else 0)
        h = h * functions[name](up)
    wanted = h @ w["wo/kernel"] + (w["wo/bias"] if bias else 0)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


def _spec(cfg: Any) -> dict[str, Any]:
    from maxmig.core import part

    return part.spec(cfg)


def test_gelu_is_the_tanh_form() -> None:
    x = jnp.linspace(-4, 4, 101, dtype=jnp.float32)
    got = mlp.ACTIVATIONS["gelu"](x)
    np.testing.assert_allclose(got, reference.gelu_tanh(np.float64(x)), atol=1e-6)
    exact = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in np.float64(x)])
    assert 1e-4 < np.abs(got - exact).max() < 1e-3


@pytest.mark.parametrize(("inputs", "outputs"), [((6,), (4,)), ((6,), (2, 3)), ((3, 2), (5,))])
def test_dense_contracts_the_last_axes(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    cfg = dense.Dense(inputs, outputs, (None,) * len(inputs), (None,) * len(outputs), POLICY, True)
    x, kernel, bias = normal(2, 4, *inputs), normal(*inputs, *outputs), normal(*outputs, seed=1)
    got = dense.forward(helpers.owner(kernel=kernel, bias=bias), cfg, jnp.asarray(x))
    wanted = np.tensordot(np.float64(x), np.float64(kernel), len(inputs)) + bias
    np.testing.assert_allclose(got, wanted, atol=5e-6)


@pytest.mark.parametrize("one_hot", [False, True])
def test_embed_looks_rows_up(one_hot: bool) -> None:
    table, ids = normal(7, 4), np.array([[0, 6, 3]], np.int32)
    cfg = embed.Embed(7, 4, POLICY, one_hot=one_hot)
    got = embed.forward(helpers.owner(embedding=table), cfg, jnp.asarray(ids))
    np.testing.assert_array_equal(got, table[ids])


@pytest.mark.parametrize("normalize", [False, True])
def test_tied_logits_use_the_table_rounded_to_bfloat16(normalize: bool) -> None:
    table, x = normal(7, 16), normal(1, 3, 16, seed=1)
    cfg = embed.Embed(7, 16, POLICY, normalize_logits=normalize)
    got = embed.attend(helpers.owner(embedding=table), cfg, jnp.asarray(x))
    wanted = np.float64(x) @ reference.bfloat16(table).T / (4 if normalize else 1)
    np.testing.assert_allclose(got, wanted, atol=3e-6)
    unrounded = np.float64(x) @ np.float64(table).T / (4 if normalize else 1)
    assert np.abs(got - unrounded).max() > 1e-3
