"""Token and position tables, and logits from a tied table."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from maxmig.core import initializers, part
from maxmig.core.numerics import Numerics
from maxmig.core.part import Array, Param


@dataclasses.dataclass(frozen=True)
class Embed(part.Part):
    """A table [vocabulary or positions, D].

    Attributes:
        rows, features: its shape.
        axes: logical names of both axes.
        one_hot: look up by a product with one-hot rows (friendlier to sharded tables).
        normalize_logits: divide tied logits by sqrt(D).
        float32_logits: accumulate tied logits in float32.
    """

    rows: int
    features: int
    numerics: Numerics
    axes: part.Axes = ("vocab", "embed_vocab")
    one_hot: bool = False
    normalize_logits: bool = False
    float32_logits: bool = False

    def params(self) -> dict[str, Param]:
        shape = (self.rows, self.features)
        dtype = self.numerics.weight_dtype
        return {"embedding": Param(shape, self.axes, initializers.normal(1.0), dtype)}


def forward(owner: Any, cfg: Embed, ids: Array) -> Array:
    """ids int32 [B, L] -> [B, L, D]."""
    dtype = cfg.numerics.dtype
    table = part.read(owner, "embedding", dtype)
    if not cfg.one_hot:
        return jnp.take(table, ids, axis=0, mode="clip")
    hot = (ids[:, :, None] == jnp.arange(cfg.rows, dtype=ids.dtype)[None, None, :]).astype(dtype)
    return jnp.dot(hot, table, precision=cfg.numerics.precision)


def attend(owner: Any, cfg: Embed, x: Array) -> Array:
    """Tied logits: x [B, L, D] -> [B, L, V].

    MaxText rounds the table to bfloat16 for this product whatever the dtype, and so the gradient
    that flows back through it; a checkpoint trained there gives its own logits only that way.
    """
    out = jnp.float32 if cfg.float32_logits else cfg.numerics.dtype
    wide = jnp.bfloat16 if x.dtype == jnp.bfloat16 else jnp.float32
    table = part.read(owner, "embedding", jnp.bfloat16).astype(wide)
    logits = jnp.einsum(
        "bld,vd->blv",
        x.astype(wide),
        table,
        precision=cfg.numerics.precision,
        preferred_element_type=out,
    )
    if cfg.normalize_logits:
        logits = logits / jnp.asarray(math.sqrt(cfg.features), logits.dtype)
    return logits
