"""Decoder layers, stacks of them, and the whole language model, as data and as functions."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from maxmig.core import attention, census, dense, dropout, embed, norms, part, probe
from maxmig.core.context import Context
from maxmig.core.kv_cache import Cache, LayerCache
from maxmig.core.numerics import Numerics
from maxmig.core.part import Array, Repeat
from maxmig.core.partition import constrain

Aux = dict[str, Array]
LayerCaches = dict[str, LayerCache] | None


@dataclasses.dataclass(frozen=True)
class Branch:
    """One residual branch: `x + post_norm(op(norm(x)))`, each by the name of a part."""

    op: str
    norm: str | None = None
    post_norm: str | None = None


@dataclasses.dataclass(frozen=True)
class Layer(part.Part):
    """A decoder layer: named parts, and the residual branches that use them, in order.

    Attributes:
        named: (attribute name, description) of each part, in MaxText's names.
        branches: what is added to the residual stream.
        dropout: rate on the layer's output.
    """

    named: tuple[tuple[str, part.Part], ...]
    branches: tuple[Branch, ...]
    dropout: float = 0.0

    def parts(self) -> dict[str, part.Part]:
        return dict(self.named)

    @property
    def attentions(self) -> dict[str, attention.Attention]:
        """The parts that keep keys and values."""
        return {name: p for name, p in self.named if isinstance(p, attention.Attention)}


def layer_forward(
    parts: Any, cfg: Layer, x: Array, context: Context, caches: LayerCaches
) -> tuple[Array, LayerCaches, Aux]:
    """x [B, L, D] -> (x [B, L, D], the caches with this call's tokens, auxiliary scalars)."""
    written: dict[str, LayerCache] = {}
    aux: Aux = {}
    for branch in cfg.branches:
        y = getattr(parts, branch.norm)(x) if branch.norm else x
        y, cache, more = getattr(parts, branch.op)(y, context, caches and caches.get(branch.op))
        if cache is not None:
            written[branch.op] = cache
        aux |= more
        x = x + (getattr(parts, branch.post_norm)(y) if branch.post_norm else y)
    x = dropout.forward(x, cfg.dropout, context, "layer")
    x = constrain(x, "activation_batch", "activation_length", "activation_embed")
    return x, written or None, aux | probe.layer_output(x)


@dataclasses.dataclass(frozen=True)
class Decoder(part.Part):
    """Stacks of layers between the embedding and the logits.

    Attributes:
        stacks: (name, stack) in order of application.
        norm: the last normalisation.
        logits: the output projection; None where logits come from the tied embedding.
        positions: a learned position table; None where positions are rotary.
        dropout: rate on the embeddings.
        remat: name of the rematerialisation policy of each layer.
    """

    stacks: tuple[tuple[str, Repeat], ...]
    norm: norms.Norm
    logits: dense.Dense | None = None
    positions: embed.Embed | None = None
    dropout: float = 0.0
    remat: str = "full"

    def parts(self) -> dict[str, part.Part]:
        parts: dict[str, part.Part] = {**dict(self.stacks), "decoder_norm": self.norm}
        if self.positions:
            parts["position_embedder"] = self.positions
        if self.logits:
            parts["logits_dense"] = self.logits
        return parts


def decoder_forward(
    parts: Any, cfg: Decoder, x: Array, context: Context, cache: Cache | None
) -> tuple[Array, Cache | None, Aux]:
    """Embeddings x [B, L, D] -> logits [B, L, V], or where they are tied the normalised [B, L, D].

    `parts.stack(name, x, context, caches)` applies a whole stack and returns (x, caches, aux with a
    leading layer axis): how layers are lifted is the business of each wing.
    """
    census.record(parts)
    if cfg.positions:
        x = x + parts.position_embedder(context.positions)
    x = dropout.forward(x, cfg.dropout, context, "embeddings")
    x = constrain(x, "activation_batch", "activation_length", "activation_embed")
    if cache is not None:
        filled, start = cache.extend(context.segment_ids)
        context = dataclasses.replace(context, start=start, cache_segment_ids=filled)
    written: dict[str, object] = {}
    aux: Aux = {}
    for name, _ in cfg.stacks:
        caches = None if cache is None else cache.stacks[name]
        x, written[name], more = parts.stack(name, x, context.at(name), caches)
        aux |= {f"{name}/{key}": value for key, value in more.items()}
    x = parts.decoder_norm(x)
    if cache is not None:
        cache = Cache(written, filled, start + context.segment_ids.shape[1])
    return (parts.logits_dense(x) if cfg.logits else x), cache, aux


@dataclasses.dataclass(frozen=True)
class Model(part.Part):
    """A decoder-only language model.

    Attributes:
        token_embedder: the token table, whose transpose gives the logits when they are tied.
        decoder: everything between.
        numerics: precision policy.
        soft_cap: logits are soft_cap * tanh(logits / soft_cap); None for no cap.
        float32_logits: return the logits in float32.
    """

    token_embedder: embed.Embed
    decoder: Decoder
    numerics: Numerics
    soft_cap: float | None = None
    float32_logits: bool = True

    def parts(self) -> dict[str, part.Part]:
        return {"token_embedder": self.token_embedder, "decoder": self.decoder}

    @property
    def vocab(self) -> int:
        """V, the number of tokens."""
        return self.token_embedder.rows

    def empty_cache(self, batch: int, length: int) -> Cache:
        """A cache for `batch` rows of `length` tokens."""
        stacks = {name: _empty_stack(repeat, batch, length) for name, repeat in self.decoder.stacks}
        zero = jnp.zeros((), jnp.int32)
        return Cache(stacks, jnp.zeros((batch, length), jnp.int32), zero)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Output:
    """What a model returns.

    Attributes:
        logits: [B, L, V].
        cache: with this call's keys and values; None when none was given.
        aux: auxiliary values by name, each with a leading layer axis.
    """

    logits: Array
    cache: Cache | None
    aux: Mapping[str, Array]


def forward(
    parts: Any, cfg: Model, tokens: Array, context: Context, cache: Cache | None = None
) -> Output:
    """tokens int32 [B, L] -> logits [B, L, V]."""
    census.record(parts)
    x = parts.token_embedder(tokens)
    y, cache, aux = parts.decoder(x, context.at("decoder"), cache)
    logits = y if cfg.decoder.logits else parts.token_embedder.attend(y)
    logits = constrain(logits, "activation_batch", "activation_length", "activation_vocab")
    if cfg.soft_cap is not None:
        cap = jnp.asarray(cfg.soft_cap, logits.dtype)
        logits = jnp.tanh(logits / cap) * cap
    if cfg.float32_logits:
        logits = logits.astype(jnp.float32)
    return Output(logits, cache, aux)


def _empty_stack(repeat: Repeat, batch: int, length: int) -> object:
    layer = repeat.layer
    assert isinstance(layer, Layer)
    lead = (repeat.length,) if repeat.scan else ()

    def one() -> dict[str, LayerCache]:
        caches = {}
        for name, a in layer.attentions.items():
            shape = (*lead, batch, length, a.kv_heads, a.head_dim)
            zeros = jnp.zeros(shape, a.numerics.dtype)
            caches[name] = LayerCache(zeros, zeros)
        return caches

    return one() if repeat.scan else tuple(one() for _ in range(repeat.length))
