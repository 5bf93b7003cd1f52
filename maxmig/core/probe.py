"""Hidden states, for who asks: off in training, and then nothing of this is in a program.

A trace enters `hidden_states()`; every layer then returns its output among its auxiliary values,
which all lifts (scanned or not, remat or not, bridged or not) carry out of the model already.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

Array = jax.Array

HIDDEN = "hidden"

_asked: contextvars.ContextVar[bool] = contextvars.ContextVar("hidden_states", default=False)


@contextlib.contextmanager
def hidden_states() -> Iterator[None]:
    """Asks the layers that are traced inside for their outputs."""
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


def layer_output(x: Array) -> dict[str, Array]:
    """What a layer adds to its auxiliary values: x [B, L, D] if that was asked for."""
    return {HIDDEN: x} if _asked.get() else {}
