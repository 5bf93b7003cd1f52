"""What is made of the measurements: order of the calls, intervals, verdicts."""

import collections
import dataclasses

import numpy as np
import pytest

from maxmig import errors
from maxmig.benchmarks import programs, results, timing
from maxmig.benchmarks.probe import Probe
from maxmig.benchmarks.results import CaseResult, Growth


def fake(name: str, calls: list[str]) -> programs.Program:
    def step(state: int, batch: object) -> tuple[int, dict[str, int]]:
        calls.append(name)
        return state + 1, {}

    return programs.Program(step, 0, {})


def test_every_order_comes_up_equally_often():
    calls: list[str] = []
    ticks: list[None] = []
    built = {name: fake(name, calls) for name in "abc"}
    samples = timing.interleave(built, 12, lambda: ticks.append(None))
    assert {len(s) for s in samples.values()} == {12} and len(ticks) == 12
    timed = calls[3 * timing.WARM_UP :]
    rounds = collections.Counter(tuple(timed[i : i + 3]) for i in range(0, len(timed), 3))
    assert len(rounds) == 6 and set(rounds.values()) == {2}
    assert all(program.state == 12 + timing.WARM_UP for program in built.values())


def test_the_interval_holds_the_true_median_19_times_of_20():
    rng = np.random.default_rng(0)
    found = [timing.estimate(list(rng.lognormal(size=25))) for _ in range(2000)]
    inside = np.mean([e.low <= 1.0 <= e.high for e in found])
    assert 0.94 <= inside <= 0.985
    assert timing.estimate([2.0]) == timing.Estimate(2.0, 2.0, 2.0)


def test_ratios_are_taken_round_by_round():
    drift = [1.0, 2.0, 4.0, 8.0]
    assert timing.ratio([1.1 * x for x in drift], drift).median == pytest.approx(1.1)


def case(
    nnx: float = 1.0, pure: float = 1.0, *, name: str = "medium", steps: int = 25
) -> CaseResult:
    def samples(factor: float, dispatch: float) -> timing.Samples:
        noise = np.linspace(0.999, 1.001, steps)
        return timing.Samples(
            step=list(factor * noise), dispatch=[dispatch] * steps, cpu=list(factor * noise)
        )

    times = {"linen": (1.0, 2e-3), "nnx": (nnx, 2.1e-3), "pure": (pure, 1.9e-3)}
    probe = Probe(0.1, 0.2, 3.0, 3.3, 1000, 5000)
    return CaseResult(
        name,
        {candidate: samples(*values) for candidate, values in times.items()},
        {candidate: [probe, dataclasses.replace(probe, cpu=4.0)] for candidate in times},
    )


def verdicts(result: CaseResult) -> dict[str, str]:
    return {j.what: j.verdict for j in results.judge([result], [])}


def test_targets():
    assert set(verdicts(case()).values()) == {"PASS"}
    assert verdicts(case(nnx=1.03))["step time, nnx / linen"] == "FAIL"
    assert verdicts(case(nnx=0.97))["step time, nnx / linen"] == "FAIL"
    assert verdicts(case(pure=0.95))["step time, linen / pure"] == "FAIL"
    assert "step time, linen / pure" not in verdicts(case(name="tiny"))
    assert verdicts(case(nnx=1.03, steps=19))["step time, nnx / linen"] == "SKIP"
    slow = case()
    slow.samples["nnx"].dispatch[:] = [2.3e-3] * 25
    assert verdicts(slow)["host dispatch, nnx - pure"] == "FAIL"
    assert verdicts(slow)["host dispatch, linen - pure"] == "PASS"


def test_noise_is_no_failure():
    noisy = case()
    noisy.samples["nnx"].step[:] = list(np.linspace(0.8, 1.26, 25))
    assert verdicts(noisy)["step time, nnx / linen"] == "INCONCLUSIVE"


def test_compilation_and_memory():
    heavy = Probe(0.1, 0.2, 3.5, 3.8, 1030, 5000)
    result = dataclasses.replace(case(), probes=case().probes | {"nnx": [heavy] * 2})
    assert verdicts(result)["compile time, nnx / linen"] == "FAIL"
    assert verdicts(result)["program memory, nnx / linen"] == "FAIL"
    assert verdicts(result)["process memory, nnx / linen"] == "PASS"
    peaks = [dataclasses.replace(heavy, process_bytes=size) for size in (5200, 5050)]
    result = dataclasses.replace(case(), probes=case().probes | {"nnx": peaks})
    assert verdicts(result)["process memory, nnx / linen"] == "INCONCLUSIVE"
    growths = [
        Growth("linen", True, {2: 5.0, 8: 5.1, 32: 5.2}),
        Growth("nnx", True, {2: 5.0, 8: 6.0, 32: 9.0}),
        Growth("linen", False, {2: 5.0, 8: 20.0, 32: 80.0}),
    ]
    assert [j.verdict for j in results.judge([], growths)] == ["PASS", "FAIL"]


def test_unknown_cases_are_named():
    with pytest.raises(errors.ConfigError, match="huge is not one of medium, tiny"):
        programs.cases(["tiny", "huge"], [], [])
    (only,) = programs.cases(["tiny"], ["some/where.yml"], ["steps=3"])
    assert only == programs.Case("where", "some/where.yml", ("steps=3",))
