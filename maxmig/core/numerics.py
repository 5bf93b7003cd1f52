"""The precision policy that a layer computes with."""

import dataclasses
from typing import Any

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Numerics:
    """Dtypes and matrix-product precision.

    Attributes:
        dtype: dtype of activations and of weights as they are used.
        weight_dtype: dtype in which weights are stored.
        precision: `precision=` of every matrix product; None is the platform's default.
        float32_qk_product: compute attention logits from float32 queries and keys.
        float32_logits: compute the softmax of attention in float32.
        activations_in_float32: compute MLP activation functions in float32.
    """

    dtype: Any = jnp.float32
    weight_dtype: Any = jnp.float32
    precision: str | None = None
    float32_qk_product: bool = False
    float32_logits: bool = False
    activations_in_float32: bool = False
