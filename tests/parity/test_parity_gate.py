"""The gate that `parity run` uses: no alarm for another way of writing it, one for every bug.

Both directions: either wing is the one that is trusted, and a bug is in either side.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from maxmig.parity import Verdict
from maxmig.parity.faults import bugs, specimen
from maxmig.parity.findings import policy

BOTH = [("linen", "nnx"), ("nnx", "linen")]
FORWARD = {"levels": ("L0", "L1", "L2"), "only": ("logits",), "steps": 0}


def small(seed: int = 0, **changes: Any) -> Any:
    settings = {"base_num_decoder_layers": 2, "max_target_length": 16, "scan_layers": True}
    settings |= {"init_weights_seed": seed, "data_shuffle_seed": seed}
    return specimen.small(**{**settings, **changes})


def test_float32_in_other_words_is_not_asked_for_the_same_bits(compare: Callable[..., Any]) -> None:
    report = compare(small(), fault=bugs.REWRITE.fault(), **FORWARD)
    assert report, report.summary
    assert report.check("forward", "static").verdict is Verdict.INCONCLUSIVE
    assert report.check("forward", "semantic").verdict is Verdict.PASS
    assert report.policy.text.startswith("written in other words, but the same in float64 (L1)")
    assert not report.check("logits").exact and report.check("logits").triangulated


def test_other_roundings_are_still_asked_for_the_same_bits(compare: Callable[..., Any]) -> None:
    """Float64 cannot see a softmax in bfloat16: a cast is no other words."""
    fault = bugs.named("low-precision-softmax").fault("control")
    report = compare(small(), fault=fault, **FORWARD)
    assert report.check("forward", "semantic").verdict is Verdict.PASS
    assert report.verdict is Verdict.FAIL and report.policy.name == policy.BITWISE
    assert report.check("logits").verdict is Verdict.FAIL


def test_free_steps_of_a_rewrite(compare: Callable[..., Any]) -> None:
    """At this seed Adam turned a few tiny gradients on one side alone: once 5.7 times the error."""
    given = {"levels": ("L1", "L2"), "only": ("steps",), "steps": 2, "policy": policy.RATIO}
    fault = bugs.REWRITE.fault()
    report = compare(small(12), control="nnx", candidate="linen", fault=fault, **given)
    assert report, report.summary
    assert report.check("params").ratio < 2


def test_what_free_steps_are_granted() -> None:
    chosen = policy.choose(small(), "cpu", policy.RATIO)
    assert [chosen.spared("params", n) for n in (15, 32, 2048)] == [0, 2, 8]
    assert chosen.spared("gradients", 2048) == chosen.spared("update", 2048) == 0
    assert chosen.factor("moments", 5000, free=True) == 10 and chosen.factor("params", 5000) == 2


# ------------------------------------------------------------------------------------------- slow


@pytest.fixture
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Seeds change numbers alone: nothing is compiled twice."""
    place = tmp_path_factory.mktemp("compiled")
    settings = {"jax_compilation_cache_dir": str(place)}
    settings |= {"jax_persistent_cache_min_compile_time_secs": 0}  # type: ignore[dict-item]
    settings |= {"jax_persistent_cache_min_entry_size_bytes": 0}  # type: ignore[dict-item]
    kept = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield place
    for name, value in kept.items():
        jax.config.update(name, value)


@pytest.mark.slow
@pytest.mark.parametrize("pair", BOTH, ids="-".join)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_alarm_at_any_seed(
    compare: Callable[..., Any], compiled_once: Path, dtype: str, pair: tuple[str, str]
) -> None:
    given = {"control": pair[0], "candidate": pair[1], "levels": ("L1", "L2"), "steps": 3}
    for seed in range(24):
        cfg, fault = small(seed, dtype=dtype), bugs.REWRITE.fault()
        report = compare(cfg, fault=fault, policy=policy.RATIO, **given)
        assert report, f"seed {seed}: {report.summary}"


@pytest.mark.slow
@pytest.mark.parametrize("side", ["control", "candidate"])
@pytest.mark.parametrize("name", [bug.name for bug in bugs.BUGS])
def test_every_bug_is_caught_and_named(
    compare: Callable[..., Any], compiled_once: Path, name: str, side: str
) -> None:
    bug = bugs.named(name)
    only = ("gradients",) if bug.program == "gradients" else ("logits",)
    cfg = small(scan_layers=False, base_num_decoder_layers=3)
    report = compare(cfg, fault=bug.fault(side), **{**FORWARD, "only": only})
    assert report.verdict is Verdict.FAIL
    assert report.check(only[0], "native").verdict is Verdict.FAIL
    proof = report.check(bug.program, "static").details
    first = proof.first
    assert first is not None and first.path.startswith(bug.module)
    equation = first.control if side == "control" else first.candidate
    assert equation is not None and equation.source.rpartition(":")[0] in bug.files
