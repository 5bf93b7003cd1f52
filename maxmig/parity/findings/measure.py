"""Holds one array against another."""

from typing import Any

import numpy as np

from maxmig import trees
from maxmig.parity.findings.measurement import SIDES, Extreme, Measurement, Ratio


def compare(item: str, path: str, control: np.ndarray, candidate: np.ndarray) -> Measurement:
    """The measurement of two arrays; see `Measurement` for what each number means."""
    kind, shape = str(control.dtype), control.shape
    if (control.shape, control.dtype) != (candidate.shape, candidate.dtype):
        both = [f"{a.dtype} {list(a.shape)}" for a in (control, candidate)]
        text = f"{both[0]} in the control, {both[1]} in the candidate"
        return missing(item, path, text, elements=control.size)
    unequal = _unequal(control, candidate)
    found = Measurement(
        item,
        path,
        kind,
        shape,
        elements=control.size,
        differing=int(unequal.sum()),
        zero=not (control.any() or candidate.any()),
        values=None if shape else (float(control), float(candidate)),
        problem=_problem(control, candidate),
    )
    if found.differing:
        return _distances(found, control, candidate)
    return found


def missing(item: str, path: str, problem: str, elements: int = 0) -> Measurement:
    """The measurement of arrays that cannot be subtracted."""
    return Measurement(
        item, path, elements=elements, differing=elements, rel_l2=float("inf"), problem=problem
    )


def triangulate(
    found: Measurement,
    control: np.ndarray,
    candidate: np.ndarray,
    truth: np.ndarray,
    *,
    factor: float,
    floor: float,
    spared: int = 0,
) -> Measurement:
    """The measurement with the errors of both sides against the truth.

    Args:
        found: what `compare` found.
        control: the control's array.
        candidate: the candidate's.
        truth: the same in float64.
        factor: how many times the control's error the candidate may have.
        floor: the least error that the control is granted.
        spared: how many numbers, those that are furthest off, do not count on either side.
    """
    size = float(np.linalg.norm(truth))

    def error(array: np.ndarray) -> float:
        gaps = np.abs(array.astype(np.float64) - truth).ravel()
        if spared:
            gaps = np.partition(gaps, gaps.size - spared)[:-spared]
        gap = float(np.linalg.norm(gaps))
        return gap / size if size else gap

    a = error(control)
    b = a if found.exact else error(candidate)
    return Measurement(
        **{**found.__dict__, "truth": Ratio(a, b, factor, floor, found.noise)},
    )


def by_path(measurements: tuple[Measurement, ...]) -> dict[str, tuple[Measurement, ...]]:
    """The measurements of each leaf, in natural order."""
    found: dict[str, list[Measurement]] = {}
    for m in measurements:
        found.setdefault(m.path, []).append(m)
    return {path: tuple(found[path]) for path in trees.sort(found)}


def _unequal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where the bits differ: -0 is not 0, and NaN equals the same NaN."""
    bits = np.dtype(f"u{a.dtype.itemsize}")
    pair = [np.ascontiguousarray(x).reshape(x.shape).view(bits) for x in (a, b)]
    return np.asarray(pair[0] != pair[1])


def _problem(control: np.ndarray, candidate: np.ndarray) -> str:
    bad = {side: ~np.isfinite(x) for side, x in zip(SIDES, (control, candidate), strict=True)}
    sides = [side for side, where in bad.items() if where.any()]
    if sides:
        index = _index(bad[sides[0]])
        value = (control if sides[0] == "control" else candidate)[index]
        count = int(bad[sides[0]].sum())
        at = f"at {list(index)}, {count} of {control.size} not finite"
        return f"{float(value)} in the {' and the '.join(sides)} {at if index else ''}".strip()
    if control.size and control.any() != candidate.any():
        return f"exactly zero in the {'candidate' if control.any() else 'control'} only"
    return ""


def _distances(found: Measurement, control: np.ndarray, candidate: np.ndarray) -> Measurement:
    a, b = control.astype(np.float64), candidate.astype(np.float64)
    usable = np.isfinite(a) & np.isfinite(b)
    gap = np.abs(np.where(usable, a, 0) - np.where(usable, b, 0))
    scale = np.where(usable, np.maximum(np.abs(a), np.abs(b)), 1)
    relative = np.divide(gap, scale, out=np.zeros_like(gap), where=scale > 0)
    norm = float(np.linalg.norm(gap))
    # Scalars and vectors alike; the larger norm, so that zeros on one side give 1 and not infinity.
    size = max(float(np.linalg.norm(np.where(usable, x, 0))) for x in (a, b))

    def extreme(values: np.ndarray) -> Extreme:
        at = np.unravel_index(int(np.argmax(values)), values.shape)
        index = tuple(int(i) for i in at)
        return Extreme(float(values[at]), found.item, found.path, index, float(a[at]), float(b[at]))

    changes: dict[str, Any] = {
        "max_abs": extreme(gap),
        "max_rel": extreme(relative),
        "rel_l2": norm / size if norm else 0.0,
    }
    if not usable.all():
        changes["rel_l2"] = float("inf")
    return Measurement(**{**found.__dict__, **changes})


def _index(where: np.ndarray) -> tuple[int, ...]:
    """The first true place."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape))
