"""Building blocks: modules that own the arrays which core's descriptions ask for."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from maxmig.core import attention, dense, embed, mlp, moe, norms, part
from maxmig.core.context import Context
from maxmig.core.kv_cache import LayerCache

Array = jax.Array

_classes: dict[type[part.Part], Callable[..., nn.Module]] = {}


def implements(*descriptions: type[part.Part]) -> Callable[[type], type]:
    """Registers a module class for the descriptions that it implements."""

    def register(cls: type) -> type:
        _classes.update(dict.fromkeys(descriptions, cls))
        return cls

    return register


def build(cfg: part.Part) -> nn.Module:
    """The module that implements a description."""
    return _classes[type(cfg)](cfg)


def own(module: nn.Module, cfg: part.Part) -> None:
    """Gives a module the parameters and the sub-modules of its description (in `setup`)."""
    for name, param in cfg.params().items():
        setattr(module, name, module.param(name, param.init, param.shape, param.dtype))
    for name, child in cfg.parts().items():
        if not isinstance(child, part.Repeat):
            setattr(module, name, build(child))


@implements(dense.Dense)
class Dense(nn.Module):
    """A linear map: `core.dense`."""

    cfg: dense.Dense

    def setup(self) -> None:
        own(self, self.cfg)

    def __call__(self, x: Array) -> Array:
        return dense.forward(self, self.cfg, x)


@implements(norms.RMSNorm, norms.LayerNorm)
class Norm(nn.Module):
    """A normalisation: `core.norms`."""

    cfg: norms.Norm

    def setup(self) -> None:
        own(self, self.cfg)

    def __call__(self, x: Array) -> Array:
        return norms.forward(self, self.cfg, x)


@implements(embed.Embed)
class Embed(nn.Module):
    """A table of vectors: `core.embed`."""

    cfg: embed.Embed

    def setup(self) -> None:
        own(self, self.cfg)

    def __call__(self, ids: Array) -> Array:
        return embed.forward(self, self.cfg, ids)

    def attend(self, x: Array) -> Array:
        """Logits from the transposed table."""
        return embed.attend(self, self.cfg, x)


@implements(attention.Attention)
class Attention(nn.Module):
    """Causal attention: `core.attention`."""

    cfg: attention.Attention

    def setup(self) -> None:
        own(self, self.cfg)

    def __call__(self, x: Array, context: Context, cache: LayerCache | None = None) -> Any:
        return attention.forward(self, self.cfg, x, context, cache)


@implements(mlp.Mlp)
class Mlp(nn.Module):
    """A feed-forward block: `core.mlp`."""

    cfg: mlp.Mlp

    def setup(self) -> None:
        own(self, self.cfg)

    def __call__(self, x: Array, context: Context, cache: None = None) -> Any:
        return mlp.forward(self, self.cfg, x, context, cache)


@implements(moe.Moe)
class Moe(nn.Module):
    """A mixture of experts: `core.moe`."""

    cfg: moe.Moe

    def setup(self) -> None:
        own(self, self.cfg)

    def __call__(self, x: Array, context: Context, cache: None = None) -> Any:
        return moe.forward(self, self.cfg, x, context, cache)
