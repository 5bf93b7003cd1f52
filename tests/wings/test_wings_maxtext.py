"""Witness from outside: MaxText's own checkpoints, logits, losses, gradients and resumed runs."""

import functools
import json
from typing import Any

import helpers
import jax.numpy as jnp
import numpy as np
import pytest

from maxmig.checkpoint.store import Store
from maxmig.config.flags import Stage
from maxmig.core import embed

LOGITS, LOSS, GRADIENTS = 2e-5, 1e-5, 2e-5
ENDS = ("", "_position", "_segmentation")
FAMILIES = ("llama2_", "gpt3_", "mixtral_")
WITH_GRADIENTS = ("llama2_linen_scan", "gpt3_linen_scan", "mixtral_linen_scan")


reference = helpers.maxtext_reference
NAMES = sorted(
    path.name
    for path in helpers.MAXTEXT.iterdir()
    if path.name.startswith(FAMILIES) and reference(path.name)
)
RESUMED = sorted(
    path.parent.name
    for path in helpers.MAXTEXT.glob("*/resume.json")
    if path.parent.name.startswith(FAMILIES)
)


def batch(name: str, which: str) -> dict[str, np.ndarray]:
    """Batch A has one document a row, B is packed and padded; all fixtures have the same two."""
    path = reference(name) or reference("llama2_linen_scan")
    with np.load(path) as arrays:
        kinds = [f"{a}{b}" for a in ("inputs", "targets") for b in ENDS]
        return {kind: arrays[f"{which}_{kind}"] for kind in kinds}


@functools.cache
def restored(name: str) -> dict[str, np.ndarray]:
    """The whole state of a fixture."""
    target = runtime(name, Stage.LINEN).abstract
    return helpers.numpy(Store(helpers.MAXTEXT / name / "checkpoint").restore(None, target).flat)


def runtime(name: str, stage: Stage, *options: str) -> Any:
    """The runtime of a fixture's configuration as MaxText wrote it, resumed as in resume.json."""
    path = helpers.MAXTEXT / name / "config.yml"
    resumed = ("steps=13", "learning_rate_schedule_steps=100")
    return helpers.runtime(path, *resumed, *options, stage=stage)


def params(name: str) -> dict[str, np.ndarray]:
    return {
        path.removeprefix("params/"): leaf
        for path, leaf in restored(name).items()
        if path.startswith("params/")
    }


def check(name: str, stage: Stage, which: str, *options: str) -> None:
    rt = runtime(name, stage, *options)
    weights, one = helpers.only(rt, params(name)), batch(name, which)
    with np.load(reference(name)) as wanted:
        logits, loss = wanted[f"{which}_logits"], float(wanted[f"{which}_loss"])
    np.testing.assert_allclose(rt.logits(weights, one), logits, rtol=0, atol=LOGITS)
    sums = rt.evaluate(weights, one)
    assert float(sums.tokens) == np.count_nonzero(one["targets_segmentation"])
    assert abs(float(sums.cross_entropy / sums.tokens) - loss) <= LOSS


def gradients(name: str, stage: Stage) -> dict[str, tuple[float, float]]:
    """Each gradient's distance from MaxText's: by norm, and its largest element by the largest."""
    rt = runtime(name, stage)
    total, found = rt.gradients(helpers.only(rt, params(name)), batch(name, "a"))
    with np.load(reference(name)) as wanted:
        assert abs(float(total.total) - float(wanted["a_loss"])) <= LOSS
    with np.load(helpers.MAXTEXT / name / "gradients.npz") as arrays:
        wanted = dict(arrays)
    assert set(found) == set(wanted)
    assert all(np.abs(g).max() > 0 for g in wanted.values())
    return {
        path: (
            helpers.relative(found[path], g),
            float(np.abs(found[path] - g).max() / np.abs(g).max()),
        )
        for path, g in wanted.items()
    }


def test_the_fixtures_are_there() -> None:
    assert {*WITH_GRADIENTS, "llama2_nnx_noscan", "gpt3_nnx_noscan"} <= set(NAMES)
    assert {"llama2_pre3929nnx_scan"} <= set(NAMES)
    assert {"llama2_muon_linen_scan", "llama2_skipspk_linen_scan", "gpt3_linen_scan"} <= set(
        RESUMED
    )


