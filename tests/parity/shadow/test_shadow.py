"""Evaluation in float64, alignment, and the name of the first difference."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from maxmig import errors
from maxmig.parity import programs, shadow
from maxmig.parity.faults import bugs, specimen
from maxmig.parity.faults.specimen import Side
from maxmig.parity.findings.check import Verdict
from maxmig.parity.programs import Program

Fn = Callable[[Any, Any], Any]
SHAPE = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def traced(fn: Fn, shape: Any = SHAPE) -> Program:
    def flat(values: dict[str, Any]) -> dict[str, Any]:
        out = fn(values["params/a/kernel"], values["params/b/kernel"])
        return out if isinstance(out, dict) else {"out": out}

    inputs = {"params/a/kernel": shape, "params/b/kernel": shape}
    return programs.trace("outputs", flat, inputs)


def numbers(dtype: Any = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        f"params/{name}/kernel": rng.standard_normal((4, 4)).astype(dtype) for name in ("a", "b")
    }


def wide(fn: Fn) -> np.ndarray:
    """The function itself, run in float64."""
    with jax.enable_x64(True):
        x, y = (jnp.asarray(v, jnp.float64) for v in numbers().values())
        return np.asarray(fn(x, y))


FUNCTIONS: dict[str, Fn] = {
    "elementwise": lambda x, y: jnp.tanh(x) * jnp.exp(-(y**2)) / (1 + x**4) + jnp.maximum(x, y),
    "rounding": lambda x, y: jnp.floor(x) + jnp.sign(y) + jnp.abs(x) + jnp.cbrt(y),
    "special": lambda x, y: jax.nn.silu(x) + jax.lax.erf(y) + jnp.log1p(x * x) + jnp.expm1(y),
    "products": lambda x, y: (
        jnp.einsum("ab,cb->ac", x, y) @ x.T + jnp.einsum("aab->b", x[:, None] * y[None])
    ),
    "reductions": lambda x, y: x.sum(0) + y.max(1) + jnp.prod(x, 0) + x.min(0) + jnp.mean(y),
    "softmax": lambda x, y: jax.nn.softmax(x) @ jax.nn.log_softmax(y, axis=0),
    "scan": lambda x, y: lax.scan(lambda c, r: (jnp.sin(c) + r, c * 2), x[0], y)[1],
    "reversed scan": lambda x, y: lax.scan(lambda c, r: (c + r, c), x[0], y, reverse=True)[1],
    "branches": lambda x, y: lax.cond(x[0, 0] > 0, lambda: x @ y, lambda: y @ x),
    "while": lambda x, y: lax.while_loop(
        lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] @ y), (0, x)
    )[1],
    "gather": lambda x, y: jnp.take(x, jnp.array([2, 0, 1]), axis=0) * y[1:, ::-1],
    "scatter": lambda x, y: x.at[jnp.array([1, 1, 3])].add(y[:3]).at[0].set(y[0]),
    "slices": lambda x, y: (
        lax.dynamic_update_slice(x, y[:2, :2], (1, 3)) + jnp.pad(y[1:], ((1, 0), (0, 0)))
    ),
    "sorted": lambda x, y: jnp.sort(x, axis=1) + jnp.cumsum(y, axis=0) + lax.top_k(x, 4)[0],
    "selected": lambda x, y: jnp.where(x > y, x, jnp.clip(y, -0.5, 0.5)),
    "gradient": jax.grad(lambda x, y: (jnp.sin(x @ y) ** 2).sum() + jax.nn.relu(x).sum()),
    "remat": jax.grad(jax.checkpoint(lambda x, y: jnp.sum(jnp.tanh(x @ y) * x))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_rule_is_what_jax_computes_in_float64(name: str) -> None:
    fn = FUNCTIONS[name]
    found = shadow.evaluate(traced(fn), numbers())["out"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wide(fn), rtol=1e-12, atol=1e-14)


def test_numbers_that_the_trace_rounded_stay_rounded() -> None:
    """A constant of 0.044715 is float32's in a float32 trace: about 1e-8 off, not 1e-16."""
    fn = jax.nn.gelu
    found = shadow.evaluate(traced(lambda x, y: fn(x)), numbers())["out"]
    off = np.abs(found - wide(lambda x, y: fn(x))).max()
    assert 1e-11 < off < 1e-7


def test_nothing_of_float64_stays() -> None:
    shadow.evaluate(traced(lambda x, y: x.at[0].add(y[0])), numbers())
    assert jnp.ones(3).dtype == jnp.float32
    assert not jax.config.jax_enable_x64


