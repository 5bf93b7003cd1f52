"""What cannot be numbered by content is not proved, by name, and never skipped."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir
from static_cases import SHAPE, prove

from maxmig.parity import programs, static


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
    assert "'own_thing'" in reasons[0] and "test_static_unknown.py" in reasons[0]
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
