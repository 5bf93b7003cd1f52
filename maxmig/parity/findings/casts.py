"""Conversions to or from a coarse type that one side alone makes: what rounding would hide."""

import math
from collections.abc import Sequence
from typing import Any

from maxmig.parity.findings.check import Check

_COARSE = ("bfloat16", "float16", "float8")


def uneven(checks: Sequence[Check]) -> str:
    """The conversion that leaves a doubt, the largest of a program; empty if there is none.

    Float64 cannot see it, since it is a matter of rounding and not of meaning; and real arrays see
    it only where it is larger than what they are granted. What Flax's own norms and attention
    convert otherwise in NNX is known and no doubt; nor is anything where all arrays have equal
    bits.
    """
    native = [c for c in checks if c.level == "native" and c.concluded is None]
    if native and all(check.exact for check in native):
        return ""
    for check in checks:
        groups: dict[tuple[str, str, int], list[Any]] = {}
        for cast in getattr(check.details, "casts", ()):
            # In another layout it is the same conversion: as many numbers, of the same types.
            key = cast.source_dtype, cast.target_dtype, math.prod(cast.shape)
            groups.setdefault(key, []).append(cast)
        found = [key for key in groups if _coarse(key) and len({*_counts(groups[key])}) > 1]
        if found:
            return f"{check.name}: {_told(groups[max(found, key=lambda key: key[2])])}"
    return ""


def _coarse(key: tuple[str, str, int]) -> bool:
    return any(kind.startswith(_COARSE) for kind in key[:2])


def _counts(casts: Sequence[Any]) -> tuple[int, int]:
    """How often each side makes them, but for what is known."""
    one, two = zip(*(cast.unknown for cast in casts), strict=True)
    return sum(one), sum(two)


def _told(casts: Sequence[Any]) -> str:
    one, two = _counts(casts)
    more = "candidate" if two > one else "control"
    first = casts[0]
    lines = [line for cast in casts for line in cast.lines]
    mine = [line for line in lines if line.startswith(more)]
    where = ", ".join((mine or lines)[:2])
    return (
        f"cast: {first.source_dtype} becomes {first.target_dtype}{list(first.shape)} {_times(two)} "
        f"in the candidate and {_times(one)} in the control{f' ({where})' if where else ''}; "
        "rounding may hide what that changes: write both sides alike, or compare at float32"
    )


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")
