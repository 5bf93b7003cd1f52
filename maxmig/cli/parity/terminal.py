"""A parity report on the terminal: what ran, level by level, and where to look first."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from maxmig.cli import console

if TYPE_CHECKING:
    from maxmig.parity import Report
    from maxmig.parity.findings.check import Check

_WIDTH = 13


def show(report: "Report") -> None:
    """Prints it; the verdict is the last line."""
    for name, text in _subject(report):
        console.out(f"{name:<{_WIDTH}} {text}")
    if report.checks:
        rows = [_row(check) for check in report.checks]
        if report.performance is not None:
            rows.append(_row(report.performance))
        console.out(console.table(("level", "check", "verdict", "found"), rows))
    for name, text in _remarks(report):
        console.out(f"{name:<{_WIDTH}} {text}")
    verdict = report.verdict.value
    console.out(console.status(verdict), report.summary)


def _subject(report: "Report") -> Iterator[tuple[str, str]]:
    from maxmig.parity.findings import words

    for name, side in (("control", report.control), ("candidate", report.candidate)):
        modules = ", ".join(side.modules)
        yield name, f"{side.proved:<16} proved from {side.state}; {modules}"
    s = report.subject
    yield "model", f"{s.model}, {s.parameters:,} parameters; {s.dtypes['dtype']}, {s.devices}"
    if report.origin:
        o = report.origin
        hashed = f", sha256 {report.checkpoint_hash[:12]}" if report.checkpoint_hash else ""
        step = f"{'stored ' if o.notes else ''}step {o.step}"  # a checkpoint's folder has another
        yield "weights", f"{o.source}, {step}, optimizer state {o.optimizer}{hashed}"
    before = ""
    for i in report.inputs:
        text = f"{i.rows} x {i.length}"
        if i.targets:  # a batch of language, no pair's own arrays
            text += f", {words.counted(i.segments, 'segment')}, {i.padding} padding"
        text += f"; {i.source}"
        yield f"{i.name} batch", "the same" if text == before else text
        before = text
    yield "policy", report.policy.text


def _row(check: "Check") -> tuple[Any, ...]:
    from maxmig.parity.findings import words
    from maxmig.parity.findings.check import Verdict
    from maxmig.parity.reports.wording import bare, describe, mapped, needs

    verdict: Any = console.status(check.verdict.value) if check.gates else "reported"
    if check.concluded is not None:
        return check.code, check.name, verdict, bare(check, check.told or check.reason)
    arrays, numbers = (check.arrays, "array"), (check.elements, "number")
    amount = f"{words.counted(*arrays)}, {words.counted(*numbers)}: "
    if check.verdict is Verdict.FAIL:
        return check.code, check.name, verdict, describe(check)
    if check.verdict is Verdict.INCONCLUSIVE:
        return check.code, check.name, verdict, check.reason
    if mapped(check):
        return check.code, check.name, verdict, check.told
    remark = f"; {check.told}" if check.told else ""
    return check.code, check.name, verdict, amount + needs(check) + _error(check) + remark


def _error(check: "Check") -> str:
    """The control's own error against float64, where that is known."""
    errors = [m.truth.control for m in check.measurements if m.truth]
    return f"; each at most {max(errors):.1e} from float64" if errors else ""


def _remarks(report: "Report") -> Iterator[tuple[str, str]]:
    from maxmig.parity.findings.check import Verdict

    parts = (_coverage(report), _difference(report))
    failed = report.verdict is Verdict.FAIL  # then what differs comes first
    for part in reversed(parts) if failed else parts:
        yield from part


def _coverage(report: "Report") -> Iterator[tuple[str, str]]:
    from maxmig.parity.findings import words

    c = report.coverage
    if c.parameters:
        longest = max((i.length for i in report.inputs), default=0)
        yield "coverage", f"{c.gradients}/{c.parameters} gradients; longest row {longest} tokens"
    listed = (
        ("zero gradients on both sides", c.zero_gradients),
        ("zero outputs on both sides", c.zero_outputs),
        ("parameters that no step moved", c.unmoved),
        ("not run", c.skipped),
    )
    for title, paths in listed:
        if paths:
            yield "", f"{title} ({len(paths)}): {', '.join(paths)}"
    if report.origin and (paths := report.origin.nudged):  # all of them are in run.json
        yield "", f"constants that got seeded noise ({len(paths)}): {words.few(paths)}"
    for note in report.notes:
        yield "note", note


def _difference(report: "Report") -> Iterator[tuple[str, str]]:
    from maxmig.parity.reports.told import parting, tabled

    first = parting(report)
    if first is not None:
        fine = "; no failure, the values agree" if report else ""
        yield "first", f"{first.path or 'unnamed'}: {', '.join(first.differences)}{fine}"
        yield "", f"control   {first.control or 'has nothing like it'}"
        yield "", f"candidate {first.candidate or 'has nothing like it'}"
    if report.first_failure or len(report.reasons) > 1:
        for reason in report.reasons:
            if reason not in tabled(report):
                yield "difference", reason
    for code in report.codes[:3]:
        yield "see", f"maxmig parity explain {code}"
