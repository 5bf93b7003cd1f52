"""Witness from outside: Hugging Face transformers, in float64, for both families and their options.

`llama` is the plain family, `mistral` its sliding window and a head_dim of its own, `qwen3` its
query and key norms, `mixtral` its layers with experts, `gpt2` is GPT-3's architecture. GPT-2's head
is tied, and MaxText's tied head goes through bfloat16, so here the table is copied into an untied
head; the gradient of the tied table is then the sum of both.
"""

import functools
import json
import math
from typing import Any

import helpers
import numpy as np
import pytest

from maxmig.config.flags import Stage

LOGITS, LOSS, GRADIENTS = 3e-5, 2e-6, 2e-5
NAMES = ("llama", "mistral", "mixtral", "qwen3", "gpt2")


@functools.cache
def hf(name: str) -> dict[str, Any]:
    return json.loads((helpers.FIXTURES / "hf" / name / "config.json").read_text())


def runtime(name: str, stage: Stage, *more: str) -> Any:
    c = hf(name)
    if name == "gpt2":
        keys = {
            "base_emb_dim": c["n_embd"],
            "base_num_query_heads": c["n_head"],
            "base_num_kv_heads": c["n_head"],
            "base_mlp_dim": 4 * c["n_embd"],
            "base_num_decoder_layers": c["n_layer"],
            "normalization_layer_epsilon": c["layer_norm_epsilon"],
            "trainable_position_size": c["n_positions"],
            "logits_via_embedding": "false",
        }
    else:
        keys = {
            "base_emb_dim": c["hidden_size"],
            "base_num_query_heads": c["num_attention_heads"],
            "base_num_kv_heads": c["num_key_value_heads"],
            "base_mlp_dim": c["intermediate_size"],
            "base_num_decoder_layers": c["num_hidden_layers"],
            "head_dim": head_dim(c),
            "normalization_layer_epsilon": c["rms_norm_eps"],
            "rope_max_timescale": int(c["rope_parameters"]["rope_theta"]),
            "sliding_window_size": c.get("sliding_window") or 0,
            "use_qk_norm": str(name == "qwen3").lower(),
        }
    if name == "mixtral":
        keys |= {
            "num_experts": c["num_local_experts"],
            "num_experts_per_tok": c["num_experts_per_tok"],
            "load_balance_loss_weight": 0,
        }
    keys |= {"vocab_size": c["vocab_size"], "scan_layers": "false", "max_target_length": 40}
    family = {"gpt2": "tiny_gpt3", "mixtral": "tiny_mixtral"}.get(name, "tiny_llama2")
    return helpers.runtime(family, *(f"{k}={v}" for k, v in keys.items()), *more, stage=stage)


def head_dim(c: dict[str, Any]) -> int:
    return c["head_dim"] or c["hidden_size"] // c["num_attention_heads"]


def mapped(name: str, tensors: dict[str, np.ndarray], *, gradient: bool) -> dict[str, np.ndarray]:
    """Tensors, or their gradients, by canonical path: the whole table of differences."""
    return (_gpt2 if name == "gpt2" else _llama)(hf(name), name, tensors, gradient)


def _llama(
    c: dict[str, Any], name: str, t: dict[str, np.ndarray], gradient: bool
) -> dict[str, np.ndarray]:
    d, h, n, k = c["hidden_size"], head_dim(c), c["num_attention_heads"], c["num_key_value_heads"]
    # 1/sqrt(H) is in our query kernel, unless queries are normalised.
    fold = 1.0 if name == "qwen3" else math.sqrt(h) if gradient else 1 / math.sqrt(h)
    out = {
        "token_embedder/embedding": t["model.embed_tokens.weight"],
        "decoder/decoder_norm/scale": t["model.norm.weight"],
        "decoder/logits_dense/kernel": t["lm_head.weight"].T,
    }
    for i in range(c["num_hidden_layers"]):
        layer = {key.split(f"layers.{i}.")[1]: v for key, v in t.items() if f"layers.{i}." in key}
        attention = {
            "query/kernel": layer["self_attn.q_proj.weight"].T.reshape(d, n, h) * fold,
            "key/kernel": layer["self_attn.k_proj.weight"].T.reshape(d, k, h),
            "value/kernel": layer["self_attn.v_proj.weight"].T.reshape(d, k, h),
            "out/kernel": layer["self_attn.o_proj.weight"].T.reshape(n, h, d),
        }
        if name == "qwen3":
            attention["query_norm/scale"] = layer["self_attn.q_norm.weight"]
            attention["key_norm/scale"] = layer["self_attn.k_norm.weight"]
        here = f"decoder/layers_{i}"
        out |= {f"{here}/self_attention/{p}": v for p, v in attention.items()}
        out |= {
            f"{here}/pre_self_attention_layer_norm/scale": layer["input_layernorm.weight"],
            f"{here}/post_self_attention_layer_norm/scale": layer[
                "post_attention_layernorm.weight"
            ],
        }
        block = _experts(c, layer) if name == "mixtral" else _mlp(layer)
        out |= {f"{here}/{p}": v for p, v in block.items()}
    return out


