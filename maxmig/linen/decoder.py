"""The decoder and the model; here layers are lifted: nn.scan over nn.remat."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from maxmig.core import decoder, part, remat
from maxmig.core.context import Context
from maxmig.core.kv_cache import Cache
from maxmig.linen import layers

Array = jax.Array


@layers.implements(decoder.Layer)
class Layer(nn.Module):
    """A decoder layer: `core.decoder.layer_forward`."""

    cfg: decoder.Layer

    def setup(self) -> None:
        layers.own(self, self.cfg)

    def __call__(self, x: Array, index: Array | int, context: Context, caches: Any = None) -> Any:
        return decoder.layer_forward(self, self.cfg, x, context.layer(index), caches)


class _ScannedLayer(Layer):
    """The same layer in the form that nn.scan wants: (carry, scanned) -> (carry, stacked)."""

    def __call__(self, x: Array, index: Array | int, context: Context, caches: Any = None) -> Any:
        x, caches, aux = decoder.layer_forward(self, self.cfg, x, context.layer(index), caches)
        return x, (caches, aux)


@layers.implements(decoder.Decoder)
class Decoder(nn.Module):
    """Everything between embedding and logits: `core.decoder.decoder_forward`."""

    cfg: decoder.Decoder

    def setup(self) -> None:
        layers.own(self, self.cfg)
        for name, repeat in self.cfg.stacks:
            lift = _scanned if repeat.scan else _listed
            setattr(self, name, lift(repeat, name, self.cfg.remat))

    def __call__(self, x: Array, context: Context, cache: Cache | None = None) -> Any:
        return decoder.decoder_forward(self, self.cfg, x, context, cache)

    def stack(self, name: str, x: Array, context: Context, caches: Any) -> Any:
        """Applies all layers of a stack."""
        repeat = dict(self.cfg.stacks)[name]
        lifted = getattr(self, name)
        if repeat.scan:
            x, (caches, aux) = lifted(x, jnp.arange(repeat.length), context, caches)
            return x, caches, aux
        written, auxes = [], []
        for index, layer in enumerate(lifted):
            x, cache, aux = layer(x, index, context, caches and caches[index])
            written.append(cache)
            auxes.append(aux)
        return x, caches and tuple(written), jax.tree.map(lambda *a: jnp.stack(a), *auxes)


@layers.implements(decoder.Model)
class Model(nn.Module):
    """A decoder-only language model: `core.decoder.forward`."""

    cfg: decoder.Model

    def setup(self) -> None:
        layers.own(self, self.cfg)

    def __call__(self, tokens: Array, context: Context, cache: Cache | None = None) -> Any:
        return decoder.forward(self, self.cfg, tokens, context, cache)


def _rematted(cls: type[nn.Module], name: str, *, scan: bool) -> type[nn.Module]:
    policy = remat.policy(name)
    return cls if policy is None else nn.remat(cls, policy=policy, prevent_cse=not scan)


def _listed(repeat: part.Repeat, name: str, policy: str) -> list[nn.Module]:
    layer = _rematted(Layer, policy, scan=False)
    return [layer(repeat.layer) for _ in range(repeat.length)]


def _scanned(repeat: part.Repeat, name: str, policy: str) -> nn.Module:
    lifted = nn.scan(
        _rematted(_ScannedLayer, policy, scan=True),
        variable_axes={"params": repeat.axis},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, 0),
        length=repeat.length,
        metadata_params={nn.PARTITION_NAME: name},
    )
    return lifted(repeat.layer)
