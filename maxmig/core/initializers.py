"""Initial values of weights, the distributions of MaxText."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from maxmig.core.part import Array, Initializer

Distribution = Literal["truncated_normal", "normal"]


def fan_in(
    scale: float,
    in_axes: tuple[int, ...],
    out_axes: tuple[int, ...],
    *,
    batch: tuple[int, ...] = (),
    distribution: Distribution = "truncated_normal",
    divide_by: float = 1.0,
) -> Initializer:
    """Variance scaling by fan-in (He et al. 2015, generalised as in jax.nn.initializers).

    Args:
        scale: variance times fan-in.
        in_axes: dimensions that the product contracts.
        out_axes: dimensions that it produces.
        batch: dimensions over which matrices are kept side by side.
        distribution: "truncated_normal" or "normal".
        divide_by: the result is divided by this; queries fold 1/sqrt(head_dim) in here.
    """
    draw = jax.nn.initializers.variance_scaling(
        scale, "fan_in", distribution, in_axes, out_axes, batch
    )

    def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        values = draw(key, shape, dtype)
        return values if divide_by == 1.0 else values / jnp.asarray(divide_by, dtype)

    return init


def normal(stddev: float) -> Initializer:
    """Normal with mean zero."""
    return jax.nn.initializers.normal(stddev)


zeros: Initializer = jax.nn.initializers.zeros
ones: Initializer = jax.nn.initializers.ones
