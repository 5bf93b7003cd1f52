"""Sharding constraints on activations, by logical axis names.

A trace enters `constraints(...)` with a function that knows mesh and rules; outside of it, on one
device, `constrain` does nothing. Core code so names its axes without knowing any mesh.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax

Array = jax.Array
Constrain = Callable[[Array, tuple[str | None, ...]], Array]

_constrain: contextvars.ContextVar[Constrain | None] = contextvars.ContextVar(
    "constrain", default=None
)


@contextlib.contextmanager
def constraints(function: Constrain | None) -> Iterator[None]:
    """Applies `function(x, logical_axes)` to every activation that is constrained inside."""
    token = _constrain.set(function)
    try:
        yield
    finally:
        _constrain.reset(token)


def constrain(x: Array, *axes: str | None) -> Array:
    """Asks for the sharding of `x` that the rules give its logical axes."""
    function = _constrain.get()
    return x if function is None else function(x, axes)
