"""Parity: do two backends compute the same? `run` compares, `html.write` shows.

report = parity.run(cfg, control=Stage.LINEN, candidate=Stage.NNX, checkpoint="out/checkpoints")
if not report:
    print(report.summary)
parity.html.write(report, "parity.html")
"""

from maxmig.parity import faults, html
from maxmig.parity.engine import run
from maxmig.parity.policy import Policy
from maxmig.parity.report import Report
from maxmig.parity.results import Check, Coverage, Extreme, Measurement, Verdict

__all__ = [
    "Check",
    "Coverage",
    "Extreme",
    "Measurement",
    "Policy",
    "Report",
    "Verdict",
    "faults",
    "html",
    "run",
]