def _mlp(layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    pairs = (("wi_0", "gate_proj"), ("wi_1", "up_proj"), ("wo", "down_proj"))
    return {f"mlp/{ours}/kernel": layer[f"mlp.{theirs}.weight"].T for ours, theirs in pairs}


def _experts(c: dict[str, Any], layer: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    moe, count = "block_sparse_moe", range(c["num_local_experts"])
    pairs = (("wi_0", "w1"), ("wi_1", "w3"), ("wo", "w2"))
    return {"MoeBlock_0/gate/kernel": layer[f"{moe}.gate.weight"].T} | {
        f"MoeBlock_0/{ours}": np.stack(
            [layer[f"{moe}.experts.{e}.{theirs}.weight"].T for e in count]
        )
        for ours, theirs in pairs
    }


def _gpt2(
    c: dict[str, Any], name: str, t: dict[str, np.ndarray], gradient: bool
) -> dict[str, np.ndarray]:
    d, n = c["n_embd"], c["n_head"]
    h, one = d // n, 0.0 if gradient else 1.0  # our LayerNorm multiplies by 1 + scale
    out = {
        "token_embedder/embedding": t["transformer.wte.weight"],
        "decoder/position_embedder/embedding": t["transformer.wpe.weight"],
        "decoder/decoder_norm/scale": t["transformer.ln_f.weight"] - one,
        "decoder/decoder_norm/bias": t["transformer.ln_f.bias"],
    }
    if not gradient:
        out["decoder/logits_dense/kernel"] = t["transformer.wte.weight"].T
    for i in range(c["n_layer"]):
        layer = {key.split(f"h.{i}.")[1]: v for key, v in t.items() if f".h.{i}." in key}
        here = f"decoder/layers_{i}"
        for ours, theirs in (
            ("pre_self_attention_norm", "ln_1"),
            ("mlp/mlp_layer_norm", "ln_2"),
        ):
            out[f"{here}/{ours}/scale"] = layer[f"{theirs}.weight"] - one
            out[f"{here}/{ours}/bias"] = layer[f"{theirs}.bias"]
        for ours, theirs, kernel, bias in (
            ("self_attention/qkv_proj", "attn.c_attn", (d, 3, n, h), (3, n, h)),
            ("self_attention/out", "attn.c_proj", (n, h, d), (d,)),
            ("mlp/wi", "mlp.c_fc", (d, 4 * d), (4 * d,)),
            ("mlp/wo", "mlp.c_proj", (4 * d, d), (d,)),
        ):
            out[f"{here}/{ours}/kernel"] = layer[f"{theirs}.weight"].reshape(kernel)
            out[f"{here}/{ours}/bias"] = layer[f"{theirs}.bias"].reshape(bias)
    return out


def load(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(weights, a batch of next tokens, reference numbers)."""
    folder = helpers.FIXTURES / "hf" / name
    weights = mapped(name, helpers.safetensors(folder / "model.safetensors"), gradient=False)
    with np.load(folder / "reference.npz") as arrays:
        wanted = dict(arrays)
    tokens = wanted["tokens"]
    one = helpers.batch(*tokens.shape, packed=False)
    one |= {"inputs": tokens, "targets": np.roll(tokens, -1, axis=1)}
    one["targets_segmentation"] = one["targets_segmentation"].copy()
    one["targets_segmentation"][:, -1] = 0
    return weights, one, wanted


@pytest.mark.parametrize("name", NAMES)
def test_logits_loss_and_gradients_are_transformers(name: str, wing: Stage) -> None:
    rt = runtime(name, wing)
    weights, one, wanted = load(name)
    assert set(weights) == set(rt.param_paths)
    params = helpers.only(rt, weights)
    np.testing.assert_allclose(rt.logits(params, one), wanted["logits64"], rtol=0, atol=LOGITS)
    loss, found = rt.gradients(params, one)
    assert abs(float(loss.total) - float(wanted["loss64"])) <= LOSS
    grads = helpers.safetensors(helpers.FIXTURES / "hf" / name / "grads.safetensors")
    found = dict(found)
    if name == "gpt2":
        head = found.pop("decoder/logits_dense/kernel")
        found["token_embedder/embedding"] = found["token_embedder/embedding"] + head.T
    expected = mapped(name, grads, gradient=True)
    assert set(found) == set(expected)
    far = {path: helpers.relative(found[path], g) for path, g in expected.items()}
    assert max(far.values()) <= GRADIENTS, far


# What transformers' logits change by when the feature is changed is known to be far more than that.
WRONG = {
    "llama": ("rope_max_timescale=12000", 0.05),
    "mistral": ("sliding_window_size=9", 1.0),
    "mixtral": ("num_experts_per_tok=1", 1.0),
    "qwen3": ("use_qk_norm=false", 0.05),
    "gpt2": ("mlp_activations=[relu]", 0.05),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_option_is_seen(name: str) -> None:
    """Negative control: one option off, and the logits are not those of transformers."""
    option, least = WRONG[name]
    rt = runtime(name, Stage.LINEN, option)
    weights, one, wanted = load(name)
    got = rt.logits(helpers.only(rt, weights), one)
    assert np.abs(got - wanted["logits64"]).max() > least
