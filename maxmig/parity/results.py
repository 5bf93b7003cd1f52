"""What a parity run found, as numbers: measurements, checks and the report that holds them.

Nothing here computes on arrays or formats for a reader; every value can be written as JSON.
"""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any

from maxmig import errors

SIDES = ("control", "candidate")
START = "start"  # the item of what is compared before any batch

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
class Extreme:
    """The largest difference of its kind, and where it is."""

    value: float
    item: str
    path: str
    index: tuple[int, ...]
    control: float
    candidate: float

    @property
    def place(self) -> str:
        """The path with the index: `decoder/logits_dense/kernel [3, 17]`."""
        return f"{self.path} {list(self.index)}" if self.index else self.path


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How far both sides are from the float64 truth; all errors are relative L2.

    Attributes:
        control: ||control - truth|| / ||truth||.
        candidate: ||candidate - truth|| / ||truth||.
        factor: how many times the control's error the candidate may have.
        floor: the least error that the control is granted: a unit in the last place of its type.
        noise: how far two runs of the control are from one another.
    """

    control: float
    candidate: float
    factor: float
    floor: float = 0.0
    noise: float = 0.0

    @property
    def limit(self) -> float:
        """The largest error of the candidate that passes."""
        return self.factor * self._granted + 2 * self.noise

    @property
    def ratio(self) -> float:
        """The candidate's error over the control's, as it is gated: the factor that would pass."""
        over = max(0.0, self.candidate - 2 * self.noise)
        return over / self._granted if self._granted else (math.inf if over else 1.0)

    @property
    def finer(self) -> bool:
        """The candidate is much more exact than the control: another precision policy."""
        return self.candidate < self.control / 2 and self.control > self.floor

    @property
    def _granted(self) -> float:
        return max(self.control, self.floor)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One array of the control held against the candidate's.

    Attributes:
        item: which batch or step it belongs to: `start`, `real`, `packed`, `step 1`, ...
        path: the leaf, or the name of the output.
        dtype: its type.
        shape: its shape.
        elements: how many numbers were compared.
        differing: how many of them have other bits.
        max_abs: the largest |control - candidate|.
        max_rel: the largest |control - candidate| / max(|control|, |candidate|), at most 2.
        rel_l2: ||control - candidate|| / max(||control||, ||candidate||); infinite where the sides
            cannot be subtracted.
        zero: both sides are nothing but zeros.
        values: both values of a scalar.
        problem: what no tolerance forgives: NaN, infinity, a leaf that one side does not have,
            zeros on one side only.
        truth: the errors of both sides against float64, where that was needed.
        noise: how far two runs of the control are from one another, relative L2.
    """

    item: str
    path: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    elements: int = 0
    differing: int = 0
    max_abs: Extreme | None = None
    max_rel: Extreme | None = None
    rel_l2: float = 0.0
    zero: bool = False
    values: tuple[float, float] | None = None
    problem: str = ""
    truth: Ratio | None = None
    noise: float = 0.0

    @property
    def exact(self) -> bool:
        """Equal bit for bit."""
        return not self.differing and not self.problem

    @property
    def needed(self) -> float:
        """The smallest limit that would have passed; infinite where none would."""
        return math.inf if self.problem else self.rel_l2

    def within(self, limit: float | None) -> bool:
        """Whether it passes.

        The same bits where `limit` is None; else by the error against the truth where that is
        known, and at most `limit` relative L2 where it is not. What two runs of the control differ
        by is forgiven twice.
        """
        if self.exact or self.problem:
            return not self.problem
        if limit is None:
            return bool(self.noise) and self.needed <= 2 * self.noise
        if self.truth is not None:
            return self.truth.candidate <= self.truth.limit
        return self.needed <= limit + 2 * self.noise


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


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two programs: what was asked for, and what its objects prove that it was."""

    asked: str
    proved: str
    state: str
    modules: Mapping[str, int]
    config_digest: str


@dataclasses.dataclass(frozen=True)
class Subject:
    """What was run on both sides.

    Attributes:
        config: its name.
        config_digest: of all its effective values.
        model: in words.
        parameters: how many numbers it has.
        dtypes: the types that decide the precision.
        devices: how many, of which kind.
        rungs_digest: of the configuration without the three flags, for the card.
        code_digest: of maxmig's own source.
    """

    config: str
    config_digest: str
    model: str
    parameters: int
    dtypes: Mapping[str, str]
    devices: str
    rungs_digest: str = ""
    code_digest: str = ""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the weights of both sides come from.

    Attributes:
        source: the checkpoint's path, or `seed N`.
        step: training steps behind them.
        optimizer: `restored` from the checkpoint, or `fresh`.
        notes: who wrote the checkpoint, and in which layout.
        nudged: leaves that were constant and got noise, so that no bug hides behind a 0 or a 1.
    """

    source: str
    step: int
    optimizer: str
    notes: str = ""
    nudged: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Input:
    """A batch that both sides were given."""

    name: str
    source: str
    rows: int
    length: int
    segments: int
    targets: int
    padding: int


@dataclasses.dataclass(frozen=True)
class Coverage:
    """What the inputs did and did not reach.

    Attributes:
        parameters: how many leaves the model has.
        gradients: how many leaves' gradients were compared.
        zero_gradients: leaves whose gradient is zero on both sides in every batch.
        zero_outputs: other arrays that are zero on both sides, as `check: path`.
        unmoved: leaves that no optimizer step changed.
        skipped: what was not run, with the reason.
    """

    parameters: int = 0
    gradients: int = 0
    zero_gradients: tuple[str, ...] = ()
    zero_outputs: tuple[str, ...] = ()
    unmoved: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Curve:
    """The training loss of both sides, step by step."""

    steps: tuple[int, ...]
    control: tuple[float, ...]
    candidate: tuple[float, ...]


def _largest(extremes: object) -> Extreme | None:
    found = [e for e in extremes if isinstance(e, Extreme)]  # type: ignore[attr-defined]
    return max(found, key=lambda e: e.value, default=None)
