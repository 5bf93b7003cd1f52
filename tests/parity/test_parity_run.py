"""Two rungs, the same weights: what is compared, where weights are from, and when no verdict is."""

import dataclasses

import numpy as np
import pytest

from maxmig import errors, parity
from maxmig.config import Stage
from maxmig.parity import Verdict
from maxmig.parity.findings import policy
from maxmig.parity.sides import inputs, start

UNSCANNED = {"scan_layers": False, "base_num_decoder_layers": 2}
ALL = [
    *("configuration", "start", "hidden", "logits", "loss", "gradients", "update", "masks"),
    *("metrics", "params", "moments", "counters", "state"),
]
WITHOUT_STEPS = [*ALL[:8], "state"]


@pytest.mark.parametrize("candidate", [s for s in Stage if s is not Stage.LINEN])
def test_every_rung_equals_linen_bit_for_bit(tiny, compare, candidate):
    report = compare(tiny(), candidate=candidate, steps=2)
    assert report, report.summary
    assert report.exact and report.exit_code == 0
    assert report.policy.name == "bitwise" and "exactly equal, bit for bit" in report.summary
    assert (report.control.proved, report.candidate.proved) == ("linen", candidate.value)
    assert [check.name for check in report.checks] == ALL
    leaves = report.coverage.parameters
    arrays = {check.name: check.arrays for check in report.checks}
    assert leaves == 12
    assert arrays["start"] == 3 * leaves + 3  # parameters, two moments, step and two counts
    assert (arrays["logits"], arrays["loss"], arrays["gradients"]) == (2, 8, 2 * leaves)
    assert (arrays["params"], arrays["moments"]) == (2 * leaves, 4 * leaves)
    assert report.coverage.unmoved == () and report.coverage.zero_gradients == ()
    assert report.origin.source == "seed 0" and len(report.origin.nudged) == 3


def test_gpt3_unscanned_with_accumulation_and_dropout(tiny, compare):
    cfg = tiny("gpt3", **UNSCANNED, gradient_accumulation_steps=2, dropout_rate=0.1)
    report = compare(cfg, steps=2)
    assert report.exact, report.summary
    assert "decoder/layers_1/mlp/wo/bias" in report.origin.nudged
    assert any("dropout is on" in note for note in report.notes)
    assert len(report.curve.steps) == 2 and report.curve.control == report.curve.candidate


def test_experts_and_the_loss_that_spreads_their_load(tiny, compare):
    cfg = tiny("mixtral", load_balance_loss_weight=0.01, gradient_accumulation_steps=2)
    report = compare(cfg, steps=2)
    assert report.exact, report.summary
    arrays = {check.name: check.arrays for check in report.checks}
    assert arrays["loss"] == 10  # one more of each batch than without experts
    assert report.coverage.zero_gradients == ()


def test_neighbours_from_nnx_to_hybrid_and_back(tiny, compare):
    """The control need not be Linen."""
    report = compare(tiny(), control="nnx", candidate="hybrid", steps=0)
    assert report and (report.control.proved, report.candidate.proved) == ("nnx", "hybrid")
    assert report.coverage.skipped == ("optimizer steps: none were asked for (--steps 0)",)
    assert [check.name for check in report.checks] == WITHOUT_STEPS
    assert report.curve.steps == ()


def test_sharded_over_simulated_devices(tiny):
    import jax

    cfg = tiny(per_device_batch_size=1)
    report = parity.run(cfg, steps=0, devices=jax.devices()[:2], levels=("L0", "L2"))
    assert report, report.summary
    assert report.subject.devices == "2 x cpu"


def test_bfloat16_has_a_stated_tolerance(tiny, compare):
    report = compare(tiny(dtype="bfloat16"), steps=0)
    assert report, report.summary
    assert report.policy.name == "ratio" and "2 times the control's" in report.policy.text
    assert report.policy.factor("logits", 5000) == 2 and report.policy.factor("params", 10) == 10
    assert report.check("start").limit is None  # weights are exact in any case


def test_the_policy_is_bitwise_for_float32_on_the_cpu_only(tiny):
    assert policy.choose(tiny(), "cpu").limit("logits") is None
    assert policy.choose(tiny(), "gpu").limit("logits") == 1e-5
    assert policy.choose(tiny(mu_dtype="bfloat16"), "cpu").name == "ratio"
    assert policy.choose(tiny(), "cpu", "ratio").name == "ratio"
    assert policy.choose(tiny(), "gpu", "bitwise").limit("logits") is None
    with pytest.raises(errors.ConfigError, match="policy 'loose': expected one of auto"):
        policy.choose(tiny(), "cpu", "loose")


# ----------------------------------------------------------------------------------------- weights


