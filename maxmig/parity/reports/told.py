"""What all renderings of a report leave out, because it is told elsewhere or is no failure."""

from maxmig.parity.reports.report import Report
from maxmig.parity.reports.wording import describe, titled
from maxmig.parity.static.results import Divergence


def tabled(report: Report) -> set[str]:
    """Those of the reasons that a table of all checks has told already."""
    return {
        titled(check, text) for check in report.gating for text in (describe(check), check.reason)
    }


def parting(report: Report) -> Divergence | None:
    """Where the sides first differ; None where all agrees and the difference is a known one."""
    from maxmig.parity.findings import known  # asks Flax for its version

    first = report.divergence
    if first is not None and report and known.of_divergences([first]):
        return None
    return first
