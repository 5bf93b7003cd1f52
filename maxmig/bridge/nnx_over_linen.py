"""An NNX model that holds a Linen decoder."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

from maxmig.core import decoder
from maxmig.core.context import Context
from maxmig.linen.decoder import Decoder


def builders() -> Mapping[str, Callable[..., nnx.Module]]:
    """What `maxmig.nnx.decoder.Model` needs to hold a Linen decoder in place of its own."""
    return {"decoder": _decoder}


def _decoder(cfg: decoder.Decoder, rngs: nnx.Rngs) -> nnx.Module:
    wrapped = bridge.ToNNX(Decoder(cfg))
    tokens = jnp.zeros((1, 1), jnp.int32)
    embedded = jnp.zeros((1, 1, cfg.norm.size), cfg.norm.numerics.dtype)
    # The key goes to this call alone. Given to the wrapper, it would stay in the model's state.
    return bridge.lazy_init(wrapped, embedded, Context.of(tokens), None, rngs=rngs.params())
