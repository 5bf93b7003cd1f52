"""Llama 2 (Touvron et al. 2023): RMSNorm, rotary positions, grouped queries, SwiGLU."""

from maxmig.config import Config
from maxmig.core import attention, decoder, norms, part, rope
from maxmig.models import common


def model(cfg: Config) -> decoder.Model:
    """The description of a Llama 2 model, in MaxText's names."""
    return around(cfg, "mlp", common.feed_forward(cfg, bias=cfg.model.mlp_bias))


def around(cfg: Config, name: str, block: part.Part) -> decoder.Model:
    """A model of Llama's layers with this feed-forward block, called `name`, in each."""
    norm = norms.RMSNorm(
        cfg.model.emb_dim, cfg.model.normalization_layer_epsilon, common.numerics(cfg)
    )
    layer = decoder.Layer(
        named=(
            ("pre_self_attention_layer_norm", norm),
            ("self_attention", _attention(cfg)),
            ("post_self_attention_layer_norm", norm),
            (name, block),
        ),
        branches=(
            decoder.Branch("self_attention", norm="pre_self_attention_layer_norm"),
            decoder.Branch(name, norm="post_self_attention_layer_norm"),
        ),
        dropout=common.dropout_rate(cfg),
    )
    return common.model(cfg, layer, norm)


def _attention(cfg: Config) -> attention.Attention:
    m, policy = cfg.model, common.numerics(cfg)
    by_head = norms.RMSNorm(m.head_dim, m.normalization_layer_epsilon, policy)
    return attention.Attention(
        m.emb_dim,
        m.num_query_heads,
        m.num_kv_heads,
        m.head_dim,
        policy,
        rotary=rope.Rope(m.rope_min_timescale, m.rope_max_timescale),
        fused=m.fused_qkv,
        bias=m.attention_bias,
        # With normalised queries the size of the kernel says nothing, so the scale must be here.
        scale_query=m.head_dim**-0.5 if m.use_qk_norm else None,
        qk_norm=by_head if m.use_qk_norm else None,
        window=m.sliding_window_size,
        soft_cap=m.attn_logits_soft_cap,
        scale=m.dense_init_scale,
    )
