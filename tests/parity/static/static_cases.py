"""Programs of small functions, and the proof that two of them are equal."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from maxmig.parity import programs, static
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
