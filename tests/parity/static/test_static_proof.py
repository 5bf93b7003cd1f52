"""What is proved, what is not, and what is said about it."""

import dataclasses
import functools
import resource
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from maxmig import config, errors
from maxmig.parity import programs, static
from maxmig.parity.faults import bugs, specimen
from maxmig.parity.faults.specimen import Side
from maxmig.parity.programs import Program

Fn = Callable[..., Any]
SHAPE = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def traced(fn: Fn, **shapes: Any) -> Program:
    """A program of a function of the named inputs `x` and `y`, both [4, 4]."""
    inputs = {"x": SHAPE, "y": SHAPE} | shapes

    def flat(values: dict[str, Any]) -> dict[str, Any]:
        out = fn(values["x"], values["y"])
        return out if isinstance(out, dict) else {"out": out}

    return programs.trace("outputs", flat, inputs)


def prove(control: Fn, candidate: Fn, **shapes: Any) -> static.Proof:
    return static.prove(traced(control, **shapes), traced(candidate, **shapes))


def scanned(swap: bool, order: bool = False, reverse: bool = False) -> Fn:
    """A scan of two carries; `swap` exchanges their updates, `order` their places."""

    def fn(x: Any, y: Any) -> Any:
        def body(carry: Any, item: Any) -> Any:
            a, b = carry[::-1] if order else carry
            a, b = jnp.sin(a) + item, jnp.cos(b) * a
            if swap:
                a, b = b, a
            return ((b, a) if order else (a, b)), a

        first = (y, x) if order else (x, y)
        (a, b), rows = lax.scan(body, first, jnp.stack([x, y]), reverse=reverse)
        return {"a": b if order else a, "rows": rows}

    return fn


def accumulated(first: int) -> Fn:
    """Carries that start alike and are told apart by their updates alone."""

    def fn(x: Any, y: Any) -> Any:
        def body(carry: Any, item: Any) -> Any:
            a, b, c = carry
            new = (a + item, b + jnp.sin(item), c + a * b)
            return tuple(new[(k + first) % 3] for k in range(3)), None

        def rotated(carry: Any, item: Any) -> Any:
            back = tuple(carry[(k - first) % 3] for k in range(3))
            return body(back, item)

        zero = jnp.zeros_like(x)
        out, _ = lax.scan(rotated, (zero, zero, zero), jnp.stack([x, y, x]))
        return out[(0 - first) % 3] + 2 * out[(2 - first) % 3]

    return fn


@jax.custom_vjp
def plain(x: Any) -> Any:
    return jnp.sin(x)


@jax.custom_vjp
def clipped(x: Any) -> Any:
    return jnp.sin(x)


plain.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))
clipped.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.clip(g, -1, 1) * jnp.cos(x),))


def loop(limit: int, step: float = 1.0) -> Fn:
    def fn(x: Any, y: Any) -> Any:
        return lax.while_loop(
            lambda s: s[0] < limit, lambda s: (s[0] + 1, s[1] * y + step), (0, x)
        )[1]

    return fn


EQUAL: dict[str, tuple[Fn, Fn]] = {
    "calls are inlined": (lambda x, y: x @ y, jax.jit(lambda x, y: jax.jit(jnp.matmul)(x, y))),
    "sums in any order": (lambda x, y: x + y, lambda x, y: y + x),
    "comparisons turned round": (lambda x, y: x > y, lambda x, y: y < x),
    "no-ops": (
        lambda x, y: x * y,
        lambda x, y: (x.reshape(16).reshape(4, 4) * y.T.T).astype(jnp.float32)[None][0],
    ),
    "broadcast scalars": (lambda x, y: x + 1.0, lambda x, y: x + jnp.ones_like(x)),
    "squares": (lambda x, y: x**2, lambda x, y: x * x),
    "remat": (jax.checkpoint(lambda x, y: jnp.sin(x @ y)), lambda x, y: jnp.sin(x @ y)),
    "order of carries": (scanned(False), scanned(False, order=True)),
    "carries that start alike": (accumulated(0), accumulated(1)),
    "carries that start alike, further": (accumulated(0), accumulated(2)),
    "a carry that never changes": (
        lambda x, y: lax.scan(lambda c, _: (jnp.sin(c) * y, None), x, length=3)[0],
        lambda x, y: lax.scan(lambda c, _: ((jnp.sin(c[0]) * c[1], c[1]), None), (x, y), length=3)[
            0
        ][0],
    ),
    "signed and unsigned counters": (
        lambda x, y: x.astype(jnp.int32) + 1,
        lambda x, y: (x.astype(jnp.int32).astype(jnp.uint32) + 1).astype(jnp.int32),
    ),
    "branches that agree": (
        lambda x, y: jnp.sin(x),
        lambda x, y: lax.cond(y[0, 0] > 0, lambda: jnp.sin(x), lambda: jnp.sin(x)),
    ),
    "while loops": (loop(3), loop(3)),
    "values of other custom rules": (lambda x, y: plain(x), lambda x, y: clipped(x)),
}

