"""Linear maps over any number of axes."""

import dataclasses
import math
from typing import Any

import jax
from jax import lax

from maxmig.core import initializers, part
from maxmig.core.numerics import Numerics
from maxmig.core.part import Array, Axes, Param


@dataclasses.dataclass(frozen=True)
class Dense(part.Part):
    """A kernel of shape `inputs + outputs`, contracted with the last axes of x; maybe a bias.

    Attributes:
        inputs, outputs: shapes of what is contracted and of what is produced.
        in_axes, out_axes: their logical names.
        bias: whether a bias of shape `outputs` is added.
        scale: variance scale of the initial kernel.
        distribution: of the initial kernel, "truncated_normal" or "normal".
        divide_init_by: the initial kernel is divided by this.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    in_axes: Axes
    out_axes: Axes
    numerics: Numerics
    bias: bool = False
    scale: float = 1.0
    distribution: initializers.Distribution = "truncated_normal"
    divide_init_by: float = 1.0

    def params(self) -> dict[str, Param]:
        n = len(self.inputs)
        contracted = tuple(range(n))
        produced = tuple(range(n, n + len(self.outputs)))
        init = initializers.fan_in(
            self.scale,
            contracted,
            produced,
            distribution=self.distribution,
            divide_by=self.divide_init_by,
        )
        dtype = self.numerics.weight_dtype
        kernel = Param(
            self.inputs + self.outputs, self.in_axes + self.out_axes, init, dtype, contracted
        )
        if not self.bias:
            return {"kernel": kernel}
        return {
            "kernel": kernel,
            "bias": Param(self.outputs, self.out_axes, initializers.zeros, dtype),
        }

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.inputs + self.outputs)


def forward(owner: Any, cfg: Dense, x: Array) -> Array:
    """x [..., *inputs] -> [..., *outputs], in `numerics.dtype`."""
    dtype = cfg.numerics.dtype
    n = len(cfg.inputs)
    contract = (tuple(range(x.ndim - n, x.ndim)), tuple(range(n)))
    y = lax.dot_general(
        x.astype(dtype),
        part.read(owner, "kernel", dtype),
        (contract, ((), ())),
        precision=cfg.numerics.precision,
    )
    if not cfg.bias:
        return y
    bias = part.read(owner, "bias", dtype)
    return y + jax.lax.broadcast_in_dim(bias, y.shape, tuple(range(y.ndim - bias.ndim, y.ndim)))
