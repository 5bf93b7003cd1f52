"""What comparing one array gives, as numbers; nothing here computes on arrays."""

import dataclasses
import math

SIDES = ("control", "candidate")
START = "start"  # the item of what is compared before any batch


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
        return self.factor * self.granted + 2 * self.noise

    @property
    def ratio(self) -> float:
        """The candidate's error over the control's, as it is gated: the factor that would pass."""
        over = max(0.0, self.candidate - 2 * self.noise)
        return over / self.granted if self.granted else (math.inf if over else 1.0)

    @property
    def finer(self) -> bool:
        """The candidate is much more exact than the control: another precision policy."""
        return self.candidate < self.control / 2 and self.control > self.floor

    @property
    def granted(self) -> float:
        """The control's error, or the least that it is granted."""
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
