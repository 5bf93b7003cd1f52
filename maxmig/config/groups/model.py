"""The model's family and shape: everything that decides which parameters exist."""

from typing import Any, Literal

from pydantic import field_validator, model_validator

from maxmig.config.groups.base import (
    Contradiction,
    Group,
    NonNegative,
    Positive,
    Size,
    key,
)

DECODER_BLOCKS = ("llama2", "gpt3", "mixtral")
ROTARY = ("llama2", "mixtral")
ACTIVATIONS = ("gelu", "linear", "relu", "sigmoid", "silu", "tanh")

# derived key -> base key; each is base x a power of two that global_parameter_scale decides
DERIVED = {
    "emb_dim": "base_emb_dim",
    "num_query_heads": "base_num_query_heads",
    "num_kv_heads": "base_num_kv_heads",
    "mlp_dim": "base_mlp_dim",
    "num_decoder_layers": "base_num_decoder_layers",
}


def scaled(base: int, scale: int, derived: str) -> int:
    """`base` enlarged for a `scale` that is a power of two, shared out as MaxText does.

    Each factor of eight doubles width, heads, mlp and depth; of what remains, the first doubling
    goes to heads and mlp, the second to the width.
    """
    doublings, rest = divmod(scale.bit_length() - 1, 3)
    if derived == "emb_dim":
        doublings += rest > 1
    elif derived != "num_decoder_layers":
        doublings += rest > 0
    return base << doublings


