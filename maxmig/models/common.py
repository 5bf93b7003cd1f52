"""What the families share: precision policy, tables, stack, last norm and head."""

import jax.numpy as jnp

from maxmig.config import Config
from maxmig.core import decoder, dense, embed, mlp, norms
from maxmig.core.numerics import Numerics
from maxmig.core.part import Repeat


def numerics(cfg: Config) -> Numerics:
    """The precision policy of the configuration."""
    n = cfg.numerics
    return Numerics(
        dtype=jnp.dtype(n.dtype),
        weight_dtype=jnp.dtype(n.weight_dtype),
        precision=None if n.matmul_precision == "default" else n.matmul_precision,
        float32_qk_product=n.float32_qk_product,
        float32_logits=n.float32_logits,
        activations_in_float32=n.activations_in_float32,
    )


def model(
    cfg: Config,
    layer: decoder.Layer,
    norm: norms.Norm,
    positions: embed.Embed | None = None,
) -> decoder.Model:
    """A whole model around one kind of layer.

    Args:
        cfg: the configuration.
        layer: one decoder layer.
        norm: the last normalisation.
        positions: the learned position table, if the family has one.
    """
    m, policy = cfg.model, numerics(cfg)
    stack = Repeat(layer, m.num_decoder_layers, cfg.stack.scan_layers, cfg.stack.param_scan_axis)
    return decoder.Model(
        token_embedder=embed.Embed(
            m.vocab_size,
            m.emb_dim,
            policy,
            one_hot=m.use_iota_embed,
            normalize_logits=m.normalize_embedding_logits,
            float32_logits=m.logits_dot_in_fp32,
        ),
        decoder=decoder.Decoder(
            stacks=(("layers", stack),),
            norm=norm,
            logits=None if m.logits_via_embedding else _head(cfg, policy),
            positions=positions,
            dropout=dropout_rate(cfg),
            remat=cfg.stack.remat_policy,
        ),
        numerics=policy,
        soft_cap=m.final_logits_soft_cap,
        float32_logits=m.cast_logits_to_fp32,
    )


def feed_forward(cfg: Config, *, bias: bool, norm: norms.Norm | None = None) -> mlp.Mlp:
    """The feed-forward block of a layer."""
    m = cfg.model
    return mlp.Mlp(
        m.emb_dim,
        m.mlp_dim,
        tuple(m.mlp_activations),
        numerics(cfg),
        fused=m.fused_mlp,
        bias=bias,
        scale=m.dense_init_scale,
        norm=norm,
        dropout=dropout_rate(cfg),
    )


def dropout_rate(cfg: Config) -> float:
    """The dropout rate in force."""
    return cfg.model.dropout_rate if cfg.model.enable_dropout else 0.0


def _head(cfg: Config, policy: Numerics) -> dense.Dense:
    m = cfg.model
    dtype = jnp.dtype(jnp.float32) if m.logits_dot_in_fp32 else policy.dtype
    wide = Numerics(dtype, policy.weight_dtype, policy.precision)
    return dense.Dense(
        (m.emb_dim,), (m.vocab_size,), ("embed_vocab",), ("vocab",), wide, scale=m.dense_init_scale
    )
