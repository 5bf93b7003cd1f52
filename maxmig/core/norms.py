"""Normalisation of the last axis."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from maxmig.core import initializers, part
from maxmig.core.numerics import Numerics
from maxmig.core.part import Array, Param


@dataclasses.dataclass(frozen=True)
class RMSNorm(part.Part):
    """Root-mean-square normalisation (Zhang and Sennrich 2019), computed in float32.

    Attributes:
        size: length of the normalised axis.
        epsilon: added to the mean square.
        axis: logical name of the scale's axis.
    """

    size: int
    epsilon: float
    numerics: Numerics
    axis: str = "norm"

    def params(self) -> dict[str, Param]:
        dtype = self.numerics.weight_dtype
        return {"scale": Param((self.size,), (self.axis,), initializers.ones, dtype)}


@dataclasses.dataclass(frozen=True)
class LayerNorm(part.Part):
    """Layer normalisation (Ba et al. 2016) whose factor is 1 + scale, as in GPT-3 on MaxText.

    It computes in the dtype of the activations. Scale and bias start at zero.
    """

    size: int
    epsilon: float
    numerics: Numerics
    axis: str = "norm"

    def params(self) -> dict[str, Param]:
        dtype = self.numerics.weight_dtype
        zero = Param((self.size,), (self.axis,), initializers.zeros, dtype)
        return {"scale": zero, "bias": zero}


Norm = RMSNorm | LayerNorm


def forward(owner: Any, cfg: Norm, x: Array) -> Array:
    """x [..., size] -> the same shape, in `numerics.dtype`."""
    return _rms(owner, cfg, x) if isinstance(cfg, RMSNorm) else _layer(owner, cfg, x)


def _rms(owner: Any, cfg: RMSNorm, x: Array) -> Array:
    dtype = cfg.numerics.dtype
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(lax.square(x), axis=-1, keepdims=True)
    y = (x * lax.rsqrt(mean_square + cfg.epsilon)).astype(dtype)
    return y * _along_last(part.read(owner, "scale", dtype), y)


def _layer(owner: Any, cfg: LayerNorm, x: Array) -> Array:
    dtype = cfg.numerics.dtype
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(lax.square(x - mean), axis=-1, keepdims=True)
    y = ((x - mean) * lax.rsqrt(variance + jnp.asarray(cfg.epsilon, x.dtype))).astype(dtype)
    scale = _along_last(part.read(owner, "scale", dtype), y)
    bias = _along_last(part.read(owner, "bias", dtype), y)
    return y * (scale + 1) + bias


def _along_last(vector: Array, like: Array) -> Array:
    """[D] -> [1, ..., 1, D]: explicit, for rank promotion is an error in our tests."""
    return jnp.reshape(vector, (1,) * (like.ndim - 1) + vector.shape)
