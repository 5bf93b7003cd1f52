"""Which levels run, what they find, and the lattice that makes one verdict of them."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from maxmig import errors
from maxmig.parity import Report, Verdict, faults, levels
from maxmig.parity.faults.fault import Fault
from maxmig.parity.findings import policy
from maxmig.parity.findings.check import Check
from maxmig.parity.findings.measurement import Measurement, Ratio
from maxmig.parity.findings.subject import Side, Subject
from maxmig.parity.shadow import Shadow
from maxmig.parity.static import Proof

ALL = ("L0", "L1", "L2", "L3")
EPSILON = faults.setting(normalization_layer_epsilon=2e-5)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("L0,L2", ("L0", "L2")),
        ("2,0", ("L0", "L2")),
        ("static, behaviour", ("L0", "L3")),
        ("all", ALL),
        ("l1", ("L1",)),
    ],
)
def test_names_of_levels(text, found):
    assert levels.parse(text) == found


def test_unknown_names():
    with pytest.raises(errors.ConfigError, match="level 'L7': expected one of L0"):
        levels.parse("L0,L7")
    with pytest.raises(errors.ConfigError, match="--only 'grads': expected names out of logits"):
        levels.parse_only("logits,grads")
    assert levels.parse_only("train_step,forward,params") == ("logits", "steps")


# --------------------------------------------------------------------------------- L0 and L1


def test_a_proof_alone_is_a_pass(tiny, compare):
    report = compare(tiny(), levels=("L0",))
    assert report and report.compared == 0
    assert "81 of 81 outputs proved equal" in report.summary
    assert {check.level for check in report.checks} == {"static"}
    card = report.card()
    assert card.levels.keys() == {"static"}
    told = {key: card.coverage[key] for key in ("proved", "steps", "tokens", "longest")}
    assert told == {"proved": 81, "steps": 0, "tokens": 0, "longest": 0}  # no step was made


def test_all_levels_name_the_line_of_another_epsilon(tiny, compare):
    """At bfloat16 real arrays cannot see it; the float64 comparison can, and names the line."""
    cfg = tiny(dtype="bfloat16")
    report = compare(cfg, levels=("L0", "L1"), only=("logits",), fault=EPSILON)
    assert report.verdict is Verdict.FAIL
    assert report.check("forward", "static").verdict is Verdict.INCONCLUSIVE
    assert report.check("forward", "semantic").verdict is Verdict.FAIL
    first = report.divergence
    assert first is not None and "norms.py" in first.control.source
    assert first.path.endswith("layers_0/pre_self_attention_layer_norm")
    assert (first.control.constants, first.candidate.constants) == (("1e-05",), ("2e-05",))
    assert report.codes[0] == "norm-epsilon"
    assert "constant 1e-05 against 2e-05" in report.summary


def test_a_proof_that_fails_is_no_verdict(tiny, compare):
    report = compare(tiny(), levels=("L0",), only=("logits",), fault=EPSILON)
    assert report.verdict is Verdict.INCONCLUSIVE and report.exit_code == 3


# -------------------------------------------------------------------------------------- the ratio


def measured(truth: Ratio, **more) -> Measurement:
    given = {"elements": 5000, "differing": 3, "rel_l2": 1e-3, "truth": truth} | more
    return Measurement("real", "logits", "bfloat16", (5000,), **given)


@pytest.mark.parametrize(
    ("candidate", "passes"), [(0.5e-3, True), (1.9e-3, True), (2.1e-3, False), (1.0, False)]
)
def test_twice_the_error_of_the_control(candidate, passes):
    truth = Ratio(1e-3, candidate, factor=2.0)
    assert measured(truth).within(0.03) is passes
    assert not measured(truth).within(None)  # bitwise stays bitwise
    assert truth.ratio == pytest.approx(candidate / 1e-3)
    assert truth.finer is (candidate < 0.5e-3)


def test_noise_is_forgiven_twice_and_luck_is_not_punished():
    assert measured(Ratio(1e-3, 2.5e-3, 2.0, noise=0.3e-3)).within(0.03)
    assert not measured(Ratio(1e-3, 2.7e-3, 2.0, noise=0.3e-3)).within(0.03)
    exact = Ratio(0.0, 1e-7, 2.0, floor=6e-8)
    assert measured(exact).within(0.03) and exact.ratio == pytest.approx(1e-7 / 6e-8)
    assert not measured(Ratio(0.0, 1e-7, 2.0)).within(0.03)
    assert not measured(Ratio(1e-3, 1e-3, 2.0), problem="nan in the candidate").within(0.03)


def test_bfloat16_is_judged_against_float64(tiny, compare):
    """A wrong time scale: 9 times the control's error where it matters, in a long row."""
    cfg = tiny(dtype="bfloat16")
    fault = faults.setting(rope_max_timescale=2000)
    report = compare(cfg, steps=0, tokens=48, only=("logits", "hidden"), fault=fault)
    assert report.verdict is Verdict.FAIL
    logits = report.check("logits")
    assert logits.triangulated and logits.ratio > 2
    assert logits.worst.truth.control == pytest.approx(8e-3, rel=0.9)
    assert "rope" in report.codes or "settings" in report.codes


