"""Mixture of experts: each token goes to a few of many feed-forward blocks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from maxmig.core import dense, initializers, mlp, part
from maxmig.core.context import Context
from maxmig.core.numerics import Numerics
from maxmig.core.part import Array, Axes, Param
from maxmig.core.partition import constrain


@dataclasses.dataclass(frozen=True)
class Moe(part.Part):
    """`sum over the chosen e of weight_e * expert_e(x)` (Shazeer et al. 2017; Jiang et al. 2024).

    The router's K largest logits choose the experts, and a softmax over these K weighs them. Every
    token reaches all of its experts: there is no capacity beyond which tokens are dropped.

    Attributes:
        embed, hidden: D and M of each expert.
        experts, chosen: E, and K of them for each token.
        activations: as in `mlp.Mlp`; experts always name their kernels wi_0, wi_1, ...
        sparse: compute the chosen experts alone, on tokens sorted by expert; False computes all
            experts for all tokens. The same function, up to the order of additions.
        scale: variance scale of the initial kernels.
        float32_router: compute the router's logits in float32.
        float32_sum: add the chosen experts up in float32.
        balance: weight of the load-balancing loss; 0 is none.
    """

    embed: int
    hidden: int
    experts: int
    chosen: int
    activations: tuple[str, ...]
    numerics: Numerics
    sparse: bool = True
    scale: float = 1.0
    float32_router: bool = False
    float32_sum: bool = True
    balance: float = 0.0

    def names(self) -> tuple[str, ...]:
        """Names of the projections up."""
        return tuple(f"wi_{i}" for i in range(len(self.activations)))

    def params(self) -> dict[str, Param]:
        up = self._kernel((self.embed, self.hidden), ("embed_moe", "mlp_moe"))
        down = self._kernel((self.hidden, self.embed), ("mlp_moe", "embed_moe"))
        return dict.fromkeys(self.names(), up) | {"wo": down}

    def parts(self) -> dict[str, part.Part]:
        numerics = self.numerics
        if self.float32_router:
            numerics = dataclasses.replace(numerics, dtype=jnp.dtype(jnp.float32))
        gate = dense.Dense(
            (self.embed,), (self.experts,), ("embed_moe",), (None,), numerics, scale=self.scale
        )
        return {"gate": gate}

    def _kernel(self, shape: tuple[int, int], axes: Axes) -> Param:
        # Of the fan-in of one expert: MaxText counts its first axis, the experts, as the inputs.
        init = initializers.fan_in(self.scale, (1,), (2,), batch=(0,))
        return Param(
            (self.experts, *shape),
            ("exp", *axes),
            init,
            self.numerics.weight_dtype,
            fan_in=(1,),
            batch=(0,),
        )


def forward(
    parts: Any, cfg: Moe, x: Array, context: Context, cache: None = None
) -> tuple[Array, None, dict[str, Array]]:
    """x [B, L, D] -> ([B, L, D], no cache, {"moe_lb_loss": scalar} if `cfg.balance`)."""
    logits = parts.gate(x)
    values, chosen = lax.top_k(logits, cfg.chosen)
    weights = jax.nn.softmax(values.astype(jnp.float32)).astype(cfg.numerics.dtype)
    x = x.astype(cfg.numerics.dtype)
    y = (_sparse if cfg.sparse else _dense)(parts, cfg, x, weights, chosen)
    y = constrain(y, "activation_batch", "activation_length", "activation_embed")
    aux = {"moe_lb_loss": cfg.balance * imbalance(logits, chosen)} if cfg.balance else {}
    return y, cache, aux


def imbalance(logits: Array, chosen: Array) -> Array:
    """The load-balancing loss of Switch Transformer (Fedus et al. 2022, eq. 4), for each row.

    `E^2 * mean over rows and experts of (picks of e per token) * (mean probability of e)`: K where
    the load is even, and more where it is not.

    Args:
        logits: of the router, [B, L, E].
        chosen: int32 [B, L, K].
    """
    experts = logits.shape[-1]
    picks = jnp.mean(jnp.sum(jax.nn.one_hot(chosen, experts), axis=2), axis=1)
    share = jnp.mean(jax.nn.softmax(logits.astype(jnp.float32)), axis=1)
    return experts**2 * jnp.mean(picks * share)


def _dense(parts: Any, cfg: Moe, x: Array, weights: Array, chosen: Array) -> Array:
    """All experts for all tokens: weights and chosen [B, L, K] -> [B, L, D]."""
    precision = cfg.numerics.precision
    up = [
        jnp.einsum("bld,edm->blem", x, kernel, precision=precision)
        for kernel in _kernels(parts, cfg, cfg.names())
    ]
    h = mlp.gated(cfg.activations, _named(cfg, up), cfg.numerics)
    h = constrain(h, "activation_batch", "activation_length", "activation_exp", "activation_mlp")
    (wo,) = _kernels(parts, cfg, ("wo",))
    y = checkpoint_name(jnp.einsum("blem,emd->bled", h, wo, precision=precision), "mlpwo")
    spread = jnp.sum(
        jax.nn.one_hot(chosen, cfg.experts, dtype=weights.dtype) * weights[..., None], 2
    )
    wide = jnp.float32 if cfg.float32_sum else cfg.numerics.dtype
    y = jnp.einsum("bled,ble->bld", y.astype(wide), spread.astype(wide), precision=precision)
    return y.astype(cfg.numerics.dtype)


def _sparse(parts: Any, cfg: Moe, x: Array, weights: Array, chosen: Array) -> Array:
    """The chosen experts alone, on tokens sorted by expert: the arguments of `_dense`."""
    tokens = jnp.reshape(x, (-1, cfg.embed))
    expert = jnp.ravel(chosen)
    order = jnp.argsort(expert)
    sizes = jnp.bincount(expert, length=cfg.experts)

    def multiply(rows: Array, kernel: Array) -> Array:
        return lax.ragged_dot(rows, kernel, sizes, precision=cfg.numerics.precision)

    rows = tokens[order // cfg.chosen]
    up = [multiply(rows, kernel) for kernel in _kernels(parts, cfg, cfg.names())]
    h = mlp.gated(cfg.activations, _named(cfg, up), cfg.numerics)
    h = constrain(h, None, "activation_mlp")
    (wo,) = _kernels(parts, cfg, ("wo",))
    y = checkpoint_name(multiply(h, wo), "mlpwo")
    y = jnp.reshape(y[jnp.argsort(order)], (*weights.shape, cfg.embed))
    wide = jnp.float32 if cfg.float32_sum else cfg.numerics.dtype
    y = jnp.sum(y.astype(wide) * weights.astype(wide)[..., None], axis=2)
    return y.astype(cfg.numerics.dtype)


def _kernels(parts: Any, cfg: Moe, names: Sequence[str]) -> list[Array]:
    return [part.read(parts, name, cfg.numerics.dtype) for name in names]


def _named(cfg: Moe, projections: Sequence[Array]) -> list[Array]:
    """The projections under the names that remat policies know."""
    pairs = zip(cfg.names(), projections, strict=True)
    return [checkpoint_name(value, f"mlp{name}") for name, value in pairs]
