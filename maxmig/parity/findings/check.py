"""All measurements of one kind under one verdict, or the finding of a level without arrays."""

import dataclasses
import enum
import math
from typing import Any

from maxmig import errors
from maxmig.parity.findings.measurement import Extreme, Measurement

# The level of a check, by name, and its number; the settings come before all levels.
LEVELS = {
    "settings": "--",
    "static": "L0",
    "semantic": "L1",
    "native": "L2",
    "behaviour": "L3",
    "performance": "perf",
}


class Verdict(enum.Enum):
    """PASS, FAIL, or INCONCLUSIVE: too little was compared to say either."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        """What a process that found this returns."""
        return {
            Verdict.PASS: 0,
            Verdict.FAIL: errors.DifferenceError.exit_code,
            Verdict.INCONCLUSIVE: errors.InconclusiveError.exit_code,
        }[self]


@dataclasses.dataclass(frozen=True)
class Check:
    """All measurements of one kind, and what they must keep; or a finding of another level.

    Attributes:
        name: `logits`, `gradients`, ...
        title: what was compared, in words.
        measurements: in the order in which they were computed.
        limit: the largest relative L2 difference that passes; None asks for the same bits.
        may_be_zero: zeros alone are evidence, as for settings and counters.
        doubt: why passing would prove nothing.
        level: which kind of evidence, one of `LEVELS`: `native` is real arrays of the real type.
        concluded: the verdict of a check that has no measurements, such as a proof.
        told: what such a check found, in a line; for others a remark.
        details: what the report shows of it: a proof, a divergence, curves.
        gates: whether it has a say in the verdict; otherwise it is only reported.
        seconds: how long it took, where that was measured.
    """

    name: str
    title: str
    measurements: tuple[Measurement, ...] = ()
    limit: float | None = None
    may_be_zero: bool = False
    doubt: str = ""
    level: str = "native"
    concluded: Verdict | None = None
    told: str = ""
    details: Any = None
    gates: bool = True
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.verdict is Verdict.PASS

    @property
    def code(self) -> str:
        """The number of its level: L0 to L3."""
        return LEVELS[self.level]

    @property
    def verdict(self) -> Verdict:
        """FAIL if anything differs; INCONCLUSIVE if nothing (but zeros) was compared."""
        if self.failures or self.concluded is Verdict.FAIL:
            return Verdict.FAIL
        if self.reason:
            return Verdict.INCONCLUSIVE
        return self.concluded or Verdict.PASS

    @property
    def reason(self) -> str:
        """Why the check is inconclusive, if nothing failed; empty when it is not."""
        if self.concluded is not None:
            inconclusive = self.concluded is Verdict.INCONCLUSIVE
            return self.doubt or (self.told if inconclusive else "")
        if not any(m.elements for m in self.measurements):
            return "nothing was compared"
        if not self.may_be_zero and all(m.zero for m in self.measurements):
            return "only zeros were compared"
        return self.doubt

    @property
    def failures(self) -> tuple[Measurement, ...]:
        """The measurements that do not pass."""
        return tuple(m for m in self.measurements if not m.within(self.limit))

    @property
    def exact(self) -> bool:
        """Whether all is equal bit for bit."""
        return bool(self.measurements) and all(m.exact for m in self.measurements)

    @property
    def arrays(self) -> int:
        """How many arrays were compared."""
        return len(self.measurements)

    @property
    def elements(self) -> int:
        """How many numbers were compared."""
        return sum(m.elements for m in self.measurements)

    @property
    def differing(self) -> int:
        """How many numbers have other bits."""
        return sum(m.differing for m in self.measurements)

    @property
    def max_abs(self) -> Extreme | None:
        """The largest absolute difference of all; None where there is none."""
        return _largest(m.max_abs for m in self.measurements)

    @property
    def max_rel(self) -> Extreme | None:
        """The largest relative difference of all; None where there is none."""
        return _largest(m.max_rel for m in self.measurements)

    @property
    def needed(self) -> float:
        """The smallest limit that would have passed; infinite where none would."""
        return max((m.needed for m in self.measurements), default=math.inf)

    @property
    def triangulated(self) -> bool:
        """Whether what differs was held against the float64 truth."""
        differing = [m for m in self.measurements if not m.exact and not m.problem]
        return bool(differing) and all(m.truth is not None for m in differing)

    @property
    def ratio(self) -> float:
        """The largest error ratio: the factor c that would have passed; 1 where all is equal."""
        return max((m.truth.ratio for m in self.measurements if m.truth), default=1.0)

    @property
    def worst(self) -> Measurement | None:
        """What to look at first: of the first item with a failure, the failure that is largest."""
        failures = self.failures or tuple(m for m in self.measurements if not m.exact)
        here = [m for m in failures if m.item == failures[0].item]
        return max(here, key=lambda m: (m.needed, m.rel_l2), default=None)

    @property
    def items(self) -> dict[str, "Check"]:
        """The check of each batch or step alone."""
        found: dict[str, list[Measurement]] = {}
        for m in self.measurements:
            found.setdefault(m.item, []).append(m)
        return {
            item: dataclasses.replace(self, measurements=tuple(ms)) for item, ms in found.items()
        }


def _largest(extremes: object) -> Extreme | None:
    found = [e for e in extremes if isinstance(e, Extreme)]  # type: ignore[attr-defined]
    return max(found, key=lambda e: e.value, default=None)