def test_what_noise_hides_is_inconclusive(tiny, compare):
    """The same fault as above, too small for bfloat16: no verdict, unless float64 gives one."""
    fault = faults.setting(rope_max_timescale=9800)
    report = compare(tiny(dtype="bfloat16"), steps=0, only=("logits", "hidden"), fault=fault)
    checks = tuple(check for check in report.checks if check.name != "configuration")
    assert not all(check.exact for check in checks)
    report = dataclasses.replace(report, checks=checks)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "bfloat16 noise hides changes below" in report.summary
    assert 1e-3 < report.detectable < 0.1
    proof = Check("forward", "", level="semantic", concluded=Verdict.PASS, told="equal")
    assert dataclasses.replace(report, checks=(*checks, proof)).verdict is Verdict.PASS
    unknown = dataclasses.replace(proof, concluded=Verdict.INCONCLUSIVE, told="pallas_call")
    assert dataclasses.replace(report, checks=(*checks, unknown)).exit_code == 3


def test_without_a_truth_fixed_limits_judge(tiny, compare, monkeypatch):
    from maxmig.parity import shadow

    def unknown(program, inputs):
        raise errors.InconclusiveError(f"{program.name}: no float64 shadow: pallas_call")

    monkeypatch.setattr(shadow, "evaluate", unknown)
    fault = faults.setting(rope_max_timescale=9800)
    report = compare(tiny(dtype="bfloat16"), steps=0, only=("logits", "hidden"), fault=fault)
    hidden = report.check("hidden")
    assert not hidden.exact and not hidden.triangulated and hidden.limit == 0.03
    assert hidden.told.startswith("no float64 truth: forward: no float64 shadow: pallas")
    assert report.detectable == 0.03


# ---------------------------------------------------------------------------------- other traps


def test_a_control_that_is_not_deterministic(tiny, compare, monkeypatch):
    rng = np.random.default_rng(0)

    def shaken(params):
        path = "decoder/decoder_norm/scale"
        leaf = params[path]
        shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        noise = jax.pure_callback(lambda: 1e-3 * rng.standard_normal(leaf.shape, "f4"), shape)
        return params | {path: leaf + jax.lax.stop_gradient(noise)}

    from maxmig.parity.rungs import request

    real = request.Request.runtimes

    def runtimes(self):
        control, candidate = real(self)
        control.backend = faults.Broken(control.backend, shaken)
        return control, candidate

    monkeypatch.setattr(request.Request, "runtimes", runtimes)
    report = compare(tiny(), steps=0, only=("logits",))
    assert "the control is not deterministic: logits (logits) differ by" in report.reasons[0]
    assert report.codes[0] == "nondeterministic"


def test_tokens_outside_the_vocabulary(tiny, compare, monkeypatch):
    from maxmig.parity.sides import inputs

    batch = inputs.packed(2, 16, 256, seed=0)
    batch["targets"][1, 3] = 256
    with pytest.raises(errors.DataError, match=r"targets\[1, 3\] is 256, but the vocabulary is 0"):
        inputs.check_tokens("the data", batch, 256)
    batch["targets"][1, 3] = -1
    with pytest.raises(errors.DataError, match=r"is -1"):
        inputs.check_tokens("the data", batch, 256)
    with pytest.raises(errors.ConfigError, match="positions for 32 tokens only"):
        compare(tiny("gpt3", trainable_position_size=32), steps=0, tokens=33)
    with pytest.raises(errors.ConfigError, match="tokens: expected 1 or more, got 0"):
        compare(tiny(), tokens=0)


def test_dropout_advances_and_a_frozen_counter_is_found(tiny, compare, monkeypatch):
    from maxmig.train import step

    cfg = tiny("gpt3", dropout_rate=0.2)
    report = compare(cfg, steps=0, only=("state",))
    assert report and {m.path for m in report.check("state").measurements} >= {
        "other masks at the next step",
        "the same masks at the same step",
    }
    real = step.step_key
    monkeypatch.setattr(step, "step_key", lambda settings, at: real(settings, np.int32(3)))
    report = compare(cfg, steps=0, only=("state",))
    assert report.verdict is Verdict.FAIL
    assert "does not hold in the control and the candidate" in report.summary
    assert "frozen-masks" in report.codes


