"""Building blocks: modules that own the arrays which core's descriptions ask for."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from maxmig.core import attention, dense, embed, mlp, moe, norms, part
from maxmig.core.context import Context
from maxmig.core.kv_cache import LayerCache

Array = jax.Array

_classes: dict[type[part.Part], Callable[..., nnx.Module]] = {}


def implements(*descriptions: type[part.Part]) -> Callable[[type], type]:
    """Registers a module class for the descriptions that it implements."""

    def register(cls: type) -> type:
        _classes.update(dict.fromkeys(descriptions, cls))
        return cls

    return register


def build(cfg: part.Part, rngs: nnx.Rngs) -> nnx.Module:
    """The module that implements a description."""
    return _classes[type(cfg)](cfg, rngs=rngs)


def own(
    module: nnx.Module,
    cfg: part.Part,
    rngs: nnx.Rngs,
    builders: Mapping[str, Callable[..., nnx.Module]] | None = None,
) -> None:
    """Gives a module the parameters and the sub-modules of its description (in `__init__`).

    `builders` replaces `build` for the parts that it names.
    """
    for name, param in cfg.params().items():
        setattr(module, name, nnx.Param(param.init(rngs.params(), param.shape, param.dtype)))
    for name, child in cfg.parts().items():
        if not isinstance(child, part.Repeat):
            setattr(module, name, (builders or {}).get(name, build)(child, rngs))


@implements(dense.Dense)
class Dense(nnx.Module):
    """A linear map: `core.dense`."""

    cfg: dense.Dense

    def __init__(self, cfg: dense.Dense, *, rngs: nnx.Rngs):
        self.cfg = cfg
        own(self, cfg, rngs)

    def __call__(self, x: Array) -> Array:
        return dense.forward(self, self.cfg, x)


@implements(norms.RMSNorm, norms.LayerNorm)
class Norm(nnx.Module):
    """A normalisation: `core.norms`."""

    cfg: norms.Norm

    def __init__(self, cfg: norms.Norm, *, rngs: nnx.Rngs):
        self.cfg = cfg
        own(self, cfg, rngs)

    def __call__(self, x: Array) -> Array:
        return norms.forward(self, self.cfg, x)


@implements(embed.Embed)
class Embed(nnx.Module):
    """A table of vectors: `core.embed`."""

    cfg: embed.Embed

    def __init__(self, cfg: embed.Embed, *, rngs: nnx.Rngs):
        self.cfg = cfg
        own(self, cfg, rngs)

    def __call__(self, ids: Array) -> Array:
        return embed.forward(self, self.cfg, ids)

    def attend(self, x: Array) -> Array:
        """Logits from the transposed table."""
        return embed.attend(self, self.cfg, x)


@implements(attention.Attention)
class Attention(nnx.Module):
    """Causal attention: `core.attention`."""

    cfg: attention.Attention

    def __init__(self, cfg: attention.Attention, *, rngs: nnx.Rngs):
        self.cfg = cfg
        own(self, cfg, rngs)

    def __call__(self, x: Array, context: Context, cache: LayerCache | None = None) -> Any:
        return attention.forward(self, self.cfg, x, context, cache)


@implements(mlp.Mlp)
class Mlp(nnx.Module):
    """A feed-forward block: `core.mlp`."""

    cfg: mlp.Mlp

    def __init__(self, cfg: mlp.Mlp, *, rngs: nnx.Rngs):
        self.cfg = cfg
        own(self, cfg, rngs)

    def __call__(self, x: Array, context: Context, cache: None = None) -> Any:
        return mlp.forward(self, self.cfg, x, context, cache)


@implements(moe.Moe)
class Moe(nnx.Module):
    """A mixture of experts: `core.moe`."""

    cfg: moe.Moe

    def __init__(self, cfg: moe.Moe, *, rngs: nnx.Rngs):
        self.cfg = cfg
        own(self, cfg, rngs)

    def __call__(self, x: Array, context: Context, cache: None = None) -> Any:
        return moe.forward(self, self.cfg, x, context, cache)
