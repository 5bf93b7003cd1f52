"""Dropout from an explicit key."""

import jax
import jax.numpy as jnp

from maxmig.core.context import Context

Array = jax.Array


def forward(x: Array, rate: float, context: Context, site: str) -> Array:
    """Zeroes whole feature columns of a row with probability `rate` and rescales the rest.

    The mask is broadcast along the sequence, as in MaxText. It comes from the context's key and the
    name of the site, so it differs between steps, layers and sites, and not between frameworks.

    Args:
        x: [B, L, D].
        rate: probability of dropping.
        context: gives the key; without one, x is returned as it is.
        site: name of the place in the layer.
    """
    key = context.at(site).key
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, (*x.shape[:-2], 1, x.shape[-1]))
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros_like(x))
