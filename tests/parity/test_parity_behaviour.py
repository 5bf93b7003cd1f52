"""L3: distributions, greedy decoding, sharded against unsharded, restored against in memory."""

import functools

import jax
import numpy as np
import pytest

from maxmig import parity
from maxmig.parity import Verdict, faults
from maxmig.parity.findings import distributions
from maxmig.parity.rungs import decode
from maxmig.parity.rungs.decode import Continuation

SHAPE = (2, 40, 50)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def hold(a: np.ndarray, b: np.ndarray, counted=None) -> distributions.Distribution | None:
    places = np.broadcast_to(np.arange(SHAPE[1]), SHAPE[:2])
    targets = np.zeros(SHAPE[:2], np.int32)
    counted = np.ones(SHAPE[:2], np.int32) if counted is None else counted
    return distributions.compare("real", a, b, targets, places, counted)


def test_equal_logits(logits):
    found = hold(logits, logits.copy())
    assert found.kl.most == 0 and found.shift.most == 0 and found.rise == 1
    assert {k: share for k, share, _ in found.top} == dict.fromkeys(distributions.TOP, 1.0)
    assert found.kl.count == 80 and len(found.by_position) == 40


def test_kl_is_half_the_variance_of_the_difference(logits):
    noise = 1e-3 * np.random.default_rng(1).normal(size=SHAPE)
    found = hold(logits, logits + noise)
    assert found.kl.mean == pytest.approx(0.5e-6, rel=0.1)
    assert found.kl.error < 0.2 * found.kl.mean and found.kl.most < 1e-5
    shifted = hold(logits, logits + 7.0)  # the same distribution
    assert shifted.kl.most < 1e-9 and shifted.top[0][1] == 1.0


def test_a_rise_with_the_position_is_told(logits):
    places = np.arange(SHAPE[1])[None, :, None]
    noise = np.random.default_rng(1).normal(size=SHAPE)
    found = hold(logits, logits + 1e-3 * noise * places)
    assert found.rise > 20
    assert "grows" in distributions.summary([found])
    assert hold(logits, logits + 1e-2 * noise).rise < 3


def test_padding_does_not_count(logits):
    counted = np.ones(SHAPE[:2], np.int32)
    counted[:, 20:] = 0
    broken = logits.copy()
    broken[:, 20:] += np.random.default_rng(1).normal(size=broken[:, 20:].shape)
    assert hold(logits, broken, counted).kl.most == 0
    assert hold(logits, broken).kl.most > 0.1
    assert hold(logits, broken, np.zeros_like(counted)) is None


def test_a_near_tie_is_forgiven_and_a_difference_is_not():
    assert Continuation(8, 32, 32).good
    assert Continuation(8, 32, 5, gap=1e-4, tie=True).good
    assert not Continuation(8, 32, 5, gap=1.0).good


def test_the_rule_of_near_ties(tiny, compare):
    from maxmig.parity.sides import start
    from maxmig.train.runtime import Runtime

    runtime = Runtime(tiny(), jax.devices()[:1])
    state = start.from_seed(runtime).state
    prompt = list(range(1, 9))
    tokens = decode._generate(runtime, state, [prompt], 6)[0]
    scores = functools.partial(decode._scores, runtime, state, prompt, tokens)
    assert decode.hold(8, tokens, tokens, scores, 0.0).agree == 6
    other = tokens.copy()
    other[2] = (tokens[2] + 1) % 256
    found = decode.hold(8, tokens, other, scores, 1e-6)
    assert (found.agree, found.tie) == (2, False) and found.gap > 0
    assert decode.hold(8, tokens, other, scores, 1e6).tie == (other[2] in scores(2).argsort()[-5:])


def test_both_sides_behave_alike(tiny, compare):
    report = compare(tiny(), levels=("L3",), tokens=24)
    assert report, report.summary
    found = {check.name: check for check in report.checks}
    assert found.keys() == {"distribution", "decode", "restored"}
    assert "KL 0" in found["distribution"].told
    assert "equal for 32 new tokens" in found["decode"].told
    assert found["restored"].exact and found["restored"].arrays == 80
    assert any("--simulate-devices" in text for text in report.coverage.skipped)


def test_another_model_behaves_otherwise(tiny, compare):
    fault = faults.swapped(1, 2, axis=1, stored=False)
    report = compare(tiny(), levels=("L3",), fault=fault)
    assert report.verdict is Verdict.FAIL
    found = {check.name: check for check in report.checks}
    assert found["distribution"].verdict is Verdict.FAIL
    assert found["decode"].verdict is Verdict.FAIL
    assert "KL too large" in found["distribution"].told
    assert found["restored"].exact


def test_sharded_is_held_against_one_device(tiny):
    cfg = tiny(per_device_batch_size=1)
    report = parity.run(cfg, levels=("L3",), devices=jax.devices()[:2])
    assert report, report.summary
    found = report.check("sharded")
    assert {m.item for m in found.measurements} == {"control", "candidate"}
    assert found.limit == 1e-4 and 0 < found.needed < 1e-4  # another order of summation
