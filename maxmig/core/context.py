"""What accompanies the activations through a forward pass, as a plain tree."""

import dataclasses

import jax
import jax.numpy as jnp

from maxmig.core import part

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """Positions, segments and randomness of one call.

    Attributes:
        positions: int32 [B, L], position of each token in its own document.
        segment_ids: int32 [B, L], document of each token; 0 is padding.
        key: random key of this call's dropout; None switches dropout off.
        start: int32 scalar, row index of the first token (0 but when decoding with a cache).
        cache_segment_ids: int32 [B, T], segments of all cached tokens; None without a cache.
    """

    positions: Array
    segment_ids: Array
    key: Array | None = None
    start: Array | None = None
    cache_segment_ids: Array | None = None

    def at(self, name: str) -> "Context":
        """The same, with the random stream called `name`."""
        if self.key is None:
            return self
        return dataclasses.replace(self, key=part.stream(self.key, name))

    def layer(self, index: Array | int) -> "Context":
        """The same, with the random stream of layer `index`."""
        if self.key is None:
            return self
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, index))

    @classmethod
    def of(
        cls,
        tokens: Array,
        positions: Array | None = None,
        segment_ids: Array | None = None,
        key: Array | None = None,
    ) -> "Context":
        """A context for `tokens` [B, L]; by default one document a row, positions 0 to L-1."""
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        if segment_ids is None:
            segment_ids = jnp.ones(tokens.shape, jnp.int32)
        return cls(positions, segment_ids, key)
