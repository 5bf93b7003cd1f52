"""Negative controls: a fault is put into the candidate, and must be found where it is."""

import math

import pytest

from maxmig.parity import Verdict, faults

KERNEL = "decoder/layers/mlp/wi_0/kernel"


def failing(report) -> list[str]:
    assert report.verdict is Verdict.FAIL and report.exit_code == 1 and not report
    assert any("fault was put in on purpose" in note for note in report.notes)
    return [check.name for check in report.checks if check.verdict is Verdict.FAIL]


def test_one_perturbed_weight(tiny, compare):
    report = compare(tiny(), fault=faults.perturbed(KERNEL, (3, 2, 5), 1e-6), steps=0)
    assert failing(report)[:3] == ["start", "hidden", "logits"]
    found = report.check("start")
    assert found.differing == 1 and len(found.failures) == 1
    assert found.max_abs.place == f"params/{KERNEL} [3, 2, 5]"
    assert found.max_abs.value == pytest.approx(1e-6, rel=0.1)
    assert f"params/{KERNEL} [3, 2, 5]" in report.summary
    assert 0 < report.check("logits").needed < 1e-4


def test_a_weight_that_is_not_a_number(tiny, compare):
    report = compare(tiny(), fault=faults.perturbed(KERNEL, (3, 2, 5), math.nan), steps=0)
    assert failing(report) == ["start", "hidden", "logits", "loss", "gradients", "update"]
    assert report.check("start").worst.problem.startswith("nan in the candidate at [3, 2, 5], 1 of")
    assert report.check("logits").needed == math.inf
    assert "no tolerance would pass" in report.reasons[0] or "nan" in report.reasons[0]


def test_swapped_layers(tiny, compare):
    report = compare(tiny(), fault=faults.swapped(1, 2, axis=1), steps=0)
    assert failing(report) == ["start", "hidden", "logits", "loss", "gradients", "update"]
    found = report.check("start")
    assert {m.path for m in found.failures} == {
        m.path for m in found.measurements if m.path.startswith("params/decoder/layers/")
    }
    assert {m.max_abs.index[1] for m in found.failures} <= {1, 2}
    assert {m.max_rel.index[1] for m in found.failures} <= {1, 2}


def test_layers_that_are_read_in_the_wrong_order(tiny, compare):
    """The weights are right on both sides; only the outputs can tell."""
    report = compare(tiny(), fault=faults.swapped(1, 2, axis=1, stored=False), steps=0)
    assert failing(report) == ["hidden", "logits", "loss", "gradients"]
    assert report.check("start").exact
    assert "/layers/" in report.check("gradients").worst.path
    assert report.check("gradients").needed > 0.5


def test_another_norm_epsilon(tiny, compare):
    report = compare(tiny(), fault=faults.setting(normalization_layer_epsilon=2e-5), steps=0)
    assert failing(report) == ["configuration", "hidden", "logits", "loss", "gradients"]
    assert "normalization_layer_epsilon: 1e-05 in the control" in report.summary
    assert report.check("logits").needed < 1e-3  # far below what a threshold by hand would see


def test_another_rope_timescale(tiny, compare):
    report = compare(tiny(), fault=faults.setting(rope_max_timescale=9_000), steps=0)
    assert failing(report) == ["configuration", "hidden", "logits", "loss", "gradients"]
    assert report.check("configuration").worst.path == "rope_max_timescale"
    _, position, _ = report.check("logits").max_abs.index
    assert position > 0  # the first position is not rotated
    assert "self_attention" in report.check("gradients").worst.path


def test_a_dropped_gradient(tiny, compare):
    path = "decoder/layers/self_attention/out/kernel"
    report = compare(tiny(), fault=faults.dropped_gradient(path), steps=0)
    found = report.check("gradients")
    assert failing(report) == ["gradients"]
    assert {m.path for m in found.failures} == {path}
    assert found.worst.problem == "exactly zero in the candidate only"
    assert report.check("logits").exact and report.check("loss").exact


def test_another_weight_decay(tiny, compare):
    """Invisible in outputs and gradients; only the optimizer's steps show it."""
    report = compare(tiny(), fault=faults.setting(adam_weight_decay=0.11), steps=2)
    assert failing(report)[:3] == ["configuration", "update", "metrics"]
    assert all(report.check(name).exact for name in ("start", "logits", "loss", "gradients"))
    found = report.check("params")
    assert found.verdict is Verdict.FAIL
    assert found.worst.item == "step 2"  # the learning rate of the first step is 0
    assert len([m for m in found.failures if m.item == "step 2"]) == 12
    assert report.check("counters").exact


def test_a_fault_on_neither_side_is_no_fault(tiny, compare):
    report = compare(tiny(), fault=faults.Fault("nothing"), steps=0)
    assert report.verdict is Verdict.PASS
