"""Rotary position embedding (Su et al. 2021): (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin)."""

import dataclasses

import jax.numpy as jnp

from maxmig.core.part import Array


@dataclasses.dataclass(frozen=True)
class Rope:
    """Wavelengths of the rotation, from 2 pi `min_timescale` to 2 pi `max_timescale`."""

    min_timescale: float = 1.0
    max_timescale: float = 10_000.0


def forward(cfg: Rope, x: Array, positions: Array) -> Array:
    """Rotates x [B, L, N, H] by positions [B, L]; computed in float32, returned in x's dtype."""
    half = x.shape[-1] // 2
    fraction = jnp.arange(half, dtype=jnp.float32) * (2.0 / x.shape[-1])
    timescale = cfg.min_timescale * (cfg.max_timescale / cfg.min_timescale) ** fraction
    angle = positions.astype(jnp.float32)[:, :, None, None] / timescale[None, None, None, :]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