DIFFERENT: dict[str, tuple[Fn, Fn]] = {
    "another literal": (lambda x, y: x + 1.0, lambda x, y: x + 1.5),
    "minus zero": (lambda x, y: x * 0.0, lambda x, y: x * -0.0),
    "the larger of 0 and -0": (lambda x, y: jnp.maximum(x, y), lambda x, y: jnp.maximum(y, x)),
    "order of a difference": (lambda x, y: x - y, lambda x, y: y - x),
    "order of a product of matrices": (lambda x, y: x @ y, lambda x, y: y @ x),
    "transposed": (lambda x, y: x @ y, lambda x, y: x @ y.T),
    "broadcast along the other axis": (
        lambda x, y: x + y[0][None, :],
        lambda x, y: x + y[0][:, None],
    ),
    "a cast": (lambda x, y: x + y, lambda x, y: (x.astype(jnp.bfloat16) + y).astype(jnp.float32)),
    "there and back": (
        lambda x, y: x,
        lambda x, y: x.astype(jnp.bfloat16).astype(jnp.float32),
    ),
    "swapped carries": (scanned(False), scanned(True)),
    "reversed scan": (scanned(False), scanned(False, reverse=True)),
    "swapped branches": (
        lambda x, y: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, y),
        lambda x, y: lax.cond(x[0, 0] > 0, jnp.cos, jnp.sin, y),
    ),
    "the other condition": (
        lambda x, y: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, y),
        lambda x, y: lax.cond(y[0, 0] > 0, jnp.sin, jnp.cos, y),
    ),
    "the end of a while loop": (loop(3), loop(4)),
    "the step of a while loop": (loop(3), loop(3, 2.0)),
    "axis of a sum": (lambda x, y: x.sum(0), lambda x, y: x.sum(1)),
    "precision": (
        lambda x, y: jnp.matmul(x, y),
        lambda x, y: jnp.matmul(x, y, precision="highest"),
    ),
    "signed and unsigned comparison": (
        lambda x, y: x.astype(jnp.int32) < y.astype(jnp.int32),
        lambda x, y: (
            x.astype(jnp.int32).astype(jnp.uint32) < y.astype(jnp.int32).astype(jnp.uint32)
        ),
    ),
    "signed and unsigned division": (
        lambda x, y: x.astype(jnp.int32) // 3,
        lambda x, y: (x.astype(jnp.int32).astype(jnp.uint32) // 3).astype(jnp.int32),
    ),
    "slices of the wrong operand": (
        lambda x, y: lax.scan(lambda c, r: (c + r, None), x[0], y)[0],
        lambda x, y: lax.scan(lambda c, r: (c + r, None), y[0], x)[0],
    ),
    "stale carry": (
        lambda x, y: lax.scan(lambda c, r: (c + r, c + r), x[0], y)[1],
        lambda x, y: lax.scan(lambda c, r: (c + r, c), x[0], y)[1],
    ),
    "constants of an array": (
        lambda x, y: x + np.arange(16.0, dtype=np.float32).reshape(4, 4),
        lambda x, y: x + np.arange(16.0, dtype=np.float32).reshape(4, 4).T,
    ),
    "gradients of other custom rules": (
        jax.grad(lambda x, y: plain(x).sum()),
        jax.grad(lambda x, y: clipped(x).sum()),
    ),
    "a stopped gradient": (
        jax.grad(lambda x, y: (x * jnp.sin(x)).sum()),
        jax.grad(lambda x, y: (x * jnp.sin(lax.stop_gradient(x))).sum()),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal(name: str) -> None:
    proof = prove(*EQUAL[name])
    assert proof, proof.summary


@pytest.mark.parametrize("name", DIFFERENT)
def test_different(name: str) -> None:
    control, candidate = DIFFERENT[name]
    assert not prove(control, candidate)
    assert not prove(candidate, control)
    assert prove(control, control), "the negative control: each is itself"
    assert prove(candidate, candidate)


def test_names_the_first_difference_with_both_lines() -> None:
    def control(x: Any, y: Any) -> Any:
        z = jnp.sin(x)
        return z / 3.0

    def candidate(x: Any, y: Any) -> Any:
        return jnp.sin(x) / 4.0

    proof = prove(control, candidate)
    assert not proof and proof.complete
    (found,) = proof.divergences
    assert found.control and found.candidate
    assert found.control.primitive == found.candidate.primitive == "div"
    assert (found.control.constants, found.candidate.constants) == (("3.0",), ("4.0",))
    for equation, function in ((found.control, control), (found.candidate, candidate)):
        file, line = equation.source.split(":")
        assert file.endswith("test_static_proof.py")
        first = function.__code__.co_firstlineno
        assert first <= int(line) <= first + 3
    assert "constant 3.0 against 4.0" in str(found)


def test_scaling_in_another_place_is_told_in_words() -> None:
    """As stock attention does: Linen divides queries by sqrt(depth), NNX multiplies products."""

    def control(x: Any, y: Any) -> Any:
        return (x / jnp.sqrt(jnp.float32(16))) @ y

    def candidate(x: Any, y: Any) -> Any:
        return (x @ y) * 0.25

    first = prove(control, candidate).first
    assert first is not None
    assert (
        first.differences[0]
        == "the control divides by sqrt(16.0), the candidate multiplies by 0.25"
    )
    first = prove(candidate, control).first
    assert first is not None
    assert (
        first.differences[0]
        == "the control multiplies by 0.25, the candidate divides by sqrt(16.0)"
    )


def test_tells_all_differences_and_that_there_are_no_others() -> None:
    def make(scale: float, shift: float) -> Fn:
        return lambda x, y: jnp.tanh(x * scale) @ jnp.tanh(y + shift)

    proof = prove(make(2.0, 3.0), make(2.5, 3.5))
    assert [d.differences for d in proof.divergences] == [
        ("constant 2.0 against 2.5",),
        ("constant 3.0 against 3.5",),
    ]
    assert proof.complete


def test_tells_dtype_flow() -> None:
    proof = prove(lambda x, y: jnp.exp(x), DIFFERENT["there and back"][1])
    kinds = {(c.source_dtype, c.target_dtype, c.control, c.candidate) for c in proof.casts}
    assert kinds == {("float32", "bfloat16", 0, 1), ("bfloat16", "float32", 0, 1)}
    assert all(
        "candidate" in c.lines[0] and "test_static_proof.py:" in c.lines[0] for c in proof.casts
    )


def test_unknown_primitive_is_named_and_not_skipped() -> None:
    own = Primitive("own_thing")
    own.def_abstract_eval(lambda x: x)
    mlir.register_lowering(own, mlir.lower_fun(jnp.sin, multiple_results=False))

    def fn(x: Any, y: Any) -> Any:
        return {"touched": jnp.cos(own.bind(x)), "free": x + y}

    proof = prove(fn, fn)
    assert proof.proved == ("free",) and not proof
    ((name, reasons),) = proof.unprovable
    assert name == "touched"
    assert "'own_thing'" in reasons[0] and "test_static_proof.py" in reasons[0]
    assert "own_thing" in proof.summary


def test_somebody_elses_primitive_of_a_known_name_is_unknown() -> None:
    sin = Primitive("sin")
    sin.def_abstract_eval(lambda x: x)
    proof = prove(lambda x, y: sin.bind(x), lambda x, y: sin.bind(x))
    assert not proof and "'sin'" in proof.unprovable[0][1][0]


def test_callable_in_a_parameter_is_not_compared() -> None:
    def fn(x: Any, y: Any) -> Any:
        return jax.pure_callback(np.sin, SHAPE, x)

    proof = prove(fn, fn)
    assert not proof and "pure_callback" in proof.unprovable[0][1][0]


def test_effects_leave_nothing_proved() -> None:
    def noisy(x: Any, y: Any) -> Any:
        jax.debug.print("{}", x[0, 0])
        return {"a": x + 1, "b": y}

    proof = prove(noisy, lambda x, y: {"a": x + 1, "b": y})
    assert not proof.proved and len(proof.unprovable) == 2
    assert "debug" in proof.unprovable[0][1][0].lower()


def test_unknown_in_a_loop_taints_only_what_depends_on_it() -> None:
    own = Primitive("own_in_loop")
    own.def_abstract_eval(lambda x: x)

    def fn(x: Any, y: Any) -> Any:
        def body(c: Any, row: Any) -> Any:
            return (own.bind(c[0]), c[1] + row), row * 2

        (a, b), rows = lax.scan(body, (x[0], x[1]), y)
        return {"a": a, "b": b, "rows": rows}

    proof = prove(fn, fn)
    assert set(proof.proved) == {"b", "rows"}
    assert [name for name, _ in proof.unprovable] == ["a"]


def test_other_shapes_and_missing_outputs_are_told() -> None:
    wide = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    control = traced(lambda x, y: {"a": x.sum(), "b": x})
    candidate = traced(lambda x, y: {"a": x.sum(), "c": x}, x=wide)
    proof = static.prove(control, candidate)
    assert not proof.proved
    assert proof.missing == ("control: b", "candidate: c")
    assert proof.inputs == ("x is float32[4, 4] in the control, float32[4, 8] in the candidate",)


def test_nothing_compared_is_no_proof() -> None:
    control, candidate = traced(lambda x, y: {"a": x}), traced(lambda x, y: {"b": x})
    assert not static.prove(control, candidate)
    empty = traced(lambda x, y: {})
    assert not static.prove(empty, empty)


def test_fingerprints_are_texts_of_what_is_computed() -> None:
    one, two, three = (
        static.fingerprints(traced(fn))["out"]
        for fn in (lambda x, y: x + y, lambda x, y: y + x, lambda x, y: x - y)
    )
    assert one == two != three
    assert one is not None and len(one) == 40


def test_a_program_needs_a_name_for_everything() -> None:
    given = traced(lambda x, y: x)
    with pytest.raises(errors.ConfigError, match="a name of its own for each of the 2 inputs"):
        dataclasses.replace(given, inputs=("x", "x"))
    cfg = config.load("tiny_llama2", [])
    with pytest.raises(errors.ConfigError, match="'backward' is not one of forward"):
        programs.of_rung(cfg, "nnx", only=["backward"])


@functools.cache
def rung(family: str, scan: bool, stage: str) -> dict[str, Program]:
    """All programs of a rung of a small model."""
    remat = "full" if family == "llama2" else "minimal"
    changes = {"scan_layers": scan, "remat_policy": remat, "base_num_decoder_layers": 2}
    cfg = config.load(f"tiny_{family}", []).replace(**changes)
    return programs.of_rung(cfg, stage, rows=2, length=16)


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("family", ["llama2", "gpt3"])
def test_whole_framework_is_proved(family: str, scan: bool) -> None:
    control, candidate = (rung(family, scan, stage) for stage in ("linen", "nnx"))
    assert set(control) == set(programs.NAMES)
    for name in control:
        proof = static.prove(control[name], candidate[name])
        assert proof, proof.summary


@pytest.mark.parametrize("stage", ["bridged-decoder", "bridged", "hybrid"])
def test_mixed_rungs_are_proved(stage: str) -> None:
    cfg = config.load("tiny_llama2", []).replace(remat_policy="full", base_num_decoder_layers=2)
    only = ("train_step", "decode")
    candidate = programs.of_rung(cfg, stage, only=only, rows=2, length=16)
    control = rung("llama2", True, "linen")
    for name in only:
        proof = static.prove(control[name], candidate[name])
        assert proof, proof.summary


@pytest.mark.parametrize(
    "changes",
    [
        {"enable_dropout": True, "dropout_rate": 0.1},
        {"gradient_accumulation_steps": 2, "dtype": "bfloat16"},
        {"logits_via_embedding": True, "z_loss_multiplier": 1e-4},
    ],
)
def test_features_are_proved(changes: dict[str, Any]) -> None:
    cfg = config.load("tiny_llama2", []).replace(base_num_decoder_layers=2, **changes)
    control, candidate = (
        programs.of_rung(cfg, stage, only=["train_step"])["train_step"]
        for stage in ("linen", "nnx")
    )
    proof = static.prove(control, candidate)
    assert proof, proof.summary


def test_seventy_billion_parameters_without_a_weight() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cfg = config.load("models/llama2-70b", [])
    assert cfg.model.num_decoder_layers == 80
    control, candidate = (
        programs.of_rung(cfg, stage, only=["train_step"])["train_step"]
        for stage in ("linen", "nnx")
    )
    size = sum(
        int(np.prod(aval.shape))
        for name, aval in zip(control.inputs, control.jaxpr.in_avals, strict=True)
        if name.startswith("params/")
    )
    assert size > 60e9
    assert static.prove(control, candidate)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 600, f"{grown:.0f} MiB"


@pytest.mark.parametrize(
    "bug", [b for b in bugs.BUGS if b.name != "swapped-layers"], ids=lambda bug: bug.name
)
def test_bug_in_all_layers_of_a_scan_is_found(bug: bugs.Bug) -> None:
    cfg = specimen.small(scan_layers=True, base_num_decoder_layers=3)
    control = Side(cfg, "linen").programs([bug.program])[bug.program]  # type: ignore[arg-type]
    candidate = Side(cfg, "nnx", bug).programs([bug.program])[bug.program]  # type: ignore[arg-type]
    proof = static.prove(control, candidate)
    assert not proof and proof.first and proof.first.candidate
    assert proof.first.candidate.source.rsplit(":", 1)[0] in bug.files
    module = bug.module.replace("layers_1", "layers")
    assert proof.first.path.startswith(module)


def test_what_draws_anew_each_time_is_not_proved() -> None:
    def draw(*_: Any) -> jax.Array:
        return lax.rng_uniform(0.0, 1.0, (4, 4))

    def twice(x: jax.Array, y: jax.Array) -> jax.Array:
        return draw(x) - draw(y)

    def once(x: jax.Array, y: jax.Array) -> jax.Array:
        drawn = draw(x)
        return drawn - drawn

    proof = prove(twice, once)
    assert not proof and "rng_uniform" in proof.unprovable[0][1][0]


def test_keys_of_another_generator_with_the_same_name_are_not_proved() -> None:
    own = jax.random.key(0).dtype
    other = own._impl._replace(random_bits=lambda key, width, shape: jnp.zeros(shape, "uint32"))
    key = jax.eval_shape(lambda: jax.random.wrap_key_data(jnp.zeros(2, "uint32"), impl=other))
    assert str(key.dtype) == str(own)

    def draw(values: dict[str, Any]) -> dict[str, Any]:
        return {"out": jax.random.bits(values["key"], (4,))}

    ours = programs.trace("outputs", draw, {"key": jax.ShapeDtypeStruct((), own)})
    theirs = programs.trace("outputs", draw, {"key": key})
    assert static.prove(ours, ours)
    assert not static.prove(ours, theirs)
