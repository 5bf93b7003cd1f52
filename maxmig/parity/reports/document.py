"""The report as a document that can be written as JSON."""

import dataclasses
from typing import TYPE_CHECKING, Any

from maxmig.parity.findings.check import Check
from maxmig.parity.findings.measurement import Extreme

if TYPE_CHECKING:
    from maxmig.parity.reports.report import Report

SCHEMA_VERSION = 2


def of(report: "Report") -> dict[str, Any]:
    """The report for `--json`: what is equal bit for bit is counted, not listed."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "maxmig.parity.run",
        "command": report.command,
        "verdict": report.verdict.value,
        "exactly_equal": report.exact,
        "summary": report.summary,
        "reasons": report.reasons,
        "notes": report.notes,
        "exit_code": report.exit_code,
        "config": report.subject.config,
        "config_digest": report.subject.config_digest,
        "subject": dataclasses.asdict(report.subject),
        "proofs": {
            "control": dataclasses.asdict(report.control),
            "candidate": dataclasses.asdict(report.candidate),
        },
        "policy": dataclasses.asdict(report.policy),
        "origin": dataclasses.asdict(report.origin) if report.origin else None,
        "inputs": [dataclasses.asdict(i) for i in report.inputs],
        "steps": report.steps,
        "levels": {
            part.level: {"verdict": part.verdict.value, "found": part.told}
            for part in report.by_level
        },
        "only": report.only,
        "detectable": report.detectable,
        "performance": report.performance and _check(report.performance),
        "checkpoint_hash": report.checkpoint_hash,
        "checks": [_check(check) for check in report.checks],
        "curve": dataclasses.asdict(report.curve),
        "coverage": dataclasses.asdict(report.coverage),
        "versions": dict(report.environment),
        "made": report.made,
        "seconds": round(report.seconds, 2),
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "level": check.level,
        "code": check.code,
        "title": check.title,
        "found": check.told,
        "gates": check.gates,
        "details": check.details,
        "error_ratio": check.ratio if check.triangulated else None,
        "verdict": check.verdict.value,
        "reason": check.reason,
        "limit": "bitwise" if check.limit is None else check.limit,
        "exactly_equal": check.exact,
        "arrays": check.arrays,
        "elements": check.elements,
        "differing": check.differing,
        "max_abs": _extreme(check.max_abs),
        "max_rel": _extreme(check.max_rel),
        "passes_at": check.needed,
        "worst": check.worst and dataclasses.asdict(check.worst),
        "items": {
            item: {"verdict": part.verdict.value, "arrays": part.arrays, "passes_at": part.needed}
            for item, part in check.items.items()
        },
        "different": [dataclasses.asdict(m) for m in check.measurements if not m.exact],
    }


def _extreme(extreme: Extreme | None) -> dict[str, Any] | None:
    return dataclasses.asdict(extreme) if extreme else None
