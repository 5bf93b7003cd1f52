"""Mixture of experts: how many there are, how they are chosen, and how they are computed."""

from pydantic import field_validator, model_validator

from maxmig.config.groups.base import Contradiction, Group, NonNegative, Size, key


class Moe(Group):
    """Experts and their router; only families with experts read it."""

    num_experts: Size = key(1, "Experts of a layer; 1 is none, for families without experts.")
    num_experts_per_tok: Size = key(1, "Experts that each token goes to.")
    base_moe_mlp_dim: int = key(
        -1, "Hidden width of an expert, before scaling; -1 is base_mlp_dim, which it must equal."
    )
    moe_mlp_dim: int = key(-1, "Hidden width of an expert; -1 is mlp_dim, which it must equal.")
    sparse_matmul: bool = key(
        True, "Computes each token's experts alone; false computes all experts for all tokens."
    )
    float32_gate_logits: bool = key(False, "Computes the router's logits in float32.")
    float32_weight_sum: bool = key(True, "Adds the outputs of a token's experts up in float32.")
    load_balance_loss_weight: NonNegative = key(
        0.0, "Weight of the loss that spreads the tokens over the experts."
    )

    @field_validator("base_moe_mlp_dim", "moe_mlp_dim")
    @classmethod
    def _width(cls, value: int) -> int:
        if value < 1 and value != -1:
            raise ValueError(f"expected a positive width, or -1 for that of the layer, got {value}")
        return value

    @model_validator(mode="after")
    def _choice(self) -> "Moe":
        if self.num_experts_per_tok > self.num_experts:
            raise Contradiction(
                ("num_experts_per_tok", "num_experts"),
                f"num_experts_per_tok {self.num_experts_per_tok} is more than num_experts "
                f"{self.num_experts}: a token cannot choose an expert twice",
            )
        return self
