"""Constants that one side rounds to a coarse type and the other does not: no fault of the latter.

`0.7978846 * x` in bfloat16 is 0.796875 * x. Float64 keeps the 0.796875 of the side that rounded it,
so that a candidate which is nearer to what was meant looks wrong there.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.findings.measurement import SIDES
from maxmig.parity.static.results import Divergence

_COARSE = {"bfloat16": 2.0**-8, "float16": 2.0**-11}


def settled(checks: Sequence[Check]) -> list[Check]:
    """The checks, where a failure in float64 is in doubt.

    It is where the sides part at such a constant, by no more than one rounding of that type, and no
    check of real arrays fails.
    """
    native = [check for check in checks if check.level == "native"]
    if not native or any(check.verdict is Verdict.FAIL for check in native):
        return list(checks)
    found = [rounded(d) for check in checks for d in _divergences(check)]
    told, unit = next((pair for pair in found if pair[0]), ("", 0.0))
    return [_settled(check, told, unit) for check in checks] if told else list(checks)


def _divergences(check: Check) -> list[Divergence]:
    first = getattr(check.details, "first", None)
    return [*getattr(check.details, "divergences", ()), *filter(None, [_of(first)])]


def _of(first: Any) -> Divergence | None:
    return first if isinstance(first, Divergence) else getattr(first, "divergence", None)


def _settled(check: Check, told: str, unit: float) -> Check:
    found = check.details
    if check.level != "semantic" or check.verdict is not Verdict.FAIL or found.missing:
        return check
    worst = max((math.inf if e.problem else e.relative for e in found.failures), default=math.inf)
    if worst > unit:
        return check
    told = f"{told}; float64 keeps the difference, at most {worst:.1e} here, and real arrays agree"
    return dataclasses.replace(check, concluded=Verdict.INCONCLUSIVE, told=told, doubt=told)


def rounded(divergence: Divergence) -> tuple[str, float]:
    """The constants of two equations that differ by a rounding of one side, and its unit.

    Empty if the equations differ in another number, or in something else than numbers and types.
    """
    sides = divergence.control, divergence.candidate
    if sides[0] is None or sides[1] is None or sides[0].primitive != sides[1].primitive:
        return "", 0.0
    pairs = list(zip(sides[0].constants, sides[1].constants, strict=False))
    apart = [pair for pair in pairs if pair[0] != pair[1]]
    if not apart or len(sides[0].constants) != len(sides[1].constants):
        return "", 0.0
    for at, name in enumerate(SIDES):
        dtype = sides[at].dtype  # type: ignore[union-attr]
        if dtype in _COARSE and all(_is_rounded(p[at], p[1 - at], dtype) for p in apart):
            one, two = apart[0][at], apart[0][1 - at]
            line = sides[at].source  # type: ignore[union-attr]
            return (
                f"only the {name} rounds a constant: {one} is {two} in {dtype} ({line})",
                _COARSE[dtype],
            )
    return "", 0.0


def _is_rounded(one: str, two: str, dtype: str) -> bool:
    """Whether `one` is `two` in a coarse type."""
    try:
        exact = np.float64(two)
        return float(one) == float(np.asarray(exact).astype(jnp.dtype(dtype)))
    except ValueError:  # an array, True
        return False