class Model(Group):
    """Family, sizes, embeddings, attention and dropout."""

    decoder_block: Literal["llama2", "gpt3", "mixtral"] = key(
        "llama2", "The family of decoder layers."
    )
    global_parameter_scale: Size = key(1, "A power of two by which all base_* sizes grow together.")
    base_emb_dim: Size = key(2048, "Width of the residual stream, before scaling.")
    base_num_query_heads: Size = key(16, "Query heads of a layer, before scaling.")
    base_num_kv_heads: Size = key(16, "Key and value heads of a layer, before scaling.")
    base_mlp_dim: Size = key(7168, "Hidden width of the feed-forward part, before scaling.")
    base_num_decoder_layers: Size = key(16, "Decoder layers, before scaling.")
    emb_dim: Size = key(None, "Width of the residual stream; null derives it from base_emb_dim.")
    num_query_heads: Size = key(None, "Query heads; null derives it from base_num_query_heads.")
    num_kv_heads: Size = key(None, "Key and value heads; null derives it from base_num_kv_heads.")
    mlp_dim: Size = key(None, "Feed-forward width; null derives it from base_mlp_dim.")
    num_decoder_layers: Size = key(
        None, "Decoder layers; null derives it from base_num_decoder_layers."
    )
    head_dim: Size = key(128, "Width of one attention head.")
    vocab_size: Size = key(32000, "Rows of the embedding table.")
    mlp_activations: tuple[Literal["gelu", "linear", "relu", "sigmoid", "silu", "tanh"], ...] = key(
        ("silu", "linear"),
        "Activations whose product gates the feed-forward part; one name means no gate.",
        min_length=1,
    )
    mlp_bias: bool = key(
        False, "Adds a bias to feed-forward projections of llama2; gpt3 always has them."
    )
    normalization_layer_epsilon: Positive = key(1e-5, "Added to the variance in the norms.")
    dense_init_scale: Positive = key(1.0, "Variance scale of the initial projection kernels.")

    logits_via_embedding: bool = key(False, "Ties the output head to the embedding table.")
    normalize_embedding_logits: bool = key(
        True, "Divides tied logits by the square root of emb_dim."
    )
    logits_dot_in_fp32: bool = key(False, "Accumulates the output projection in float32.")
    cast_logits_to_fp32: bool = key(True, "Casts the logits to float32 before the loss.")
    final_logits_soft_cap: Positive | None = key(
        None, "Soft cap of the tied output logits; null or 0 is none."
    )
    use_iota_embed: bool = key(False, "Looks tokens up with a one-hot product, not an index.")
    trainable_position_size: int = key(
        -1, "Rows of the learned position table of gpt3; -1 is none.", ge=-1
    )

    attention_type: Literal["global", "local_sliding"] | None = key(
        None, "Span of attention; null derives it from sliding_window_size."
    )
    sliding_window_size: int = key(
        0, "A token sees itself and this number, less one, before it; 0 is no window.", ge=0
    )
    attn_logits_soft_cap: Positive | None = key(
        None, "Soft cap of attention logits, before the mask; null or 0 is none."
    )
    attention_bias: bool = key(
        False, "Adds a bias to query, key and value of rotary families; gpt3 always has them."
    )
    use_qk_norm: bool = key(False, "Normalises query and key per head, before the rotation.")
    fused_qkv: bool = key(False, "One kernel for query, key and value.")
    fused_mlp: bool = key(False, "One kernel for all inputs of the feed-forward part.")
    rope_min_timescale: Size = key(1, "Shortest wavelength of the rotary positions.")
    rope_max_timescale: Size = key(10_000, "Longest wavelength of the rotary positions.")

    enable_dropout: bool = key(True, "False turns dropout off whatever the rate.")
    dropout_rate: NonNegative = key(0.0, "Share of activations that dropout zeroes.", lt=1)

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: Any) -> Any:
        values = dict(values)
        scale = values.get("global_parameter_scale", 1)
        for derived, base in DERIVED.items():
            if values.get(derived) is not None:
                continue
            size = values.get(base, cls.model_fields[base].default)
            sound = type(size) is int and size > 0 and _is_power(scale)
            # an unsound base or scale tells so itself; any valid size will do here
            values[derived] = scaled(size, scale, derived) if sound else 1
        return values

    @field_validator("final_logits_soft_cap", "attn_logits_soft_cap", mode="before")
    @classmethod
    def _zero_is_no_cap(cls, value: Any) -> Any:
        return None if type(value) in (int, float) and value == 0 else value

    @field_validator("decoder_block", mode="before")
    @classmethod
    def _known_family(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in DECODER_BLOCKS:
            raise ValueError(
                f"decoder_block: maxmig has no family {value!r}; the families it has are "
                f"{', '.join(DECODER_BLOCKS[:-1])} and {DECODER_BLOCKS[-1]}"
            )
        return value

    @field_validator("attention_type", mode="before")
    @classmethod
    def _known_attention(cls, value: Any) -> Any:
        if value in ("mla", "chunk", "full", "compressed", "block_diffusion"):
            raise ValueError(
                f"attention_type: maxmig does not compute {value!r} attention; it has global and "
                "local_sliding"
            )
        return value

    @field_validator("global_parameter_scale")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if not _is_power(value):
            raise ValueError(
                f"global_parameter_scale: expected a power of two (1, 2, 4, ...), got {value}"
            )
        return value

    @model_validator(mode="after")
    def _agree(self) -> "Model":
        for derived, base in DERIVED.items():
            expected = scaled(getattr(self, base), self.global_parameter_scale, derived)
            given = getattr(self, derived)
            if given != expected:
                raise Contradiction(
                    (derived, base, "global_parameter_scale"),
                    f"{derived} and {base} disagree: {base} with global_parameter_scale "
                    f"{self.global_parameter_scale} makes {derived} {expected}, not {given}. "
                    f"Set {base} and leave {derived} out",
                )
        return self

    @model_validator(mode="after")
    def _heads(self) -> "Model":
        queries, keys = self.num_query_heads, self.num_kv_heads
        if queries % keys:
            raise Contradiction(
                ("num_query_heads", "num_kv_heads"),
                f"num_query_heads and num_kv_heads: {queries} query heads cannot be shared out "
                f"over {keys} key/value heads. Choose base_num_kv_heads as a divisor of "
                "base_num_query_heads",
            )
        if self.decoder_block == "gpt3" and self.use_qk_norm:
            raise Contradiction(
                ("decoder_block", "use_qk_norm"),
                "decoder_block gpt3 has no norms of query and key: use_qk_norm must be false",
            )
        if self.decoder_block == "gpt3" and queries != keys:
            raise Contradiction(
                ("decoder_block", "num_query_heads", "num_kv_heads"),
                f"decoder_block gpt3 needs num_query_heads and num_kv_heads to be equal, got "
                f"{queries} and {keys}",
            )
        return self

    @model_validator(mode="after")
    def _positions(self) -> "Model":
        learned = self.trainable_position_size > 0
        if self.decoder_block == "gpt3" and not learned:
            raise Contradiction(
                ("decoder_block", "trainable_position_size"),
                "decoder_block gpt3 has learned positions: trainable_position_size must be "
                f"positive, got {self.trainable_position_size}",
            )
        if self.decoder_block in ROTARY and learned:
            raise Contradiction(
                ("decoder_block", "trainable_position_size"),
                f"decoder_block {self.decoder_block} has rotary positions: "
                f"trainable_position_size must be -1, got {self.trainable_position_size}",
            )
        if self.decoder_block in ROTARY and self.head_dim % 2:
            raise Contradiction(
                ("decoder_block", "head_dim"),
                f"decoder_block {self.decoder_block} rotates pairs of features: head_dim must be "
                f"even, got {self.head_dim}",
            )
        if self.rope_min_timescale >= self.rope_max_timescale:
            raise Contradiction(
                ("rope_min_timescale", "rope_max_timescale"),
                "rope_min_timescale must be below rope_max_timescale",
            )
        return self

    @model_validator(mode="after")
    def _window(self) -> "Model":
        windowed = self.sliding_window_size > 0
        if self.attention_type is not None and windowed != (self.attention_type == "local_sliding"):
            raise Contradiction(
                ("attention_type", "sliding_window_size"),
                f"attention_type {self.attention_type} and sliding_window_size "
                f"{self.sliding_window_size}: local_sliding needs a positive window, and global "
                "needs sliding_window_size 0. Leave attention_type out to derive it",
            )
        return self


def _is_power(value: Any) -> bool:
    return type(value) is int and value > 0 and value & (value - 1) == 0
