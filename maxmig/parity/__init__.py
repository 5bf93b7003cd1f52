"""Parity: do two backends compute the same? `run` compares, `html.write` shows.

report = parity.run(cfg, control=Stage.LINEN, candidate=Stage.NNX, checkpoint="out/checkpoints")
if not report:
    print(report.summary)
parity.html.write(report, "parity.html")
"""

from typing import Any

from maxmig.parity import faults
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.findings.measurement import Extreme, Measurement
from maxmig.parity.findings.policy import Policy
from maxmig.parity.findings.subject import Coverage
from maxmig.parity.pages import folder, html
from maxmig.parity.reports.report import Report
from maxmig.parity.rungs.engine import run

__all__ = [
    "Check",
    "Coverage",
    "Extreme",
    "Measurement",
    "Pair",
    "Policy",
    "Report",
    "Verdict",
    "faults",
    "folder",
    "html",
    "run",
]


def __getattr__(name: str) -> Any:
    # A pair holds modules of both frameworks, which nobody else should have to import.
    if name != "Pair":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from maxmig.parity.pairs import Pair

    return Pair
