"""Choosing the next token from logits."""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array

_OUT = -1e30  # a logit that is never drawn, and finite


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        strategy: "greedy" takes the likeliest; "weighted" draws from all; "topk" from the `top_k`
            likeliest; "nucleus" from the smallest set that holds the probability `nucleus_p`
            (Holtzman et al. 2020); "composite" from top k first, then the nucleus of those.
        top_k: for topk and composite.
        nucleus_p: for nucleus and composite.
        temperature: divides the logits before anything is drawn.
    """

    strategy: str = "greedy"
    top_k: int = 0
    nucleus_p: float = 1.0
    temperature: float = 1.0


def sample(cfg: Sampling, logits: Array, key: Array) -> Array:
    """logits [B, V] -> tokens int32 [B]."""
    if cfg.strategy == "greedy":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits.astype(jnp.float32) / cfg.temperature
    if cfg.strategy in ("topk", "composite"):
        logits = _top_k(logits, cfg.top_k)
    if cfg.strategy in ("nucleus", "composite"):
        logits = _nucleus(logits, cfg.nucleus_p)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)


def _top_k(logits: Array, k: int) -> Array:
    least = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][:, -1:]
    return jnp.where(logits < least, _OUT, logits)


def _nucleus(logits: Array, p: float) -> Array:
    ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1) - jax.nn.softmax(
        ordered, axis=-1
    )
    # A token is in while the likelier ones hold less than p: the likeliest always is.
    kept = jnp.sum(before < p, axis=-1, keepdims=True)
    least = jnp.take_along_axis(ordered, kept - 1, axis=-1)
    return jnp.where(logits < least, _OUT, logits)