@pytest.mark.parametrize("which", ["a", "b"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_and_loss_are_maxtexts(name: str, which: str, wing: Stage) -> None:
    check(name, wing, which)


@pytest.mark.parametrize("middle", [Stage.BRIDGED_DECODER, Stage.BRIDGED, Stage.HYBRID])
@pytest.mark.parametrize("name", ["llama2_linen_scan", "gpt3_nnx_noscan", "mixtral_linen_scan"])
def test_the_mixed_rungs_give_maxtexts_logits_too(name: str, middle: Stage) -> None:
    check(name, middle, "b")


@pytest.mark.parametrize("which", ["a", "b"])
def test_sorted_tokens_give_maxtexts_logits_as_all_experts_do(which: str, wing: Stage) -> None:
    assert not runtime("mixtral_linen_scan", wing).cfg.moe.sparse_matmul
    check("mixtral_linen_scan", wing, which, "sparse_matmul=true")


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_gradients_are_maxtexts(name: str, stage: Stage) -> None:
    off = {path: far for path, far in gradients(name, stage).items() if max(far) > GRADIENTS}
    assert not off


def test_without_the_bfloat16_table_tied_logits_are_not_maxtexts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control: the rounding that MaxText applies to tied tables is seen by the witness."""

    def attend(owner: Any, cfg: embed.Embed, x: Any) -> Any:
        return jnp.einsum("bld,vd->blv", x, owner.embedding[...])

    helpers.runtime.cache_clear()
    monkeypatch.setattr(embed, "attend", attend)
    name = "gpt3_linen_scan"
    rt = runtime(name, Stage.NNX)
    got = rt.logits(helpers.only(rt, params(name)), batch(name, "a"))
    with np.load(reference(name)) as wanted:
        assert 5e-3 < np.abs(got - wanted["a_logits"]).max() < 5e-2
    helpers.runtime.cache_clear()


@pytest.mark.parametrize("leaf", ["decoder/layers/mlp/wo/kernel", "decoder/decoder_norm/scale"])
def test_a_thousandth_in_one_weight_is_seen(leaf: str) -> None:
    """Negative control: the tolerance on logits is tight enough to tell one changed element."""
    name = "llama2_linen_scan"
    rt = runtime(name, Stage.LINEN)
    changed = {path: value.copy() for path, value in params(name).items()}
    changed[leaf].flat[0] += 1e-3
    got = rt.logits(helpers.only(rt, changed), batch(name, "a"))
    with np.load(reference(name)) as wanted:
        assert np.abs(got - wanted["a_logits"]).max() > 2 * LOGITS


def resume(name: str, stage: Stage, state: dict[str, np.ndarray]) -> list[dict[str, float]]:
    rt = runtime(name, stage)
    metrics, last = helpers.train(rt, rt.leaves(state), [batch(name, "a")] * 3)
    assert int(last["step"]) == 13
    if stage is Stage.NNX:
        # Adam magnifies rounding where the gradient is zero in exact arithmetic (biases of keys).
        for path, norm in resumed(name)["param_l2_after_step_12"].items():
            assert np.linalg.norm(last[f"params/{path}"]) == pytest.approx(norm, rel=1e-4), path
    return metrics


def resumed(name: str) -> dict[str, Any]:
    """What MaxText measured when it resumed."""
    return json.loads((helpers.MAXTEXT / name / "resume.json").read_text())


@pytest.mark.parametrize("name", RESUMED)
def test_a_full_resume_goes_on_as_maxtext_does(name: str, wing: Stage) -> None:
    for got, wanted in zip(resume(name, wing, restored(name)), resumed(name)["steps"], strict=True):
        assert abs(got["loss"] - wanted["loss"]) <= LOSS
        assert got["learning_rate"] == pytest.approx(wanted["learning_rate"], rel=1e-6)
        assert got["raw_grad_norm"] == pytest.approx(wanted["raw_grad_norm"], rel=2e-5)
        assert got["param_norm"] == pytest.approx(wanted["param_norm"], rel=1e-6)


@pytest.mark.parametrize("name", ["llama2_linen_scan", "gpt3_linen_scan", "llama2_muon_linen_scan"])
def test_without_the_moments_a_resume_goes_elsewhere(name: str) -> None:
    """Negative control: losing the first moments shows in the losses."""
    lost = {
        path: np.zeros_like(leaf) if "/mu/" in path else leaf
        for path, leaf in restored(name).items()
    }
    assert any("/mu/" in path for path in lost)
    got = resume(name, Stage.LINEN, lost)[-1]["loss"]
    assert abs(got - resumed(name)["steps"][-1]["loss"]) > 10 * LOSS
