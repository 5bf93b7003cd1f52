"""The checks of one level, and what they found together."""

import dataclasses

from maxmig.parity.findings import words
from maxmig.parity.findings.check import LEVELS, Check, Verdict
from maxmig.parity.reports.wording import describe, needs, titled

_WORST_FIRST = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)


@dataclasses.dataclass(frozen=True)
class Part:
    """The checks of one level."""

    level: str
    checks: tuple[Check, ...]

    @property
    def code(self) -> str:
        """L0 to L3."""
        return LEVELS[self.level]

    @property
    def verdict(self) -> Verdict:
        """FAIL over INCONCLUSIVE over PASS, of the checks that have a say."""
        found = {check.verdict for check in self.checks if check.gates}
        return next((v for v in _WORST_FIRST if v in found), Verdict.PASS)

    @property
    def told(self) -> str:
        """What was found, in a line."""
        bad = [c for c in self.checks if c.verdict is self.verdict and c.gates]
        if self.verdict is not Verdict.PASS:
            more = f"; also {', '.join(c.name for c in bad[1:])}" if len(bad) > 1 else ""
            return titled(bad[0], describe(bad[0])) + more
        held = [check for check in self.checks if check.concluded is None]
        if not held:
            return _meaning(self.checks)
        arrays = sum(check.arrays for check in held if check.level != "settings")
        if all(check.exact for check in held):
            return f"{words.counted(arrays, 'array')} exactly equal, bit for bit"
        worst = max((c for c in held if not c.exact), key=lambda c: c.ratio)
        return f"{words.counted(arrays, 'array')}; {worst.name}: {needs(worst)}"


def _meaning(checks: tuple[Check, ...]) -> str:
    """What proofs, or comparisons in float64, found together."""
    details = [check.details for check in checks]
    if all(hasattr(d, "proved") for d in details):
        proved = ", ".join(f"{d.program.replace('_', ' ')} {len(d.proved)}" for d in details)
        total = sum(d.outputs for d in details)
        return f"{sum(len(d.proved) for d in details)} of {total} outputs proved equal: {proved}"
    if all(hasattr(d, "errors") for d in details):
        errors = [e for d in details for e in d.errors]
        worst = max((e.relative for e in errors), default=0.0)
        names = ", ".join(d.program.replace("_", " ") for d in details)
        apart = f"at most {worst:.1e} apart" if worst else "exactly equal"
        return f"{words.counted(len(errors), 'output')} in float64 {apart}: {names}"
    return "; ".join(check.told for check in checks)
