"""Users' pairs, from stock Flax layers: mapping, verdict and explanation; and what must fail."""

import functools

import pairs_zoo as zoo
import pytest

from maxmig.parity import pairs
from maxmig.parity.findings.check import Verdict
from maxmig.parity.reports.report import Report

# Where real arrays alone are the point of the test.
NATIVE_ONLY = {"untied", "stopped", "exchanged", "gru"}


@functools.cache
def report(name: str) -> Report:
    levels = ("L2",) if name in NATIVE_ONLY else ("L0", "L1", "L2")
    return pairs.run(getattr(zoo, name), levels=levels)


def native(name: str, check: str) -> set[str]:
    """Paths that differ at the real type."""
    return {m.path for m in report(name).check(check).failures}


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer", "lstm", "vae"])
def test_passes(name: str) -> None:
    found = report(name)
    assert found, found.summary
    assert found.coverage.gradients == found.coverage.parameters > 0
    assert {c.name for c in found.checks} >= {"mapping", "outputs", "loss", "gradients"}


def test_proved_without_a_number() -> None:
    for name in ("mlp", "vae"):
        assert all(c.verdict is Verdict.PASS for c in report(name).checks if c.level == "static")
        assert report(name).exact


def test_nested_calls_are_mapped_by_order_and_flagged() -> None:
    (note,) = (n for n in report("mlp").notes if n.startswith("ambiguous"))
    assert "Dense_1 -> first, Dense_0 -> second, Dense_2 -> third" in note


def test_both_modes_and_statistics() -> None:
    state = report("cnn").check("state")
    assert {m.item for m in state.measurements} == {"train", "eval"}
    assert {m.path.rpartition("/")[2] for m in state.measurements} == {"mean", "var"}
    items = {m.item for m in report("cnn").check("gradients").measurements}
    assert items == {"train", "train random", "eval"}  # the eval program is proved for all inputs


def test_attention_scaling_is_explained() -> None:
    found = report("transformer")
    assert any("attention-scaling" in note for note in found.notes)
    assert not found.check("outputs").exact  # so it was judged, not taken for equal
    assert found.check("outputs").triangulated


@pytest.mark.parametrize(
    "name", ["norm_bf16", pytest.param("transformer_bf16", marks=pytest.mark.slow)]
)
def test_norm_promotion_is_explained(name: str) -> None:
    found = report(name)
    assert found, found.summary
    assert any("norm-promotion" in n and "promote_dtype" in n for n in found.notes)
    assert not found.check("outputs").exact and found.check("outputs").triangulated


def test_untied_weights_fail_though_outputs_agree() -> None:
    found = report("untied")
    assert found.verdict is Verdict.FAIL
    assert found.check("outputs").verdict is Verdict.PASS
    assert native("untied", "mapping") == {"params/head/kernel"}
    assert "untied" in found.summary
    assert "params/Embed_0/embedding" in native("untied", "gradients")


def test_another_momentum_fails_though_outputs_agree() -> None:
    found = report("momentum")
    assert found.verdict is Verdict.FAIL
    assert found.check("outputs").exact and found.check("gradients").verdict is Verdict.PASS
    assert {m.item for m in found.check("state").failures} == {"train", "train random"}
    first = next(c for c in found.checks if c.level == "semantic" and not c)
    assert "0.99 against 0.9" in first.told and "known" not in first.told


def test_a_stopped_gradient_fails_though_outputs_agree() -> None:
    found = report("stopped")
    assert found.verdict is Verdict.FAIL
    assert found.check("outputs").exact
    assert native("stopped", "gradients") == {"params/Dense_1/bias", "params/Dense_1/kernel"}
    assert "exactly zero in the candidate only" in found.summary


def test_exchanged_square_weights_fail_with_the_permutation() -> None:
    found = report("exchanged")
    assert found.verdict is Verdict.FAIL
    assert "fc2_logvar -> fc2_mean" in found.summary
    assert found.summary.index("mapping") < found.summary.index("fc2_logvar")


def test_a_lossy_layer_is_named() -> None:
    found = report("gru")
    assert found.verdict is Verdict.FAIL
    assert "params/GRUCell_0/hn/bias" in found.summary and "nnx.GRUCell" in found.summary
