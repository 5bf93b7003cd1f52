"""The report as JUnit XML: a test suite for each level, a test case for each check."""

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from maxmig.parity.findings.check import Check, Verdict

if TYPE_CHECKING:
    from maxmig.parity.reports.report import Report

# Characters that XML 1.0 cannot carry, not even escaped.
_FORBIDDEN = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 65534, 65535), "�")


def render(report: "Report") -> str:
    """The XML as text. What is inconclusive is an error: it must never look like a pass."""
    name = f"maxmig parity {report.control.proved} -> {report.candidate.proved}"
    root = ET.Element("testsuites", name=_clean(name), time=f"{report.seconds:.3f}")
    total = {"tests": 0, "failures": 0, "errors": 0}
    for part in report.by_level:
        counts = _suite(root, f"{part.code} {part.level}", part.checks)
        total = {key: total[key] + counts[key] for key in total}
    if report.doubts or report.uncovered:
        told = "; ".join((*report.doubts, *filter(None, [report.uncovered])))
        doubt = Check("verdict", "the run", concluded=Verdict.INCONCLUSIVE, told=told)
        counts = _suite(root, "verdict", (doubt,))
        total = {key: total[key] + counts[key] for key in total}
    for key, value in total.items():
        root.set(key, str(value))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _suite(root: ET.Element, name: str, checks: tuple[Check, ...]) -> dict[str, int]:
    from maxmig.parity.reports.wording import describe

    suite = ET.SubElement(root, "testsuite", name=name)
    counts = {"tests": len(checks), "failures": 0, "errors": 0}
    for check in checks:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"parity.{check.level}",
            name=check.name,
            time=f"{check.seconds:.3f}",
        )
        if not check.gates:
            ET.SubElement(case, "skipped", message="reported, not gated")
        elif check.verdict is Verdict.FAIL:
            counts["failures"] += 1
            ET.SubElement(case, "failure", message=_clean(describe(check)))
        elif check.verdict is Verdict.INCONCLUSIVE:
            counts["errors"] += 1
            message = f"inconclusive: {check.reason}"
            ET.SubElement(case, "error", message=_clean(message))
    for key, value in counts.items():
        suite.set(key, str(value))
    return counts


def _clean(text: str) -> str:
    return text.translate(_FORBIDDEN)
