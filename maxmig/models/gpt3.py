"""GPT-3 (Brown et al. 2020) as in MaxText: norms by 1 + scale, learned positions, GELU, biases."""

from maxmig.config import Config
from maxmig.core import attention, decoder, embed, norms
from maxmig.models import common


def model(cfg: Config) -> decoder.Model:
    """The description of a GPT-3 model, in MaxText's names."""
    m, policy = cfg.model, common.numerics(cfg)
    norm = norms.LayerNorm(m.emb_dim, m.normalization_layer_epsilon, policy)
    layer = decoder.Layer(
        named=(
            ("pre_self_attention_norm", norm),
            ("self_attention", _attention(cfg)),
            ("mlp", common.feed_forward(cfg, bias=True, norm=norm)),
        ),
        branches=(
            decoder.Branch("self_attention", norm="pre_self_attention_norm"),
            decoder.Branch("mlp"),
        ),
        dropout=common.dropout_rate(cfg),
    )
    positions = None
    if m.trainable_position_size > 0:
        positions = embed.Embed(
            m.trainable_position_size,
            m.emb_dim,
            policy,
            axes=(None, "embed"),
            one_hot=m.use_iota_embed,
        )
    return common.model(cfg, layer, norm, positions)


def _attention(cfg: Config) -> attention.Attention:
    m = cfg.model
    return attention.Attention(
        m.emb_dim,
        m.num_query_heads,
        m.num_kv_heads,
        m.head_dim,
        common.numerics(cfg),
        fused=m.fused_qkv,
        fused_stacked=True,
        bias=True,
        scale_query=m.head_dim**-0.5,
        window=m.sliding_window_size,
        soft_cap=m.attn_logits_soft_cap,
        distribution="normal",
    )