def test_low_precision_is_promoted() -> None:
    half = jax.ShapeDtypeStruct((4, 4), jnp.bfloat16)
    program = traced(lambda x, y: (x @ y).astype(jnp.float32) * 3, half)
    given = {k: np.asarray(v, jnp.bfloat16) for k, v in numbers().items()}
    x, y = (v.astype(np.float64) for v in given.values())
    found = shadow.evaluate(program, given)["out"]
    np.testing.assert_allclose(found, x @ y * 3, rtol=1e-14)


def test_random_bits_are_the_same_bits() -> None:
    def fn(x: Any, y: Any) -> Any:
        return jax.random.bernoulli(jax.random.key(3), 0.5, (4, 4)) * x

    found = shadow.evaluate(traced(fn), numbers())["out"]
    x, y = numbers().values()
    np.testing.assert_array_equal(found, np.asarray(fn(x, y), np.float64))


def test_equal_programs_pass_and_tell_how_much_was_compared() -> None:
    control = traced(lambda x, y: jnp.sin(x) @ y)
    candidate = traced(lambda x, y: (y.T @ jnp.sin(x).T).T)
    result = shadow.compare(control, candidate, numbers())
    assert result and result.verdict is Verdict.PASS
    assert result.aligned and result.errors[0].elements == 16


def test_first_difference_is_named_with_lines_constants_and_module() -> None:
    def control(x: Any, y: Any) -> Any:
        return jnp.sin(jnp.tanh(x * 2.0) @ y)

    def candidate(x: Any, y: Any) -> Any:
        return jnp.sin(jnp.tanh(x * 2.000001) @ y)

    result = shadow.compare(traced(control), traced(candidate), numbers())
    assert result.verdict is Verdict.FAIL and result.first
    first = result.first.divergence
    assert first.control and first.candidate
    assert first.control.primitive == "mul"
    assert first.control.constants == ("2.0",) and first.candidate.constants == ("2.000001",)
    assert first.path == "a" and 1e-8 < result.first.relative < 1e-5
    assert first.candidate.source.startswith("tests/parity/shadow/test_shadow.py:")
    assert first.candidate.source != first.control.source
    assert first.outputs == ("out",)


def test_what_one_side_alone_computes_is_named() -> None:
    control = traced(lambda x, y: jnp.sin(x) @ y)
    candidate = traced(lambda x, y: jnp.sin(x) @ (jnp.exp(y)))
    first = shadow.compare(control, candidate, numbers()).first
    assert first and first.divergence.candidate
    assert first.divergence.candidate.primitive == "exp"


def test_missing_output_fails_and_nothing_compared_is_inconclusive() -> None:
    both, one = traced(lambda x, y: {"a": x, "b": y}), traced(lambda x, y: {"a": x})
    result = shadow.compare(both, one, numbers())
    assert result.verdict is Verdict.FAIL and result.missing == ("control: b",)
    other = traced(lambda x, y: {"c": x})
    assert shadow.compare(one, other, numbers()).verdict is Verdict.INCONCLUSIVE


def test_not_finite_on_one_side_alone_fails() -> None:
    control = traced(lambda x, y: jnp.log(x * x))
    candidate = traced(lambda x, y: jnp.log(x))
    result = shadow.compare(control, candidate, numbers())
    assert result.verdict is Verdict.FAIL
    assert result.errors[0].problem == "not finite on one side alone"


@pytest.mark.parametrize(
    ("fn", "word"),
    [
        (lambda x, y: jax.pure_callback(np.sin, SHAPE, x), "pure_callback"),
        (lambda x, y: x.astype(jnp.float8_e4m3fn).astype(jnp.float32), "float8_e4m3fn"),
        (
            lambda x, y: lax.cond(
                x[0, 0] > 9, lambda: jax.pure_callback(np.sin, SHAPE, x), lambda: x
            ),
            "pure_callback",
        ),
        (
            lambda x, y: lax.dot(
                x.astype(jnp.int8), y.astype(jnp.int8), preferred_element_type=jnp.int32
            ).astype(jnp.float32),
            "int8",
        ),
    ],
)
def test_what_has_no_meaning_in_float64_is_inconclusive_by_name(fn: Fn, word: str) -> None:
    program = traced(fn)
    result = shadow.compare(program, program, numbers())
    assert result.verdict is Verdict.INCONCLUSIVE
    assert word in result.unshadowable[0] and "test_shadow.py" in result.unshadowable[0]
    with pytest.raises(errors.InconclusiveError, match=word):
        shadow.evaluate(program, numbers())


