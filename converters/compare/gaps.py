"""How far two arrays are apart: counted bit by bit, measured in units of the last place.

Arrays are taken piece by piece, so a `Gap` grows while a leaf is walked.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maxmig.converters.compare.verdicts import Line, Tolerance
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np

_PIECE = 1 << 18  # elements measured at once: the numbers are widened to float64


@dataclass(frozen=True)
class Gap:
    """What was seen so far of the difference between two arrays.

    Attributes:
        elements: how many numbers were compared.
        differing: how many have other bits.
        max_abs: the largest difference.
        max_rel: the largest difference relative to B's number.
        max_ulp: the largest difference in units of the last place; None where a type has none.
        first: the first index that differs, in row-major order of the whole array.
        beyond: how many are outside of the tolerance.
    """

    elements: int = 0
    differing: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    max_ulp: int | None = 0
    first: tuple[int, ...] | None = None
    beyond: int = 0

    def __add__(self, other: "Gap") -> "Gap":
        ulps = (self.max_ulp, other.max_ulp)
        firsts = [each for each in (self.first, other.first) if each is not None]
        return Gap(
            self.elements + other.elements,
            self.differing + other.differing,
            _worse(self.max_abs, other.max_abs),
            _worse(self.max_rel, other.max_rel),
            None if None in ulps else max(each for each in ulps if each is not None),
            min(firsts, default=None),
            self.beyond + other.beyond,
        )

    def line(self, path: str, tolerance: Tolerance) -> Line:
        """The verdict on a leaf that was walked to its end."""
        if not self.differing:
            return Line("=", path, elements=self.elements)
        line = Line(
            "~" if not tolerance.bitwise and not self.beyond else "*",
            path,
            elements=self.elements,
            differing=self.differing,
            max_abs=self.max_abs,
            max_rel=self.max_rel,
            max_ulp=self.max_ulp,
            first=self.first,
        )
        return dataclasses.replace(line, detail=_detail(line, tolerance))


def gap(a: "np.ndarray", b: "np.ndarray", tolerance: Tolerance, box: Box | None = None) -> Gap:
    """The difference between two arrays of one shape and type.

    Args:
        a: one array.
        b: the other; relative differences are relative to it.
        tolerance: what is still near enough.
        box: which part of the leaf they are; None is all of it. Axes beyond it ride along.
    """
    if same(a, b):
        return Gap(elements=a.size)
    start = [begin for begin, _ in box or ()]
    start += [0] * (a.ndim - len(start))
    found = Gap()
    for offset, one, two in _pieces(a, b):
        if same(one, two):
            found += Gap(elements=one.size)
            continue
        begin = [*start]
        if offset:
            begin[0] += offset
        found += _measured(one, two, tolerance, tuple(begin))
    return found


def same(a: "np.ndarray", b: "np.ndarray") -> bool:
    """Whether two arrays of one shape and type have the same bits."""
    import numpy as np

    return bool(np.array_equal(_words(a), _words(b)))


def _words(array: "np.ndarray") -> "np.ndarray":
    """The bits of an array as unsigned integers; complex numbers as two."""
    import numpy as np

    if array.dtype.kind == "c":
        array = np.ascontiguousarray(array)[..., None].view(array.real.dtype)
    size = array.dtype.itemsize
    return array.view(f"u{size}") if size in (1, 2, 4, 8) else np.ascontiguousarray(array)


def _pieces(a: "np.ndarray", b: "np.ndarray") -> "Iterator[tuple[int, np.ndarray, np.ndarray]]":
    """Runs along the first axis of a size that can be widened, with their first places."""
    if not a.ndim or a.size <= _PIECE:
        yield 0, a, b
        return
    rows = max(1, _PIECE * len(a) // a.size)
    for start in range(0, len(a), rows):
        yield start, a[start : start + rows], b[start : start + rows]


def _measured(
    a: "np.ndarray", b: "np.ndarray", tolerance: Tolerance, start: tuple[int, ...]
) -> Gap:
    import numpy as np

    unequal = _words(a) != _words(b)
    if unequal.ndim > a.ndim:
        unequal = unequal.any(axis=-1)
    places = np.unravel_index(int(np.argmax(unequal)), unequal.shape)
    one, two = a[unequal], b[unequal]  # a copy of what differs, one axis
    with np.errstate(all="ignore"):
        # Booleans have no difference, and narrow floats none to trust.
        widest = np.complex128 if a.dtype.kind == "c" else np.float64
        wide = (one.astype(widest), two.astype(widest))
        far = np.abs(wide[0] - wide[1])
        scale = np.abs(wide[1])
        relative = np.where(far == 0, 0.0, far / scale)
        finite = np.isfinite(wide[0]) & np.isfinite(wide[1])  # rtol of infinity is infinity
        within = finite & (far <= tolerance.atol + tolerance.rtol * scale)
    ulps = _ulps(one, two)
    if tolerance.ulp:
        within = np.zeros(one.shape, bool)
        if ulps is not None:  # no count of units lies between a number and what is none
            within = (ulps <= tolerance.ulp) & (np.isnan(one) == np.isnan(two))
            within &= np.isfinite(wide[0]) == np.isfinite(wide[1])
    return Gap(
        elements=a.size,
        differing=one.size,
        max_abs=float(far.max()),
        max_rel=float(relative.max()),
        max_ulp=None if ulps is None else int(ulps.max()),
        first=tuple(int(at) + begin for at, begin in zip(places, start, strict=True)),
        beyond=int(one.size - within.sum()),
    )


def _ulps(a: "np.ndarray", b: "np.ndarray") -> "np.ndarray | None":
    """Distances in units of the last place; None where the type has none. NaN is far from all."""
    import ml_dtypes
    import numpy as np

    try:
        bits = ml_dtypes.finfo(a.dtype).bits
    except ValueError:
        return None
    if a.dtype.kind == "c" or bits not in (8, 16, 32, 64):
        return None
    # The bits as a sign and a magnitude, laid out on one line: 0 and -0 are the same place on it.
    sign = np.uint64(1 << (bits - 1))
    ordered = []
    for each in (a, b):
        word = each.view(f"u{bits // 8}").astype(np.uint64)
        magnitude = word & (sign - np.uint64(1))
        ordered.append(np.where(word & sign, sign - magnitude, sign + magnitude))
    most = np.uint64(np.iinfo(np.int64).max)
    found = np.minimum(np.maximum(*ordered) - np.minimum(*ordered), most)
    return np.where(np.isnan(a) != np.isnan(b), most, found)


def _worse(a: float, b: float) -> float:
    """The larger number; NaN, a difference that has no size, is worse than all."""
    return max(a, b) if a == a and b == b else float("nan")


def _detail(line: Line, tolerance: Tolerance) -> str:
    ulp = "" if line.max_ulp is None else f", max {line.max_ulp} ulp"
    within = f", within {tolerance}" if line.sign == "~" else ""
    where = ",".join(map(str, line.first or ()))
    return (
        f"{line.differing:,} of {line.elements:,} elements, max abs {line.max_abs:.3g}, "
        f"max rel {line.max_rel:.3g}{ulp}, first at [{where}]{within}"
    )
