"""All that a run measured, and the targets that it is judged by."""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from maxmig.benchmarks import programs, timing
from maxmig.benchmarks.probe import Probe
from maxmig.benchmarks.timing import Estimate, Samples

# Fewer steps are shown, but not judged.
ENOUGH_STEPS = 20
_LINEN, _NNX, _PURE = programs.CANDIDATES


@dataclasses.dataclass(frozen=True)
class CaseResult:
    """One case: samples and probes by candidate."""

    name: str
    samples: Mapping[str, Samples]
    probes: Mapping[str, Sequence[Probe]]

    def compile_seconds(self, candidate: str) -> float:
        """The shortest of all repetitions: whatever else the machine does only lengthens them."""
        return min(probe.total for probe in self.probes[candidate])

    def compile_cpu(self, candidate: str) -> float:
        """Processor seconds, the least of all repetitions; compile times are judged by these."""
        return min(probe.cpu for probe in self.probes[candidate])

    def program_bytes(self, candidate: str) -> int | None:
        """Peak memory of the program, the same in all repetitions."""
        return self.probes[candidate][0].program_bytes

    def process_bytes(self, candidate: str) -> float | None:
        """Median peak of the process."""
        sizes = [p.process_bytes for p in self.probes[candidate] if p.process_bytes is not None]
        return statistics.median(sizes) if sizes else None


@dataclasses.dataclass(frozen=True)
class Growth:
    """Processor seconds to compile (least of the repetitions) by number of layers."""

    candidate: str
    scan: bool
    seconds: Mapping[int, float]

    @property
    def ratio(self) -> float:
        """Deepest over shallowest."""
        return self.seconds[max(self.seconds)] / self.seconds[min(self.seconds)]


@dataclasses.dataclass(frozen=True)
class Judged:
    """A number beside its target.

    Attributes:
        what, case: what was measured, and where.
        value: the number with its interval; a single measurement has none.
        low, high: the target; None where there is no bound.
        unit: "" for a ratio.
    """

    what: str
    case: str
    value: Estimate
    low: float | None
    high: float
    unit: str = ""
    enough: bool = True

    @property
    def verdict(self) -> str:
        """PASS; FAIL: outside with the whole interval; INCONCLUSIVE: outside, maybe by noise."""
        if not self.enough:
            return "SKIP"
        floor = float("-inf") if self.low is None else self.low
        if floor <= self.value.median <= self.high:
            return "PASS"
        apart = self.value.low > self.high or self.value.high < floor
        return "FAIL" if apart else "INCONCLUSIVE"


def judge(cases: Sequence[CaseResult], growths: Sequence[Growth]) -> list[Judged]:
    """Every target whose numbers were measured, in the order of the cases."""
    found = [judged for case in cases for judged in _judge_case(case)]
    for growth in growths:
        if growth.scan:
            few, many = min(growth.seconds), max(growth.seconds)
            what = f"compile time, {many} / {few} layers, {growth.candidate}"
            found.append(Judged(what, "scanned", _exact(growth.ratio), None, 1.1))
    return found


def _judge_case(case: CaseResult) -> Iterator[Judged]:
    samples = case.samples
    enough = all(len(s) >= ENOUGH_STEPS for s in samples.values())
    if _LINEN in samples and _NNX in samples:
        value = timing.ratio(samples[_NNX].step, samples[_LINEN].step)
        yield Judged("step time, nnx / linen", case.name, value, 0.98, 1.02, enough=enough)
    for wing in (_LINEN, _NNX):
        if wing not in samples or _PURE not in samples:
            continue
        if case.name == "medium":
            value = timing.ratio(samples[wing].step, samples[_PURE].step)
            yield Judged(f"step time, {wing} / pure", case.name, value, None, 1.03, enough=enough)
        above = timing.difference(samples[wing].dispatch, samples[_PURE].dispatch)
        above = Estimate(above.median * 1e3, above.low * 1e3, above.high * 1e3)
        what = f"host dispatch, {wing} - pure"
        yield Judged(what, case.name, above, None, 0.3, "ms", enough=enough)
    if _LINEN in case.probes and _NNX in case.probes:
        yield from _judge_probes(case)


def _judge_probes(case: CaseResult) -> Iterator[Judged]:
    seconds = case.compile_cpu(_NNX) / case.compile_cpu(_LINEN)
    yield Judged("compile time, nnx / linen", case.name, _exact(seconds), None, 1.1)
    size, base = case.program_bytes(_NNX), case.program_bytes(_LINEN)
    if size and base:
        yield Judged("program memory, nnx / linen", case.name, _exact(size / base), None, 1.02)
    # XLA compiles in several threads, so peaks differ by a few per cent from process to process.
    peaks = [
        nnx.process_bytes / linen.process_bytes
        for linen, nnx in zip(case.probes[_LINEN], case.probes[_NNX], strict=True)
        if linen.process_bytes and nnx.process_bytes
    ]
    if peaks:
        value = timing.estimate(peaks)
        yield Judged("process memory, nnx / linen", case.name, value, None, 1.02)


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def document(case: CaseResult) -> dict[str, Any]:
    """A case for --json: medians and every ratio to Linen and to the baseline."""
    found: dict[str, Any] = {}
    for name, samples in case.samples.items():
        entry: dict[str, Any] = {
            "steps": len(samples),
            "step_ms": statistics.median(samples.step) * 1e3,
            "dispatch_ms": statistics.median(samples.dispatch) * 1e3,
            "cpu_ms": statistics.median(samples.cpu) * 1e3,
        }
        for other in (_LINEN, _PURE):
            if other in case.samples and other != name:
                base = case.samples[other]
                entry[f"step_over_{other}"] = timing.ratio(samples.step, base.step)
                entry[f"cpu_over_{other}"] = timing.ratio(samples.cpu, base.cpu)
        if name in case.probes:
            entry["compile_seconds"] = case.compile_seconds(name)
            entry["compile_cpu_seconds"] = case.compile_cpu(name)
            entry["program_bytes"] = case.program_bytes(name)
            entry["process_bytes"] = case.process_bytes(name)
            entry["probes"] = list(case.probes[name])
        found[name] = entry
    return found
