"""One source of random numbers for both sides, so that dropout masks can be compared.

Linen derives keys from module paths and NNX from counters, so from one seed they draw other masks.
Here the n-th request of either side is given the n-th key.
"""

import contextlib
from collections.abc import Hashable, Iterator
from typing import Any

import jax
from flax import nnx
from flax.core import scope as linen_scope

SEED = 20


class Requests:
    """Who asked for random keys, in the order of the first time."""

    def __init__(self) -> None:
        self.order: dict[Hashable, int] = {}

    def key(self, request: Hashable) -> jax.Array:
        """The key of a request: asked again, as when a loop's body is traced twice, the same."""
        number = self.order.setdefault(request, len(self.order))
        return jax.random.fold_in(jax.random.key(SEED), number)


@contextlib.contextmanager
def shared() -> Iterator[Requests]:
    """While it lasts, both frameworks draw from the shared source."""
    requests = Requests()
    original_linen = linen_scope.Scope.make_rng
    original_nnx = nnx.RngStream.__call__
    asked: dict[int, tuple[Any, int]] = {}  # keeps the stream, so that its id stays its own

    def make_rng(self: Any, name: str = "params") -> jax.Array:
        original_linen(self, name)  # raises what it raises, and counts
        used = name if self.has_rng(name) else "params"
        return requests.key((self.path, name, self.rng_counters[used]))

    def call(self: Any) -> jax.Array:
        original_nnx(self)  # the counter advances as ever
        _, count = asked.get(id(self), (self, 0))
        asked[id(self)] = (self, count + 1)
        return requests.key((getattr(self, MARK, id(self)), self.tag, count))

    linen_scope.Scope.make_rng = make_rng  # type: ignore[method-assign]
    nnx.RngStream.__call__ = call  # type: ignore[method-assign]
    try:
        yield requests
    finally:
        linen_scope.Scope.make_rng = original_linen  # type: ignore[method-assign]
        nnx.RngStream.__call__ = original_nnx  # type: ignore[method-assign]


MARK = "_maxmig_path"
