"""What is said where two programs part: lines, words, types; and when nothing is compared."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from static_cases import Fn, prove, traced

from maxmig import config, errors
from maxmig.parity import programs, static


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
        assert file.endswith("test_static_told.py")
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
    proof = prove(lambda x, y: jnp.exp(x), lambda x, y: x.astype(jnp.bfloat16).astype(jnp.float32))
    kinds = {(c.source_dtype, c.target_dtype, c.control, c.candidate) for c in proof.casts}
    assert kinds == {("float32", "bfloat16", 0, 1), ("bfloat16", "float32", 0, 1)}
    assert all(
        "candidate" in c.lines[0] and "test_static_told.py:" in c.lines[0] for c in proof.casts
    )


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
