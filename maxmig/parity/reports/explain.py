"""From what a run found to the entries of the catalogue that explain it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.findings.measurement import Measurement

if TYPE_CHECKING:
    from maxmig.parity.reports.report import Report
    from maxmig.parity.static.results import Divergence

_STATISTICS = ("mean", "var")  # what a BatchNorm keeps


def codes(report: "Report") -> tuple[str, ...]:
    """Codes that fit a report, the likeliest first; none if it passed."""
    if report.verdict is Verdict.PASS:
        return ()
    found = [*_of_doubts(report), *_of_divergence(report.divergence)]
    for check in report.checks:
        if check.verdict is Verdict.FAIL:
            found += _of_check(check)
    if ": cast: " in report.uncovered and report.verdict is Verdict.INCONCLUSIVE:
        found.insert(0, "cast")
    if "noise hides" in report.uncovered and report.verdict is Verdict.INCONCLUSIVE:
        found.append("noise-hides")
    return tuple(dict.fromkeys(found))


def _of_doubts(report: "Report") -> Iterator[str]:
    for doubt in report.doubts:
        if "both sides are" in doubt or "asked for" in doubt:
            yield "wrong-rung"
        if "not deterministic" in doubt:
            yield "nondeterministic"


def _of_divergence(divergence: "Divergence | None") -> Iterator[str]:
    if divergence is None:
        return
    told = " ".join((divergence.path, *divergence.differences)).lower()
    primitives = {e.primitive for e in (divergence.control, divergence.candidate) if e}
    if "dtype" in told or "convert_element_type" in primitives:
        yield "cast"
        if "norm" in told:
            yield "norm-promotion"
    if "norm" in told and "constant" in told and primitives == {"mul"}:
        yield "momentum"  # an epsilon is added
    elif "norm" in told and ("constant" in told or {"add", "rsqrt"} & primitives):
        yield "norm-epsilon"
    if {"cos", "sin"} & primitives or "rope" in told or "rotary" in told:
        yield "rope"
    if {"mul", "div"} == primitives or "sqrt" in told:
        yield "attention-scale"
    if "select_n" in primitives or "mask" in told:
        yield "mask"


def _of_check(check: Check) -> Iterator[str]:
    for m in check.failures:
        yield from _of_measurement(check, m)
    if check.name == "configuration":
        yield "settings"
    if check.name == "masks":
        yield "mask-paths"
    if check.name in ("update", "params", "moments", "counters"):
        yield "optimizer-state"
    if check.name == "start":
        yield "weights"
    if check.name == "decode":
        yield "decode"
    if check.name == "distribution" and "position" in check.told:
        yield "rope"
    if check.name == "restored":
        yield "missing-weights"


def _of_measurement(check: Check, m: Measurement) -> Iterator[str]:
    if "not finite" in m.problem or m.problem.startswith(("nan", "inf", "-inf")):
        yield "not-finite"
    if "exactly zero" in m.problem:
        yield "zero-on-one-side"
        if check.name == "loss":
            yield "lost-loss"
    if "does not have it" in m.problem:
        yield "missing-weights"
    if check.name == "state" and m.path.rpartition("/")[2] in _STATISTICS and not m.problem:
        yield "momentum"
    elif check.name == "state":
        yield "frozen-masks" if m.item == "dropout" else "train-mode"
    if check.name == "gradients" and not m.problem and m.path.endswith("scale"):
        yield "norm-promotion"
