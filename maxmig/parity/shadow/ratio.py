"""The error of each side against the float64 truth, and the rule that judges it."""

import dataclasses
import math

import numpy as np

from maxmig.parity.shadow import lockstep

# How many times the control's error the candidate's may be: 2, and 3 for small leaves, whose error
# is a sum over few elements (measured over 24 seeds of equivalent models: at most 1.3 and 2.4).
LARGE, SMALL, FEW = 2.0, 3.0, 1000


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How far each side is from the truth.

    Attributes:
        control, candidate: ||side - truth|| / ||truth||.
        factor: how many times the control's error the candidate's may be.
        noise: what two runs of the control differ by.
        floor: error that rounding the truth once to the side's type makes.
    """

    control: float
    candidate: float
    factor: float
    noise: float = 0.0
    floor: float = 0.0

    @property
    def value(self) -> float:
        """Candidate's error over control's; infinite where the control alone is exact."""
        base = max(self.control, self.floor)
        if not base:
            return 1.0 if not self.candidate else math.inf
        return self.candidate / base

    @property
    def back(self) -> float:
        """Control's error over candidate's: where it is large, the candidate is more exact."""
        base = max(self.candidate, self.floor)
        if not base:
            return 1.0 if not self.control else math.inf
        return self.control / base

    @property
    def more_exact(self) -> bool:
        """Whether the precision policy seems to have changed for the better: to be reported."""
        return self.back > self.factor

    def __bool__(self) -> bool:
        allowed = self.factor * max(self.control, self.floor) + 2 * self.noise
        return self.candidate <= allowed


def error_against_truth(
    control: np.ndarray,
    candidate: np.ndarray,
    truth: np.ndarray,
    *,
    noise: float = 0.0,
    floor: float | None = None,
) -> Ratio:
    """Triangulation: is the candidate about as near to the truth as the control is?

    Args:
        control, candidate: what the sides computed at their own precision.
        truth: the same in float64.
        noise: relative difference of two runs of the control.
        floor: smallest error to reckon with; by default half a unit in the last place of the
            control's type, which no computation in that type can be expected to beat.
    """
    if floor is None:
        floor = _unit(control) / 4
    ours, theirs = (
        _distance(np.asarray(side, np.float64), np.asarray(truth, np.float64))
        for side in (control, candidate)
    )
    factor = SMALL if truth.size < FEW else LARGE
    return Ratio(ours, theirs, factor, noise, floor)


def _distance(side: np.ndarray, truth: np.ndarray) -> float:
    gap, (norm, true) = lockstep.relative(side, truth)
    return gap * max(norm, true) / true if true and math.isfinite(gap) else gap


def _unit(array: np.ndarray) -> float:
    """Half the distance from 1 to the next number of the array's type."""
    import jax.numpy as jnp

    return float(jnp.finfo(array.dtype).eps) / 2 if jnp.issubdtype(array.dtype, jnp.floating) else 0
