"""The precision of each part, and how the layers are stacked and recomputed."""

from typing import Any, Literal

from pydantic import field_validator

from maxmig.config.groups.base import Group, key

Float = Literal["float32", "bfloat16", "float16"]

# MaxText's policies that maxmig does not run, each with what to write instead
FOREIGN_REMAT = {
    "minimal_flash": "write minimal_with_context, its present name",
    "minimal_with_quantization": "maxmig does not quantise; write minimal",
    "minimal_with_context_and_quantization": "maxmig does not quantise; write minimal_with_context",
    "minimal_offloaded": "maxmig does not offload to the host; write minimal",
    "qkv_proj_offloaded": "maxmig does not offload to the host; write save_qkv_proj",
    "custom": "maxmig has no policy per tensor; choose a named one",
}


class Numerics(Group):
    """Data types of weights, activations and products."""

    dtype: Float = key("bfloat16", "Type in which the layers compute.")
    weight_dtype: Float = key("float32", "Type in which the weights are stored.")
    grad_dtype: Float = key("float32", "Type in which the gradients are kept.")
    matmul_precision: Literal["default", "high", "highest"] = key(
        "default", "Precision that matrix products ask of the device."
    )
    float32_qk_product: bool = key(False, "Computes the query-key product in float32.")
    float32_logits: bool = key(False, "Computes the softmax of attention in float32.")
    activations_in_float32: bool = key(False, "Computes the feed-forward gate in float32.")


class Stack(Group):
    """How the layers are stacked and what the backward pass recomputes."""

    scan_layers: bool = key(True, "One stacked tree and a scan over it; false is one per layer.")
    param_scan_axis: int = key(1, "Axis of a stacked weight that counts the layers.", ge=0, le=1)
    remat_policy: Literal[
        "none",
        "full",
        "minimal",
        "minimal_with_context",
        "save_dot_with_context_except_mlp",
        "save_dot_except_mlpwi",
        "save_dot_except_mlp",
        "save_qkv_proj",
        "save_out_proj",
    ] = key("full", "What the backward pass recomputes: none recomputes nothing, full everything.")

    @field_validator("remat_policy", mode="before")
    @classmethod
    def _foreign_policy(cls, value: Any) -> Any:
        if isinstance(value, str) and value in FOREIGN_REMAT:
            raise ValueError(
                f"remat_policy: {value!r} is a policy of MaxText that maxmig has not: "
                f"{FOREIGN_REMAT[value]}"
            )
        return value
