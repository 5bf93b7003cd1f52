"""Causal attention with grouped key and value heads."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from maxmig.core import dense, initializers, norms, part, rope
from maxmig.core.context import Context
from maxmig.core.kv_cache import LayerCache
from maxmig.core.numerics import Numerics
from maxmig.core.part import Array
from maxmig.core.partition import constrain

# Added nowhere, put in place of masked logits: finite, so that a fully masked row stays finite.
_MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)


@dataclasses.dataclass(frozen=True)
class Attention(part.Part):
    """Multi-head attention with N query and K key/value heads of size H.

    Attributes:
        embed, heads, kv_heads, head_dim: D, N, K, H.
        rotary: rotary embedding of queries and keys; None for none.
        fused: one kernel `qkv_proj` for all three projections: [D, 3, N, H] when `fused_stacked`
            (GPT-3), else [D, N + 2K, H].
        bias: biases on all projections.
        scale_query: multiplies queries at run time; None where 1/sqrt(H) is in the initial kernel.
        qk_norm: normalisation of queries and keys by head; None for none.
        window: a token sees itself and the window - 1 tokens before it; 0 is no limit.
        soft_cap: logits are soft_cap * tanh(logits / soft_cap); None for no cap.
        distribution, scale: of the initial kernels.
    """

    embed: int
    heads: int
    kv_heads: int
    head_dim: int
    numerics: Numerics
    rotary: rope.Rope | None = None
    fused: bool = False
    fused_stacked: bool = False
    bias: bool = False
    scale_query: float | None = None
    qk_norm: norms.RMSNorm | None = None
    window: int = 0
    soft_cap: float | None = None
    scale: float = 1.0
    distribution: initializers.Distribution = "truncated_normal"

    def parts(self) -> dict[str, part.Part]:
        def project(outputs: tuple[int, ...], axes: part.Axes) -> dense.Dense:
            return dense.Dense(
                (self.embed,),
                outputs,
                ("embed",),
                axes,
                self.numerics,
                bias=self.bias,
                scale=self.scale,
                distribution=self.distribution,
            )

        n, k, h = self.heads, self.kv_heads, self.head_dim
        parts: dict[str, part.Part]
        if self.fused and self.fused_stacked:
            parts = {"qkv_proj": project((3, n, h), ("qkv", "heads", "kv"))}
        elif self.fused:
            parts = {"qkv_proj": project((n + 2 * k, h), ("heads", "kv"))}
        else:
            query = project((n, h), ("q_heads", "kv"))
            if self.scale_query is None:
                query = dataclasses.replace(query, divide_init_by=math.sqrt(h))
            side = project((k, h), ("kv_heads", "kv_head_dim"))
            parts = {"query": query, "key": side, "value": side}
        if self.qk_norm:
            parts |= {"query_norm": self.qk_norm, "key_norm": self.qk_norm}
        out = dataclasses.replace(
            project((self.embed,), ("embed",)), inputs=(n, h), in_axes=("heads", "kv")
        )
        return parts | {"out": out}


def forward(
    parts: Any, cfg: Attention, x: Array, context: Context, cache: LayerCache | None
) -> tuple[Array, LayerCache | None, dict[str, Array]]:
    """x [B, L, D] -> ([B, L, D], the cache with this call's keys and values, auxiliary scalars).

    The order is MaxText's: project, normalise, rotate, scale.
    """
    q, k, v = _project(parts, cfg, x)
    if cfg.qk_norm:
        q, k = parts.query_norm(q), parts.key_norm(k)
    if cfg.rotary:
        q = rope.forward(cfg.rotary, q, context.positions)
        k = rope.forward(cfg.rotary, k, context.positions)
    if cfg.scale_query is not None:
        q = q * jnp.asarray(cfg.scale_query, q.dtype)
    axes = ("activation_batch", "activation_length", "activation_heads", "activation_kv")
    q = checkpoint_name(constrain(q, *axes), "query_proj")
    k = checkpoint_name(constrain(k, *axes), "key_proj")
    v = checkpoint_name(constrain(v, *axes), "value_proj")
    if cache is not None:
        cache = cache.write(
            k, v, jnp.zeros((), jnp.int32) if context.start is None else context.start
        )
        k, v = cache.key.astype(k.dtype), cache.value.astype(v.dtype)
    attended = checkpoint_name(attend(cfg, q, k, v, mask(cfg, context, k.shape[1])), "context")
    return checkpoint_name(parts.out(attended), "out_proj"), cache, {}


def _project(parts: Any, cfg: Attention, x: Array) -> tuple[Array, Array, Array]:
    if not cfg.fused:
        return parts.query(x), parts.key(x), parts.value(x)
    qkv = checkpoint_name(parts.qkv_proj(x), "qkv_proj")
    if cfg.fused_stacked:
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    n, k = cfg.heads, cfg.kv_heads
    return qkv[:, :, :n], qkv[:, :, n : n + k], qkv[:, :, n + k :]


def mask(cfg: Attention, context: Context, keys: int) -> Array:
    """bool [B, L, T]: who sees whom. Causal by row index, inside one segment, inside the window.

    Padding (segment 0) sees padding, as in MaxText: its rows stay finite and are never counted.
    """
    queries = context.segment_ids.shape[1]
    rows = jnp.arange(queries, dtype=jnp.int32)[:, None]
    if context.start is not None:
        rows = rows + context.start
    cols = jnp.arange(keys, dtype=jnp.int32)[None, :]
    seen = cols <= rows
    if cfg.window:
        seen = seen & (cols > rows - cfg.window)
    segments = context.segment_ids
    others = segments if context.cache_segment_ids is None else context.cache_segment_ids
    return seen[None] & (segments[:, :, None] == others[:, None, :])


def attend(cfg: Attention, q: Array, k: Array, v: Array, seen: Array) -> Array:
    """Softmax attention: q [B, L, N, H], k and v [B, T, K, H], seen [B, L, T] -> [B, L, N, H]."""
    policy = cfg.numerics
    batch, length, n, h = q.shape
    group = n // cfg.kv_heads
    if policy.float32_qk_product:
        q, k = q.astype(jnp.float32), k.astype(jnp.float32)
    # All queries of a key head are the rows of one matrix [G * L, H]. With the group as an axis of
    # its own XLA:CPU moves the axes of every [L, T] block: a tenth of a step (docs/benchmarks.md).
    rows = (batch, cfg.kv_heads, group * length)
    q = jnp.reshape(q, (batch, length, cfg.kv_heads, group, h))
    q = jnp.reshape(jnp.transpose(q, (0, 2, 3, 1, 4)), (*rows, h))
    k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    logits = jnp.einsum("bkmh,bkth->bkmt", q, k, precision=policy.precision)
    if cfg.soft_cap is not None:
        cap = jnp.asarray(cfg.soft_cap, logits.dtype)
        logits = jnp.tanh(logits / cap) * cap
    if policy.float32_logits:
        logits = logits.astype(jnp.float32)
    seen = jnp.reshape(jnp.tile(seen, (1, group, 1)), (batch, 1, *logits.shape[2:]))
    logits = jnp.where(seen, logits, jnp.asarray(_MASKED, logits.dtype))
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.einsum("bkmt,bkth->bkmh", weights.astype(v.dtype), v, precision=policy.precision)
    out = jnp.reshape(out / total.astype(out.dtype), (batch, cfg.kv_heads, group, length, h))
    out = jnp.transpose(out, (0, 3, 1, 2, 4))
    return jnp.reshape(out, (batch, length, n, h)).astype(policy.dtype)
