"""The mixed rungs of the ladder, built on flax.nnx.bridge: one framework inside the other."""

from maxmig.bridge.linen_over_nnx import model as linen_over_nnx
from maxmig.bridge.nnx_over_linen import builders as nnx_over_linen

__all__ = ["linen_over_nnx", "nnx_over_linen"]
