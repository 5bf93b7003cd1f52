"""Counts which modules really run, and own the arrays, in a forward pass.

The proof of the rung that ran: it looks at the objects at work, not at the flags.
"""

import collections
import contextlib
import contextvars
from collections.abc import Iterator

Owners = collections.Counter[tuple[str, str]]

_owners: contextvars.ContextVar[Owners | None] = contextvars.ContextVar("owners", default=None)


@contextlib.contextmanager
def counting() -> Iterator[Owners]:
    """Yields a counter of (framework, class name) that fills while a model is traced inside."""
    owners: Owners = collections.Counter()
    token = _owners.set(owners)
    try:
        yield owners
    finally:
        _owners.reset(token)


def record(owner: object) -> None:
    """Counts one call of a module, or one reading of an array that it owns."""
    owners = _owners.get()
    if owners is not None:
        owners[framework(type(owner)), type(owner).__name__] += 1


def framework(cls: type) -> str:
    """The framework whose module class `cls` descends from: `linen`, `nnx` or `none`.

    Linen comes first: flax.nnx.bridge.ToLinen is a Linen module that stands in an NNX package.
    """
    bases = {base.__module__ for base in cls.__mro__}
    for name, packages in _PACKAGES.items():
        if any(base.startswith(packages) for base in bases):
            return name
    return "none"


# Flax's TrainState lives beside Linen, not inside it.
_PACKAGES = {"linen": ("flax.linen", "flax.training"), "nnx": ("flax.nnx",)}
