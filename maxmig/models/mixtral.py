"""Mixtral (Jiang et al. 2024): Llama's attention, and experts in place of the feed-forward part."""

from maxmig.config import Config
from maxmig.core import decoder, moe
from maxmig.models import common, llama2


def model(cfg: Config) -> decoder.Model:
    """The description of a Mixtral model, in MaxText's names."""
    m, e = cfg.model, cfg.moe
    experts = moe.Moe(
        m.emb_dim,
        m.mlp_dim,
        e.num_experts,
        e.num_experts_per_tok,
        tuple(m.mlp_activations),
        common.numerics(cfg),
        sparse=e.sparse_matmul,
        scale=m.dense_init_scale,
        float32_router=e.float32_gate_logits,
        float32_sum=e.float32_weight_sum,
        balance=e.load_balance_loss_weight,
    )
    return llama2.around(cfg, "MoeBlock_0", experts)
