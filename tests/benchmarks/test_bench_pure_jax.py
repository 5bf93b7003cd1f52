"""The baseline computes what maxmig computes, else a ratio of times would mean nothing."""

import jax
import numpy as np
import pytest

from maxmig import config, errors
from maxmig.benchmarks import pure_jax
from maxmig.train.runtime import Runtime

TINY = (
    "base_emb_dim=16",
    "base_num_query_heads=4",
    "base_num_kv_heads=2",
    "base_mlp_dim=32",
    "base_num_decoder_layers=3",
    "head_dim=8",
    "vocab_size=64",
    "max_target_length=12",
    "steps=8",
    "warmup_steps_fraction=0.25",
    "learning_rate=0.01",
)
NNX = ("enable_nnx=true", "pure_nnx=true", "pure_nnx_decoder=true")
VARIANTS = {
    "scanned": (),
    "scanned-axis-0": ("param_scan_axis=0", "remat_policy=none"),
    "unscanned": ("scan_layers=false", "remat_policy=minimal"),
    "unclipped": ("gradient_clipping_threshold=0", "base_num_kv_heads=4"),
    "z-loss": ("z_loss_multiplier=0.01", "gradient_clipping_threshold=0.5", "remat_policy=minimal"),
    "nnx": NNX,
    "nnx-unscanned": (*NNX, "scan_layers=false"),
}


def packed(cfg: config.Config) -> dict[str, np.ndarray]:
    """Two rows: two documents and padding, and one document."""
    length = cfg.train.max_target_length
    drawn = np.random.default_rng(1).integers(0, cfg.model.vocab_size, (2, length + 1), np.int32)
    segments = np.ones((2, length), np.int32)
    segments[0, 5:9], segments[0, 9:] = 2, 0
    positions = np.tile(np.arange(length, dtype=np.int32), (2, 1))
    positions[0, 5:9] -= 5
    names = {"inputs": drawn[:, :-1], "targets": drawn[:, 1:]}
    sides = {f"{side}_segmentation": segments for side in names}
    return names | sides | {f"{side}_position": positions for side in names}


@pytest.mark.parametrize("variant", VARIANTS)
def test_three_steps_agree(variant: str):
    cfg = config.load("bench/tiny", [*TINY, *VARIANTS[variant]])
    runtime = Runtime(cfg, jax.devices()[:1])
    leaves = runtime.init()
    params = dict(zip(runtime.param_paths, runtime.params(leaves), strict=True))
    state = pure_jax.state(cfg, params)
    step = pure_jax.train_step(cfg)
    for _ in range(3):
        batch = packed(cfg)
        leaves, ours = runtime.train(leaves, batch)
        state, theirs = step(state, batch)
        assert theirs.keys() == ours.keys()
        for name, value in ours.items():
            np.testing.assert_allclose(theirs[name], value, rtol=1e-6, atol=1e-7, err_msg=name)
    assert int(state["step"]) == int(runtime.state(leaves)["step"]) == 3
    after = pure_jax.canonical(cfg, state["params"])
    assert after.keys() == set(runtime.param_paths)
    for path, ours in zip(runtime.param_paths, runtime.params(leaves), strict=True):
        # Adam divides by the root of the second moment: digits of a tiny gradient show.
        np.testing.assert_allclose(after[path], ours, rtol=1e-5, atol=2e-5, err_msg=path)


def test_the_schedule_is_ours():
    from maxmig import optim

    for overrides in ((), ("warmup_steps_fraction=0",), ("learning_rate_schedule_steps=5",)):
        cfg = config.load("bench/tiny", [*TINY, *overrides])
        ours, theirs = optim.learning_rate(cfg), pure_jax._schedule(cfg)
        for step in range(10):
            at = np.asarray(step, np.int32)
            np.testing.assert_allclose(theirs(at), ours(at), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "override",
    ["opt_type=sgd", "remat_policy=save_out_proj", "dropout_rate=0.1", "dtype=bfloat16"],
)
def test_other_arithmetic_is_refused_by_name(override: str):
    cfg = config.load("bench/tiny", [override])
    with pytest.raises(errors.ConfigError, match=override.split("=")[0]) as refused:
        pure_jax.train_step(cfg)
    assert "--candidates linen,nnx" in str(refused.value)
