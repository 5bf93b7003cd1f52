"""The decoder and the model; here layers are lifted: jax.lax.scan over jax.checkpoint."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from maxmig.core import decoder, part, remat
from maxmig.core.context import Context
from maxmig.core.kv_cache import Cache
from maxmig.nnx import layers

Array = jax.Array


@layers.implements(decoder.Layer)
class Layer(nnx.Module):
    """A decoder layer: `core.decoder.layer_forward`."""

    cfg: decoder.Layer

    def __init__(self, cfg: decoder.Layer, *, rngs: nnx.Rngs):
        self.cfg = cfg
        layers.own(self, cfg, rngs)

    def __call__(self, x: Array, index: Array | int, context: Context, caches: Any = None) -> Any:
        return decoder.layer_forward(self, self.cfg, x, context.layer(index), caches)


@layers.implements(decoder.Decoder)
class Decoder(nnx.Module):
    """Everything between embedding and logits: `core.decoder.decoder_forward`."""

    cfg: decoder.Decoder

    def __init__(self, cfg: decoder.Decoder, *, rngs: nnx.Rngs):
        self.cfg = cfg
        layers.own(self, cfg, rngs)
        for name, repeat in cfg.stacks:
            lift = _scanned if repeat.scan else _listed
            setattr(self, name, lift(repeat, name, rngs))

    def __call__(self, x: Array, context: Context, cache: Cache | None = None) -> Any:
        return decoder.decoder_forward(self, self.cfg, x, context, cache)

    def stack(self, name: str, x: Array, context: Context, caches: Any) -> Any:
        """Applies all layers of a stack."""
        repeat = dict(self.cfg.stacks)[name]
        lifted = getattr(self, name)
        if repeat.scan:
            return _scan(lifted, repeat, self.cfg.remat, x, context, caches)
        written, auxes = [], []
        for index, layer in enumerate(lifted):
            apply, params = _rematted(layer, self.cfg.remat, scan=False)
            x, cache, aux = apply(params, x, index, context, caches and caches[index])
            written.append(cache)
            auxes.append(aux)
        return x, caches and tuple(written), jax.tree.map(lambda *a: jnp.stack(a), *auxes)


@layers.implements(decoder.Model)
class Model(nnx.Module):
    """A decoder-only language model: `core.decoder.forward`."""

    cfg: decoder.Model

    def __init__(
        self,
        cfg: decoder.Model,
        *,
        rngs: nnx.Rngs,
        builders: Mapping[str, Callable[..., nnx.Module]] | None = None,
    ):
        self.cfg = cfg
        layers.own(self, cfg, rngs, builders)

    def __call__(self, tokens: Array, context: Context, cache: Cache | None = None) -> Any:
        return decoder.forward(self, self.cfg, tokens, context, cache)


def _rematted(layer: nnx.Module, name: str, *, scan: bool) -> tuple[Callable[..., Any], Any]:
    graphdef, params = nnx.split(layer)

    def apply(params: Any, *args: Any) -> Any:
        return nnx.merge(graphdef, params)(*args)

    policy = remat.policy(name)
    if policy is not None:
        apply = jax.checkpoint(apply, policy=policy, prevent_cse=not scan)
    return apply, params


def _listed(repeat: part.Repeat, name: str, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List([layers.build(repeat.layer, rngs) for _ in range(repeat.length)])


def _scanned(repeat: part.Repeat, name: str, rngs: nnx.Rngs) -> nnx.Module:
    """One layer module whose parameters hold the whole stack, the layer axis at repeat.axis."""

    @nnx.split_rngs(splits=repeat.length)
    @nnx.vmap(in_axes=0, out_axes=repeat.axis, transform_metadata={nnx.PARTITION_NAME: name})
    def create(rngs: nnx.Rngs) -> nnx.Module:
        return layers.build(repeat.layer, rngs)

    return create(rngs)


def _scan(
    stacked: nnx.Module, repeat: part.Repeat, policy: str, x: Array, context: Context, caches: Any
) -> Any:
    apply, params = _rematted(stacked, policy, scan=True)
    params = jax.tree.map(lambda p: jnp.moveaxis(p, repeat.axis, 0), params)

    def body(x: Array, layer: Any) -> Any:
        params, index, caches = layer
        x, caches, aux = apply(params, x, index, context, caches)
        return x, (caches, aux)

    x, (caches, aux) = jax.lax.scan(body, x, (params, jnp.arange(repeat.length), caches))
    return x, caches, aux
