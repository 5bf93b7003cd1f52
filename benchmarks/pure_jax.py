"""The baseline: a Llama 2 training step in plain JAX, as one would write it by hand for speed.

The same arithmetic as maxmig's `llama2` family under AdamW, the same inputs, the same metrics; no
Flax, no optax, and nothing of maxmig but its configuration. What maxmig costs above this is what
its frameworks and its generality cost. Alternatives that were slower on a CPU: the groups of query
heads as an axis of their own (8 %), softmax before the product with the values (2 %), a masked sum
or a custom gradient for the cross entropy instead of a gather (2 %).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from maxmig import errors
from maxmig.config import Config

Array = jax.Array
Params = dict[str, Any]
State = dict[str, Any]
Metrics = dict[str, Array]

# name here: canonical path below decoder/layers (or decoder/layers_0, ...).
LAYER = {
    "attention_norm": "pre_self_attention_layer_norm/scale",
    "mlp_norm": "post_self_attention_layer_norm/scale",
    "query": "self_attention/query/kernel",
    "key": "self_attention/key/kernel",
    "value": "self_attention/value/kernel",
    "out": "self_attention/out/kernel",
    "gate": "mlp/wi_0/kernel",
    "up": "mlp/wi_1/kernel",
    "down": "mlp/wo/kernel",
}
TOP = {
    "embedding": "token_embedder/embedding",
    "norm": "decoder/decoder_norm/scale",
    "head": "decoder/logits_dense/kernel",
}
_KEPT = {"full": (), "minimal": ("query", "key", "value", "out", "gate", "up", "down")}


def require(cfg: Config) -> None:
    """Refuses a configuration whose arithmetic the baseline does not have.

    Raises:
        ConfigError: naming each such key.
    """
    wanted: dict[str, tuple[Any, ...]] = {
        "decoder_block": ("llama2",),
        "mlp_activations": (("silu", "linear"),),
        "logits_via_embedding": (False,),
        "mlp_bias": (False,),
        "attention_bias": (False,),
        "fused_qkv": (False,),
        "fused_mlp": (False,),
        "use_qk_norm": (False,),
        "use_iota_embed": (False,),
        "sliding_window_size": (0,),
        "attn_logits_soft_cap": (None, 0.0),
        "final_logits_soft_cap": (None, 0.0),
        "dropout_rate": (0.0,),
        "dtype": ("float32",),
        "weight_dtype": ("float32",),
        "grad_dtype": ("float32",),
        "matmul_precision": ("default",),
        "remat_policy": ("none", *_KEPT),
        "opt_type": ("adamw",),
        "mu_dtype": ("", "float32"),
        "adamw_mask": ((),),
        "trainable_parameters_mask": ((),),
        "skip_step_on_spikes": (False,),
        "lr_schedule_type": ("cosine",),
        "gradient_accumulation_steps": (1,),
    }
    flat = cfg.flat()
    wrong = [
        f"{key}: {flat[key]!r} (it has {' or '.join(map(repr, values))})"
        for key, values in wanted.items()
        if flat[key] not in values
    ]
    if wrong:
        raise errors.ConfigError(
            "the pure-JAX baseline cannot run this configuration; change these keys, or leave the "
            "baseline out with --candidates linen,nnx: " + "; ".join(wrong)
        )


def state(cfg: Config, params: Mapping[str, Any]) -> State:
    """The baseline's training state at step 0, from maxmig's parameters by canonical path.

    Scanned layers are stacked along the first axis, whatever `param_scan_axis` says: it is the
    layout that a scan reads without moving anything.
    """
    tree: Params = {name: jnp.array(params[path]) for name, path in TOP.items()}
    if cfg.stack.scan_layers:
        axis = cfg.stack.param_scan_axis
        tree["layers"] = {
            name: jnp.moveaxis(jnp.array(params[f"decoder/layers/{path}"]), axis, 0)
            for name, path in LAYER.items()
        }
    else:
        tree["layers"] = [
            {name: jnp.array(params[f"decoder/layers_{i}/{path}"]) for name, path in LAYER.items()}
            for i in range(cfg.model.num_decoder_layers)
        ]
    zeros = [jax.tree.map(jnp.zeros_like, tree) for _ in range(2)]
    return {"params": tree, "mu": zeros[0], "nu": zeros[1], "step": jnp.zeros((), jnp.int32)}


def canonical(cfg: Config, params: Params) -> dict[str, np.ndarray]:
    """The inverse of `state`, for its parameters."""
    flat = {path: np.asarray(params[name]) for name, path in TOP.items()}
    for name, path in LAYER.items():
        if cfg.stack.scan_layers:
            stacked = np.asarray(params["layers"][name])
            flat[f"decoder/layers/{path}"] = np.moveaxis(stacked, 0, cfg.stack.param_scan_axis)
        else:
            for i, layer in enumerate(params["layers"]):
                flat[f"decoder/layers_{i}/{path}"] = np.asarray(layer[name])
    return flat


def train_step(cfg: Config) -> Callable[[State, Mapping[str, Any]], tuple[State, Metrics]]:
    """The compiled step: (state, batch) -> (next state, metrics); the state given is consumed."""
    require(cfg)
    schedule = _schedule(cfg)
    limit = cfg.optimizer.gradient_clipping_threshold

    def step(state: State, batch: Mapping[str, Array]) -> tuple[State, Metrics]:
        differentiate = jax.value_and_grad(_loss, argnums=1, has_aux=True)
        (loss, parts), grads = differentiate(cfg, state["params"], batch)
        raw_norm = norm = _norm(grads)
        if limit:
            factor = jnp.where(raw_norm < limit, 1.0, limit / raw_norm)
            grads = jax.tree.map(lambda g: g * factor, grads)
            norm = raw_norm * factor
        rate = schedule(state["step"])
        new = _adamw(cfg, state, grads, rate)
        norms = {"raw_grad_norm": raw_norm, "grad_norm": norm, "param_norm": _norm(new["params"])}
        return new, {"loss": loss, **parts, "learning_rate": rate, **norms}

    return jax.jit(step, donate_argnums=0)


def _loss(cfg: Config, params: Params, batch: Mapping[str, Array]) -> tuple[Array, Metrics]:
    logits = _forward(cfg, params, batch)
    counted = (batch["targets_segmentation"] != 0).astype(jnp.float32)
    tokens = jnp.sum(counted)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, batch["targets"][..., None], axis=-1)[..., 0]
    cross_entropy = jnp.sum((log_z - chosen) * counted) / (tokens + 1e-8)
    z_loss = jnp.sum(cfg.train.z_loss_multiplier * jnp.square(log_z) * counted) / (tokens + 1e-8)
    parts = {"lm_loss": cross_entropy, "z_loss": z_loss, "total_weights": tokens}
    return cross_entropy + z_loss, parts


def _forward(cfg: Config, params: Params, batch: Mapping[str, Array]) -> Array:
    x = jnp.take(params["embedding"], batch["inputs"], axis=0, mode="clip")
    shared = _Shared.of(cfg, batch)

    def layer(x: Array, weights: Params) -> Array:
        return _layer(cfg, weights, x, shared)

    policy = cfg.stack.remat_policy
    if policy != "none":
        kept = jax.checkpoint_policies.save_only_these_names(*_KEPT[policy])
        layer = jax.checkpoint(layer, policy=kept, prevent_cse=not cfg.stack.scan_layers)
    if cfg.stack.scan_layers:
        x, _ = jax.lax.scan(lambda x, weights: (layer(x, weights), None), x, params["layers"])
    else:
        for weights in params["layers"]:
            x = layer(x, weights)
    return _rms_norm(cfg, x, params["norm"]) @ params["head"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Shared:
    """What is the same in all layers: rotation [B, L, 1, H/2], who sees whom [B, 1, G*L, L]."""

    sin: Array
    cos: Array
    seen: Array

    @classmethod
    def of(cls, cfg: Config, batch: Mapping[str, Array]) -> "_Shared":
        m = cfg.model
        half = m.head_dim // 2
        fraction = jnp.arange(half, dtype=jnp.float32) * (2.0 / m.head_dim)
        timescale = m.rope_min_timescale * (m.rope_max_timescale / m.rope_min_timescale) ** fraction
        angle = batch["inputs_position"].astype(jnp.float32)[:, :, None, None] / timescale
        segments = batch["inputs_segmentation"]
        same = segments[:, :, None] == segments[:, None, :]
        seen = same & jnp.tril(jnp.ones(same.shape[1:], bool))
        groups = m.num_query_heads // m.num_kv_heads
        return cls(jnp.sin(angle), jnp.cos(angle), jnp.tile(seen, (1, groups, 1))[:, None])


def _layer(cfg: Config, weights: Params, x: Array, shared: _Shared) -> Array:
    x = x + _attention(cfg, weights, _rms_norm(cfg, x, weights["attention_norm"]), shared)
    y = _rms_norm(cfg, x, weights["mlp_norm"])
    gate = checkpoint_name(y @ weights["gate"], "gate")
    up = checkpoint_name(y @ weights["up"], "up")
    return x + checkpoint_name((jax.nn.silu(gate) * up) @ weights["down"], "down")


def _attention(cfg: Config, weights: Params, x: Array, shared: _Shared) -> Array:
    q = _rotate(jnp.einsum("bld,dnh->blnh", x, weights["query"]), shared)
    k = _rotate(jnp.einsum("bld,dkh->blkh", x, weights["key"]), shared)
    v = jnp.einsum("bld,dkh->blkh", x, weights["value"])
    q, k, v = checkpoint_name(q, "query"), checkpoint_name(k, "key"), checkpoint_name(v, "value")
    b, length, n, h = q.shape
    heads = cfg.model.num_kv_heads
    # Matrix products on trailing axes, the queries of one key head as rows of one matrix.
    q = jnp.transpose(jnp.reshape(q, (b, length, heads, n // heads, h)), (0, 2, 3, 1, 4))
    q = jnp.reshape(q, (b, heads, -1, h))
    k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
    logits = jnp.where(shared.seen, jnp.einsum("bkmh,bkth->bkmt", q, k), -1e30)
    weight = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    # Divided after the product: H numbers a row instead of T.
    out = jnp.einsum("bkmt,bkth->bkmh", weight, v) / jnp.sum(weight, axis=-1, keepdims=True)
    out = jnp.transpose(jnp.reshape(out, (b, heads, n // heads, length, h)), (0, 3, 1, 2, 4))
    out = jnp.einsum("blnh,nhd->bld", jnp.reshape(out, (b, length, n, h)), weights["out"])
    return checkpoint_name(out, "out")


def _rotate(x: Array, shared: _Shared) -> Array:
    first, second = jnp.split(x, 2, axis=-1)
    rotated = (first * shared.cos - second * shared.sin, second * shared.cos + first * shared.sin)
    return jnp.concatenate(rotated, axis=-1)


def _rms_norm(cfg: Config, x: Array, scale: Array) -> Array:
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(mean_square + cfg.model.normalization_layer_epsilon) * scale


def _norm(tree: Any) -> Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))


def _adamw(cfg: Config, state: State, grads: Params, rate: Array) -> State:
    o = cfg.optimizer
    step = state["step"] + 1
    count = step.astype(jnp.float32)
    unbias_mu, unbias_nu = 1 / (1 - o.adam_b1**count), 1 / (1 - o.adam_b2**count)
    mu = jax.tree.map(lambda m, g: o.adam_b1 * m + (1 - o.adam_b1) * g, state["mu"], grads)
    nu = jax.tree.map(
        lambda n, g: o.adam_b2 * n + (1 - o.adam_b2) * jnp.square(g), state["nu"], grads
    )

    def update(p: Array, m: Array, n: Array) -> Array:
        direction = m * unbias_mu / (jnp.sqrt(n * unbias_nu + o.adam_eps_root) + o.adam_eps)
        return p - rate * (direction + o.adam_weight_decay * p)

    params = jax.tree.map(update, state["params"], mu, nu)
    return {"params": params, "mu": mu, "nu": nu, "step": step}


def _schedule(cfg: Config) -> Callable[[Array], Array]:
    o = cfg.optimizer
    total = o.learning_rate_schedule_steps
    total = cfg.train.steps if total == -1 else total
    warmup = int(total * o.warmup_steps_fraction)
    final = o.learning_rate_final_fraction

    def schedule(step: Array) -> Array:
        at = step.astype(jnp.float32)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * (at - warmup) / max(total - warmup - 1, 1)))
        decayed = final + (1 - final) * cosine
        factor = jnp.where(at < warmup, at / max(warmup, 1), decayed)
        return o.learning_rate * jnp.where(at < total, factor, 0.0)

    return schedule
