"""A Linen model that holds an NNX model."""

from collections.abc import Callable, Mapping

import flax.linen as nn
from flax import nnx
from flax.nnx import bridge

from maxmig.core import decoder
from maxmig.nnx.decoder import Model


def model(
    cfg: decoder.Model, builders: Mapping[str, Callable[..., nnx.Module]] | None = None
) -> nn.Module:
    """A Linen module around the NNX model of a description.

    Args:
        cfg: the description.
        builders: what makes some of the NNX model's parts, in place of its own classes.
    """

    def build(*, rngs: nnx.Rngs) -> nnx.Module:
        return Model(cfg, rngs=rngs, builders=builders)

    return bridge.ToLinen(build)