def test_from_a_checkpoint_of_either_layout(tiny, compare, tmp_path):
    from maxmig.checkpoint.store import Store
    from maxmig.train.runtime import Runtime

    cfg = tiny()
    runtime = Runtime(cfg, compare.keywords["devices"])
    state = start.host(runtime.state(runtime.init()))
    for path, leaf in state.items():
        if leaf.dtype == np.int32:
            state[path] = np.full_like(leaf, cfg.train.steps)
        elif path.startswith("opt_state/"):
            state[path] = np.abs(np.random.default_rng(0).normal(size=leaf.shape)).astype("f4")
    for layout in ("linen", "nnx"):
        with Store(tmp_path / layout, layout=layout, asynchronous=False) as store:
            store.save(9, state, skeleton=runtime.skeleton, metadata={"stage": "linen"})
        report = compare(cfg, checkpoint=tmp_path / layout, steps=2)
        assert report.exact, report.summary
        assert (report.origin.step, report.origin.optimizer) == (10, "restored")
        assert report.origin.nudged == () and layout in report.origin.notes
        # A finished run has learning rate 0: both sides get a longer schedule, and say so.
        assert any("learning_rate_schedule_steps=24" in note for note in report.notes)
        assert report.coverage.unmoved == ()
        assert report.control.config_digest != cfg.digest
    params = {path: leaf for path, leaf in state.items() if path.startswith("params/")}
    with Store(tmp_path / "params", layout="linen", asynchronous=False) as store:
        store.save(0, params | {"step": np.int32(0)}, metadata={"stage": "linen"})
    begun = start.from_checkpoint(runtime, tmp_path / "params")
    assert (begun.origin.step, begun.origin.optimizer) == (0, "fresh")
    kernel = "params/decoder/logits_dense/kernel"
    assert begun.state[kernel].tobytes() == np.asarray(params[kernel]).tobytes()
    assert not begun.state["opt_state/0/mu/decoder/logits_dense/kernel"].any()


def test_a_missing_or_foreign_checkpoint(tiny, compare, tmp_path):
    with pytest.raises(errors.CheckpointError, match="nowhere"):
        compare(tiny(), checkpoint=tmp_path / "nowhere")


def test_constants_are_nudged_and_repeatably(tiny, compare):
    from maxmig.train.runtime import Runtime

    runtime = Runtime(tiny("gpt3"), compare.keywords["devices"])
    first, second = start.from_seed(runtime), start.from_seed(runtime)
    for path in first.origin.nudged:
        leaf = first.state[f"params/{path}"]
        assert np.unique(leaf).size == leaf.size, path
        assert leaf.tobytes() == second.state[f"params/{path}"].tobytes()
    for path, leaf in first.state.items():
        if path.startswith("params/"):
            assert leaf.size == 1 or (leaf != leaf.flat[0]).any(), path


def test_the_start_outlives_the_steps(tiny, compare, monkeypatch):
    """Donated buffers must not be the host's copy."""
    kept = {}
    original = start.from_seed

    def remember(runtime):
        begun = original(runtime)
        kept.update(before={p: a.copy() for p, a in begun.state.items()}, after=begun.state)
        return begun

    monkeypatch.setattr(start, "from_seed", remember)
    assert compare(tiny(), steps=2)
    for path, array in kept["before"].items():
        assert array.tobytes() == kept["after"][path].tobytes(), path


# --------------------------------------------------------------------------------------- no verdict


def test_the_same_rung_is_inconclusive(tiny, compare):
    report = compare(tiny(), control="nnx", candidate="nnx")
    assert report.verdict is Verdict.INCONCLUSIVE and report.exit_code == 3 and not report
    assert "both sides are nnx" in report.summary and "--allow-same" in report.summary
    assert report.checks == () and report.compared == 0


def test_noise_of_a_rung_against_itself(tiny, compare):
    report = compare(tiny(), control="nnx", candidate="nnx", allow_same=True, steps=0)
    assert report.exact
    assert any(note.startswith("A/A") for note in report.notes)


def test_sides_that_are_not_what_was_asked_for(tiny, compare, monkeypatch):
    from maxmig import backend

    real = backend.prove

    def lie(*args):
        proof = real(*args)
        nnx = proof.stage is Stage.NNX
        return dataclasses.replace(proof, stage=Stage.LINEN if nnx else proof.stage)

    monkeypatch.setattr(backend, "prove", lie)
    report = compare(tiny())
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "asked for nnx, but the objects that were built are linen" in report.summary
    assert "both sides are linen" in report.summary


def test_steps_that_move_nothing_are_inconclusive(tiny, compare):
    report = compare(tiny(), steps=1)  # warm-up starts at 0
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.check("params").verdict is Verdict.INCONCLUSIVE
    assert "no optimizer step moved any parameter" in report.summary
    assert len(report.coverage.unmoved) == 12


def test_a_negative_number_of_steps(tiny, compare):
    with pytest.raises(errors.ConfigError, match="steps: expected 0 or more"):
        compare(tiny(), steps=-1)


# ------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 2), (1, 16), (2, 5), (3, 32), (8, 64)])
def test_the_packed_batch(rows, length):
    batch = inputs.packed(rows, length, 50, seed=3)
    described = inputs.describe("packed", "", batch)
    assert all(a.shape == (rows, length) and a.dtype == np.int32 for a in batch.values())
    assert described.targets + described.padding == rows * length and described.targets > 0
    assert batch["inputs"].max() < 50
    if length >= 16:
        assert described.padding and described.segments >= 2 * min(rows, 3)
    if rows >= 4:
        assert not batch["inputs_segmentation"][-1].any()
    for row in range(rows):
        segments, positions = batch["inputs_segmentation"][row], batch["inputs_position"][row]
        for number in set(segments.tolist()) - {0}:
            (where,) = np.nonzero(segments == number)
            assert positions[where].tolist() == list(range(where.size))
            inner, targets = batch["inputs"][row][where], batch["targets"][row][where]
            assert inner[1:].tolist() == targets[:-1].tolist()
        assert not batch["inputs"][row][segments == 0].any()