def test_wrong_inputs_are_told() -> None:
    program = traced(lambda x, y: x)
    with pytest.raises(errors.ConfigError, match="params/b/kernel is missing"):
        shadow.evaluate(program, {"params/a/kernel": np.zeros((4, 4))})
    with pytest.raises(errors.ConfigError, match=r"of shape \[4, 4\], got \[4, 2\]"):
        shadow.evaluate(program, {k: v[:, :2] for k, v in numbers().items()})


@pytest.mark.parametrize("scan", [True, False])
def test_both_wings_in_float64_and_borrowed_names(scan: bool) -> None:
    cfg = specimen.small(scan_layers=scan)
    control, candidate = Side(cfg, "linen"), Side(cfg, "nnx")  # type: ignore[arg-type]
    name = "gradients"
    pair = [side.programs([name])[name] for side in (control, candidate)]
    result = shadow.compare(*pair, control.inputs())
    assert result, result.summary
    assert result.worst and result.worst.relative == 0.0
    assert result.aligned == min(result.events)
    paths = [module.path for module in result.modules]
    for layer in range(3):  # the scanned layers are unrolled and numbered
        assert f"decoder/layers_{layer}/pre_self_attention_layer_norm" in paths


def test_bug_in_a_scanned_layer_is_named_with_its_number() -> None:
    cfg = specimen.small(scan_layers=True)
    control = Side(cfg, "nnx")  # type: ignore[arg-type]
    candidate = Side(cfg, "linen", bugs.named("gelu-for-silu"))  # type: ignore[arg-type]
    pair = [side.programs(["forward"])["forward"] for side in (control, candidate)]
    first = shadow.compare(*pair, control.inputs()).first
    assert first and first.divergence.path == "decoder/layers_0/mlp"


def test_without_any_names_parameters_tell_the_module() -> None:
    cfg = specimen.small()
    control = Side(cfg, "nnx")  # type: ignore[arg-type]
    candidate = Side(cfg, "nnx", bugs.named("dead-neuron"))  # type: ignore[arg-type]
    pair = [side.programs(["forward"])["forward"] for side in (control, candidate)]
    first = shadow.compare(*pair, control.inputs()).first
    assert first and first.divergence.path == "decoder/layers_1/mlp/wi_0"


def test_isolated_layers_answer_for_themselves() -> None:
    cfg = specimen.small()
    control = Side(cfg, "linen")  # type: ignore[arg-type]
    candidate = Side(cfg, "nnx", bugs.named("epsilon"))  # type: ignore[arg-type]
    pair = [side.programs(["forward"])["forward"] for side in (control, candidate)]
    given = control.inputs()
    whole = shadow.compare(*pair, given)
    layers = {layer.path: layer for layer in shadow.isolate(*pair, given)}
    later = [m.relative for m in whole.modules if m.path.startswith("decoder/layers_2")]
    assert min(later) > 1e-9, "the difference is passed on"
    assert [path for path, layer in layers.items() if not layer] == ["decoder/layers_1"]


def test_error_ratio_and_its_limits() -> None:
    truth = np.linspace(1, 2, 2000)
    rng = np.random.default_rng(0)

    def off(size: float) -> np.ndarray:
        return (truth * (1 + size * rng.standard_normal(truth.size))).astype(np.float32)

    same = shadow.error_against_truth(off(1e-4), off(1e-4), truth)
    worse = shadow.error_against_truth(off(1e-4), off(1e-3), truth)
    better = shadow.error_against_truth(off(1e-3), off(1e-4), truth)
    assert same and 0.8 < same.value < 1.2
    assert not worse and 8 < worse.value < 12
    assert better and better.more_exact and not same.more_exact
    assert shadow.error_against_truth(off(1e-4), off(1e-3), truth, noise=1e-3)
    assert (same.factor, shadow.error_against_truth(*[truth[:9]] * 3).factor) == (2.0, 3.0)


def test_what_no_output_needs_is_left_out() -> None:
    """A bridge calls the initialisers of what it holds, and throws away what they give."""

    def bridged(x: Any, y: Any) -> Any:
        lax.nextafter(x, y)
        return jnp.sin(x) @ y

    result = shadow.compare(traced(lambda x, y: jnp.sin(x) @ y), traced(bridged), numbers())
    assert result.verdict is Verdict.PASS and not result.unshadowable
    used = shadow.compare(traced(lax.nextafter), traced(lax.nextafter), numbers())
    assert used.verdict is Verdict.INCONCLUSIVE
