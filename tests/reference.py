"""A float64 NumPy reference of the layers and of whole models, written from their definitions.

It shares no code with maxmig: loops where maxmig has einsums, one token at a time where it can.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms_norm(x: Array, scale: Array, epsilon: float) -> Array:
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + epsilon) * scale


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + epsilon) * (1 + scale) + bias


def rotate(x: Array, position: float, base: float = 10_000.0, least: float = 1.0) -> Array:
    """One head vector [H]: pair (i, i + H/2) turned by the angle position / timescale_i."""
    half = len(x) // 2
    out = np.empty_like(x)
    for i in range(half):
        angle = position / (least * (base / least) ** (2 * i / len(x)))
        c, s = math.cos(angle), math.sin(angle)
        out[i] = x[i] * c - x[i + half] * s
        out[i + half] = x[i + half] * c + x[i] * s
    return out


def attend(
    q: Array, k: Array, v: Array, segments: Array, window: int = 0, cap: float | None = None
) -> Array:
    """q [B, L, N, H], k and v [B, L, K, H] -> [B, L, N, H], one query at a time."""
    b, length, n, _ = q.shape
    group = n // k.shape[2]
    out = np.zeros((b, length, n, v.shape[-1]))
    for row, i, head in np.ndindex(b, length, n):
        seen = [
            j
            for j in range(i + 1)
            if segments[row, j] == segments[row, i] and (not window or i - j < window)
        ]
        logits = np.array([q[row, i, head] @ k[row, j, head // group] for j in seen])
        if cap is not None:
            logits = cap * np.tanh(logits / cap)
        p = softmax(logits)
        for weight, j in zip(p, seen, strict=True):
            out[row, i, head] += weight * v[row, j, head // group]
    return out


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def bfloat16(x: Array) -> Array:
    """Rounded to 8 significant bits, ties to even."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 256) / 256, exponent)


def losses(logits: Array, targets: Array, counted: Array, z: float = 0.0) -> tuple[float, float]:
    """(sum of -log p, sum of z log(Z)^2) over the counted targets."""
    cross = squares = 0.0
    for row, i in np.ndindex(*targets.shape):
        if counted[row, i]:
            log_z = math.log(np.sum(np.exp(logits[row, i])))
            cross += log_z - logits[row, i, targets[row, i]]
            squares += z * log_z**2
    return cross, squares


def gated(x: Array, wi_0: Array, wi_1: Array, wo: Array) -> Array:
    return (silu(x @ wi_0) * (x @ wi_1)) @ wo


def mixture(x: Array, gate: Array, wi_0: Array, wi_1: Array, wo: Array, chosen: int) -> Array:
    """x [B, L, D], gate [D, E], kernels [E, ...]: one token at a time, its experts alone."""
    out = np.zeros_like(x)
    for row, i in np.ndindex(*x.shape[:2]):
        scores = x[row, i] @ gate
        best = sorted(range(len(scores)), key=lambda e: -scores[e])[:chosen]
        for weight, e in zip(softmax(scores[best]), best, strict=True):
            out[row, i] += weight * gated(x[row, i], wi_0[e], wi_1[e], wo[e])
    return out


def llama2(
    params: Mapping[str, Any], batch: Mapping[str, Array], layers: int, base: float = 1e4
) -> Array:
    """Logits of configs/tiny_llama2.yml, unscanned weights."""
    w = {path: np.float64(value) for path, value in params.items()}
    x = w["token_embedder/embedding"][batch["inputs"]]
    positions, segments = batch["inputs_position"], batch["inputs_segmentation"]

    def turned(y: Array) -> Array:
        out = np.empty_like(y)
        for row, i, head in np.ndindex(*y.shape[:3]):
            out[row, i, head] = rotate(y[row, i, head], positions[row, i], base)
        return out

    for i in range(layers):
        at = f"decoder/layers_{i}"
        own = f"{at}/self_attention"
        y = rms_norm(x, w[f"{at}/pre_self_attention_layer_norm/scale"], 1e-5)
        q, k, v = (
            np.tensordot(y, w[f"{own}/{name}/kernel"], 1) for name in ("query", "key", "value")
        )
        heads = attend(turned(q), turned(k), v, segments)
        x = x + np.tensordot(heads, w[f"{own}/out/kernel"], 2)
        y = rms_norm(x, w[f"{at}/post_self_attention_layer_norm/scale"], 1e-5)
        kernels = [w.get(f"{at}/mlp/{name}/kernel") for name in ("wi_0", "wi_1", "wo")]
        if kernels[0] is not None:
            x = x + gated(y, *kernels)
            continue
        moe = f"{at}/MoeBlock_0"
        experts = [w[f"{moe}/{name}"] for name in ("gate/kernel", "wi_0", "wi_1", "wo")]
        x = x + mixture(y, *experts, 2)
    return rms_norm(x, w["decoder/decoder_norm/scale"], 1e-5) @ w["decoder/logits_dense/kernel"]


def mixtral(params: Mapping[str, Any], batch: Mapping[str, Array], layers: int) -> Array:
    """Logits of configs/tiny_mixtral.yml, unscanned weights: two experts for each token."""
    return llama2(params, batch, layers, base=1e6)


def gpt3(params: Mapping[str, Any], batch: Mapping[str, Array], layers: int) -> Array:
    """Logits of configs/tiny_gpt3.yml, unscanned weights; the tied table through bfloat16."""
    w = {path: np.float64(value) for path, value in params.items()}
    table = w["token_embedder/embedding"]
    x = table[batch["inputs"]]
    x = x + w["decoder/position_embedder/embedding"][batch["inputs_position"]]

    def normed(y: Array, at: str) -> Array:
        return layer_norm(y, w[f"{at}/scale"], w[f"{at}/bias"], 1e-5)

    for i in range(layers):
        at = f"decoder/layers_{i}"
        own = f"{at}/self_attention"
        y = normed(x, f"{at}/pre_self_attention_norm")
        qkv = np.tensordot(y, w[f"{own}/qkv_proj/kernel"], 1) + w[f"{own}/qkv_proj/bias"]
        q, k, v = (qkv[:, :, j] for j in range(3))
        heads = attend(q / math.sqrt(q.shape[-1]), k, v, batch["inputs_segmentation"])
        x = x + np.tensordot(heads, w[f"{own}/out/kernel"], 2) + w[f"{own}/out/bias"]
        y = normed(x, f"{at}/mlp/mlp_layer_norm")
        up = gelu_tanh(y @ w[f"{at}/mlp/wi/kernel"] + w[f"{at}/mlp/wi/bias"])
        x = x + up @ w[f"{at}/mlp/wo/kernel"] + w[f"{at}/mlp/wo/bias"]
    return normed(x, "decoder/decoder_norm") @ bfloat16(table).T


MODELS = {"tiny_llama2": (llama2, 4), "tiny_gpt3": (gpt3, 3), "tiny_mixtral": (mixtral, 3)}
