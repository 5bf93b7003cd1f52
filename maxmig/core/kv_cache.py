"""Keys and values of earlier tokens, as a plain tree that goes in and comes out."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerCache:
    """One attention's keys and values, [B, T, K, H] each (with a leading [N] in scanned stacks)."""

    key: Array
    value: Array

    def write(self, key: Array, value: Array, start: Array) -> "LayerCache":
        """Stores key and value [B, L, K, H] from row `start` on."""
        at = (0, start, 0, 0)
        return LayerCache(
            lax.dynamic_update_slice(self.key, key.astype(self.key.dtype), at),
            lax.dynamic_update_slice(self.value, value.astype(self.value.dtype), at),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """The caches of all layers.

    Attributes:
        stacks: by stack name, the layers' caches: one tree with a leading layer axis when the stack
            is scanned, else a tuple with one tree a layer; that tree is {part name: LayerCache}.
        segment_ids: int32 [B, T]; 0 where nothing, or padding, is stored.
        length: int32 scalar, number of rows written.
    """

    stacks: dict[str, object]
    segment_ids: Array
    length: Array

    def extend(self, segment_ids: Array) -> tuple[Array, Array]:
        """(all segments with the new ones [B, L] written, the row where they start)."""
        filled = lax.dynamic_update_slice(
            self.segment_ids, segment_ids, (jnp.zeros((), jnp.int32), self.length)
        )
        return filled, self.length
