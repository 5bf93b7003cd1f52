"""The report as Markdown, short enough for a pull request's comment."""

from typing import TYPE_CHECKING

from maxmig.parity.reports import told

if TYPE_CHECKING:
    from maxmig.parity.reports.report import Report

_SYMBOLS = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "⚠️"}
_MOST_REASONS = 10


def render(report: "Report") -> str:
    """The comment as text."""
    verdict = report.verdict.value
    s = report.subject
    lines = [
        f"## {_SYMBOLS[verdict]} Parity {verdict}: "
        f"{report.control.proved} against {report.candidate.proved}",
        "",
        f"{_cell(report.summary)}.",
        "",
        f"`{s.config}`: {s.model}, {s.parameters:,} parameters; "
        f"{', '.join(sorted(set(s.dtypes.values())))}; {s.devices}.",
        "",
        "| level | verdict | found |",
        "|---|---|---|",
    ]
    lines += [
        f"| {p.code} {p.level} | {_SYMBOLS[p.verdict.value]} {p.verdict.value} | {_cell(p.told)} |"
        for p in report.by_level
    ]
    if report.performance is not None:
        lines.append(f"| performance | | {_cell(report.performance.told)} |")
    lines.append("")
    lines += _divergence(report)
    above = (report.summary, *(part.told for part in report.by_level))
    reasons = [reason for reason in report.reasons if not any(reason in text for text in above)]
    if reasons:
        lines += ["**Why**" if len(reasons) == len(report.reasons) else "**Also**", ""]
        lines += [f"- {_cell(reason)}" for reason in reasons[:_MOST_REASONS]]
        if len(reasons) > _MOST_REASONS:
            lines.append(f"- and {len(reasons) - _MOST_REASONS} more")
        lines.append("")
    if report.codes:
        told = ", ".join(f"`maxmig parity explain {code}`" for code in report.codes)
        lines += [f"Likely causes: {told}", ""]
    for note in report.notes:
        lines += [f"> {_cell(note)}", ""]
    if report.command:
        lines += ["```console", f"$ {report.command}", "```", ""]
    versions = ", ".join(f"{k} {v}" for k, v in report.environment.items())
    lines.append(f"<sub>{report.made}, {report.seconds:.0f} s; {versions}</sub>")
    return "\n".join(lines) + "\n"


def _divergence(report: "Report") -> list[str]:
    first = told.parting(report)
    if first is None:
        return []
    fine = ": no failure, the values agree" if report else ""
    lines = [f"**First difference**{f' in `{first.path}`' if first.path else ''}{fine}", ""]
    for name, equation in (("control", first.control), ("candidate", first.candidate)):
        lines.append(f"- {name}: {_cell(str(equation)) if equation else 'nothing like it'}")
    if first.differences:
        lines.append(f"- differs in: {_cell(', '.join(first.differences))}")
    return [*lines, ""]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
