"""The tables of `maxmig bench`."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from maxmig.benchmarks import programs, timing
from maxmig.benchmarks.results import CaseResult, Growth, Judged
from maxmig.cli import console

_LINEN, _, _PURE = programs.CANDIDATES


def case(result: CaseResult) -> Any:
    """One row a candidate: times, ratios, compile time, memory."""
    others = [name for name in (_LINEN, _PURE) if name in result.samples]
    columns = (
        "",
        "step ms",
        *(f"/ {name}" for name in others),
        "cpu ms",
        *(f"/ {name} (cpu)" for name in others),
        "dispatch ms",
        "compile s",
        "compile cpu s",
        "program MiB",
        "process MiB",
    )
    rows = [[name, *_cells(result, name, others)] for name in result.samples]
    steps = len(next(iter(result.samples.values())))
    title = f"{result.name}: medians of {steps} steps of each, interleaved"
    return console.table(columns, rows, title=title, right=columns[1:])


def _cells(result: CaseResult, name: str, others: Sequence[str]) -> Iterator[str]:
    samples = result.samples[name]
    yield f"{statistics.median(samples.step) * 1e3:.3f}"
    for other in others:
        yield _ratio(samples.step, result.samples[other].step, name == other)
    yield f"{statistics.median(samples.cpu) * 1e3:.3f}"
    for other in others:
        yield _ratio(samples.cpu, result.samples[other].cpu, name == other)
    yield f"{statistics.median(samples.dispatch) * 1e3:.3f}"
    yield f"{result.compile_seconds(name):.2f}"
    yield f"{result.compile_cpu(name):.2f}"
    for size in (result.program_bytes(name), result.process_bytes(name)):
        yield "-" if size is None else f"{size / 2**20:.1f}"


def _ratio(a: list[float], b: list[float], same: bool) -> str:
    return "1" if same else f"{timing.ratio(a, b).median:.3f}"


def growth(results: Sequence[Growth]) -> Any:
    """Processor seconds to compile over the number of layers."""
    layers = sorted({n for result in results for n in result.seconds})
    columns = ("", *(f"{n} layers" for n in layers), f"{layers[-1]} / {layers[0]}")
    rows = [
        (
            f"{result.candidate}, {'scanned' if result.scan else 'unscanned'}",
            *(f"{result.seconds[n]:.2f} s" for n in layers),
            f"{result.ratio:.2f}",
        )
        for result in results
    ]
    return console.table(columns, rows, title="processor time to compile (tiny)", right=columns[1:])


def targets(judged: Sequence[Judged]) -> Any:
    """Each number beside its target."""
    columns = ("", "case", "value", "95 % interval", "target", "verdict")
    rows = [
        (
            j.what,
            j.case,
            _number(j.value.median, j.unit),
            "" if j.value.low == j.value.high else f"{j.value.low:.3f} to {j.value.high:.3f}",
            f"{j.low} to {j.high}" if j.low is not None else f"at most {_number(j.high, j.unit)}",
            console.status(j.verdict),
        )
        for j in judged
    ]
    return console.table(columns, rows, title="targets", right=("value", "95 % interval"))


def machine(facts: dict[str, Any]) -> str:
    """One line about where this ran."""
    versions = ", ".join(f"{name} {facts[name]}" for name in ("python", "jax", "flax", "optax"))
    load = " ".join(map(str, facts["load"]))
    text = (
        f"{facts['processor']}, {facts['cores']} cores, {facts['device']}; {versions}; load {load}"
    )
    return text if facts["optimised"] else f"{text}; XLA's OPTIMISATIONS ARE OFF"


def _number(value: float, unit: str) -> str:
    return f"{value:.3f} {unit}".rstrip() if unit else f"{value:.3f}"