def test_another_decay_mask_is_found(tiny, compare, monkeypatch):
    from maxmig.parity.sides import probes

    real = probes.Probes.updated

    def undecayed(self, state, gradients):
        after = real(self, state, gradients)
        path = "params/decoder/logits_dense/kernel"
        frozen = self._runtime.cfg.flags.stage.value == "nnx"
        return after | {path: state[path]} if frozen else after

    monkeypatch.setattr(probes.Probes, "updated", undecayed)
    report = compare(tiny(), steps=0, only=("masks", "update"))
    assert report.verdict is Verdict.FAIL
    assert {m.path for m in report.check("masks").failures} == {"decoder/logits_dense/kernel"}
    assert len(report.check("masks").failures) == 2  # neither decayed nor trained


def test_hidden_states_tell_the_layer(tiny, compare):
    def broken(params):
        path = "decoder/layers/mlp/wo/kernel"
        return params | {path: params[path].at[:, 2].multiply(1.01)}

    report = compare(tiny(), steps=0, only=("hidden",), fault=Fault("layer 2", params=broken))
    found = report.check("hidden")
    assert {m.path for m in found.failures} == {"decoder/layers/2", "decoder/layers/3"}
    assert all(m.truth is not None for m in found.measurements if m.item == "packed")


def test_performance_is_gated_on_request_only(tiny, compare):
    run = functools.partial(compare, tiny(), steps=3, only=("steps",))
    report = run()
    assert report and report.performance is not None and not report.performance.gates
    assert {row[0] for row in report.performance.details.rows} == {
        *("step time", "compile time", "peak memory", "program size")
    }
    report = run(gate_performance=1e-6)
    assert report.verdict is Verdict.FAIL and "more than 1e-06x" in report.summary
    assert run(gate_performance=1e6)


# ------------------------------------------------------------------- what nothing else speaks for


def held(*checks: Check) -> Report:
    """A report whose real arrays are all equal, and other checks."""
    sides = [Side(stage, stage, "", {}, "") for stage in ("linen", "nnx")]
    equal = Check("logits", "", (Measurement("real", "logits", "float32", (9,), 9),))
    subject = Subject("", "", "", 9, {"dtype": "float32"}, "1 x cpu")
    return Report(subject, *sides, policy.Policy(policy.BITWISE, ""), (*checks, equal))


def concluded(name: str, level: str, verdict: Verdict, details: Any = None) -> Check:
    return Check(name, "", level=level, concluded=verdict, told="told", details=details)


@pytest.mark.parametrize("name", ["eval", "prefill", "decode"])
def test_what_training_does_not_run_needs_another_witness(name):
    """Equal arrays of a train step say nothing of a decoding step that differs."""
    doubt = Verdict.INCONCLUSIVE
    forward = concluded("forward", "static", Verdict.PASS, Proof("forward", ("logits",)))
    other = concluded(name, "static", doubt, Proof(name, (), different=("logits",)))
    assert held(forward)
    assert held(forward, other).verdict is doubt
    assert f"{name} is not proved equal, and nothing else covers it" in held(other).summary
    assert held(forward, other, concluded(name, "semantic", Verdict.PASS))
    unknown = concluded(name, "semantic", doubt, Shadow(name, unshadowable=("pallas_call",)))
    assert held(forward, other, unknown).verdict is doubt
    decoded = held(forward, other, concluded("decode", "behaviour", Verdict.PASS))
    assert decoded.verdict is (doubt if name == "eval" else Verdict.PASS)


def test_a_branch_that_no_input_takes_needs_a_proof():
    doubt = Verdict.INCONCLUSIVE
    shadow = Shadow(
        "forward", untaken=("control: branch 1 of the choice at a.py:3 is never taken",)
    )
    semantic = concluded("forward", "semantic", doubt, shadow)
    differs = concluded("forward", "static", doubt, Proof("forward", (), different=("logits",)))
    proved = concluded("forward", "static", Verdict.PASS, Proof("forward", ("logits",)))
    assert held(proved, semantic)
    assert held(differs, semantic).verdict is doubt
    assert "not proved equal, and control: branch 1 of" in held(differs, semantic).summary


def test_a_proof_alone_that_fails_says_where():
    doubt = Verdict.INCONCLUSIVE
    differs = Proof("train_step", (), different=("params",))
    check = concluded("train_step", "static", doubt, differs)
    check = dataclasses.replace(check, told="constant 1e-08 against 1e-09")
    report = dataclasses.replace(held(check), checks=(check,))
    assert report.verdict is doubt
    assert report.summary == "linen and nnx: static: train_step: constant 1e-08 against 1e-09"
    assert "nothing was compared" in dataclasses.replace(report, checks=()).summary
