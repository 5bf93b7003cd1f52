"""Feed-forward blocks: a product of activated projections, then a projection back."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from maxmig.core import dense, dropout, norms, part
from maxmig.core.context import Context
from maxmig.core.numerics import Numerics
from maxmig.core.part import Array
from maxmig.core.partition import constrain

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "linear": lambda x: x,
}


@dataclasses.dataclass(frozen=True)
class Mlp(part.Part):
    """`wo(product over i of activation_i(wi_i(x)))`; ("silu", "linear") is SwiGLU (Shazeer 2020).

    Attributes:
        embed, hidden: D and M.
        activations: names from `ACTIVATIONS`; a single one names the kernel `wi`, several wi_0, ...
        fused: one kernel [D, number of activations, M] instead of several.
        bias: biases on all projections.
        scale: variance scale of the initial kernels.
        norm: a normalisation that the block itself applies first, under its MaxText name.
        dropout: rate on the hidden activations.
    """

    embed: int
    hidden: int
    activations: tuple[str, ...]
    numerics: Numerics
    fused: bool = False
    bias: bool = False
    scale: float = 1.0
    norm: norms.Norm | None = None
    dropout: float = 0.0

    def parts(self) -> dict[str, part.Part]:
        up = dense.Dense(
            (self.embed,),
            (self.hidden,),
            ("embed",),
            ("mlp",),
            self.numerics,
            bias=self.bias,
            scale=self.scale,
        )
        down = dataclasses.replace(
            up,
            inputs=(self.hidden,),
            outputs=(self.embed,),
            in_axes=("mlp",),
            out_axes=("embed",),
        )
        first: dict[str, part.Part] = {"mlp_layer_norm": self.norm} if self.norm else {}
        return first | dict.fromkeys(self.names(), self._fused(up)) | {"wo": down}

    def names(self) -> tuple[str, ...]:
        """Names of the projections up."""
        if self.fused or len(self.activations) == 1:
            return ("wi",)
        return tuple(f"wi_{i}" for i in range(len(self.activations)))

    def _fused(self, up: dense.Dense) -> dense.Dense:
        if not self.fused:
            return up
        outputs = (len(self.activations), self.hidden)
        return dataclasses.replace(up, outputs=outputs, out_axes=("num_activations", "mlp"))


def forward(
    parts: Any, cfg: Mlp, x: Array, context: Context, cache: None = None
) -> tuple[Array, None, dict[str, Array]]:
    """x [B, L, D] -> ([B, L, D], no cache, no auxiliary values): the form of every branch."""
    if cfg.norm:
        x = parts.mlp_layer_norm(x)
    h = gated(cfg.activations, _project(parts, cfg, x), cfg.numerics)
    h = dropout.forward(h, cfg.dropout, context, "mlp")
    h = constrain(h, "activation_batch", "activation_length", "activation_mlp")
    return checkpoint_name(parts.wo(h), "mlpwo"), cache, {}


def gated(names: Sequence[str], projections: Sequence[Array], numerics: Numerics) -> Array:
    """The product of the activated projections, each [..., M], in `numerics.dtype`."""
    wide = jnp.float32 if numerics.activations_in_float32 else numerics.dtype
    activated = [
        ACTIVATIONS[name](up.astype(wide)) for name, up in zip(names, projections, strict=True)
    ]
    return functools.reduce(operator.mul, activated).astype(numerics.dtype)


def _project(parts: Any, cfg: Mlp, x: Array) -> list[Array]:
    if cfg.fused:
        both = checkpoint_name(parts.wi(x), "mlpwi")
        return [both[:, :, i, :] for i in range(len(cfg.activations))]
    return [checkpoint_name(getattr(parts, name)(x), f"mlp{name}") for name in cfg.names()]
