"""Compares two checkpoints leaf by leaf, whatever their layouts, in bounded memory.

One line a leaf: `=` same bits, `~` equal under what was declared (a cast or a tolerance), `*`
differs, `+` only in B, `-` only in A, `>` renamed, `!` unreadable.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from maxmig import errors, trees
from maxmig.converters import checkpoint, restack
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.leaves import Leaf

Only = Literal["params", "opt", "all"]
SIGNS = {
    "=": "same bits",
    "~": "equal under the declared cast or tolerance",
    "*": "differs",
    "+": "only in B",
    "-": "only in A",
    ">": "renamed",
    "!": "unreadable",
}


@dataclass(frozen=True)
class Tolerance:
    """What still counts as equal; without any number only the same bits do."""

    rtol: float = 0.0
    atol: float = 0.0
    ulp: int = 0

    @property
    def bitwise(self) -> bool:
        """Whether nothing but equal bits passes."""
        return not (self.rtol or self.atol or self.ulp)

    def __str__(self) -> str:
        if self.bitwise:
            return "bitwise"
        return f"{self.ulp} ulp" if self.ulp else f"rtol {self.rtol:g}, atol {self.atol:g}"


@dataclass(frozen=True)
class Line:
    """The verdict on one leaf."""

    sign: str
    path: str
    detail: str = ""
    elements: int = 0
    differing: int = 0
    max_abs: float | None = None
    max_rel: float | None = None
    max_ulp: int | None = None
    first: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.sign} {self.path}" + (f"  {self.detail}" if self.detail else "")


@dataclass(frozen=True)
class Report:
    """All lines; true when nothing differs and something was compared."""

    lines: tuple[Line, ...]
    tolerance: Tolerance

    @property
    def counts(self) -> dict[str, int]:
        """How many leaves have each sign."""
        found = Counter(line.sign for line in self.lines)
        return {sign: found[sign] for sign in SIGNS if found[sign]}

    @property
    def compared(self) -> int:
        """How many leaves were held against one another."""
        return sum(self.counts.get(sign, 0) for sign in "=~*")

    @property
    def exit_code(self) -> int:
        """0 equal, 1 a difference, 3 nothing compared, 4 a leaf could not be read."""
        if "!" in self.counts:
            return 4
        if not self.compared:
            return 3
        return int(any(sign in self.counts for sign in "*+->"))

    def __bool__(self) -> bool:
        return self.exit_code == 0

    def summary(self) -> str:
        """One line: how many of each, and the first difference."""
        told = ", ".join(f"{count} {sign}" for sign, count in self.counts.items())
        worst = next((line for line in self.lines if line.sign in "!*"), None)
        first = f" ({worst.path}: {worst.detail})" if worst else ""
        return f"{len(self.lines)} arrays: {told or 'none'}{first}"


def diff(
    a: Checkpoint,
    b: Checkpoint,
    *,
    only: Only = "all",
    tolerance: Tolerance | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Report:
    """Compares names, shapes, types and values; stacks the layers if one side has them stacked.

    Args:
        a: one checkpoint.
        b: the other.
        only: parameters, optimizer state with the step, or all.
        tolerance: None asks for equal bits.
        progress: called with the bytes that were read.
    """
    tolerance = tolerance or Tolerance()
    moves_a, moves_b = _aligned(a, b)
    ours = {move.target: move for move in moves_a if _chosen(move.target, only)}
    theirs = {move.target: move for move in moves_b if _chosen(move.target, only)}
    lines = list(_compared(a, b, ours, theirs, tolerance, progress))
    left = [move for path, move in ours.items() if path not in theirs]
    right = [move for path, move in theirs.items() if path not in ours]
    lines += _unpaired(a, b, left, right)
    lines.sort(key=lambda line: trees.natural_key(line.path))
    return Report(tuple(lines), tolerance)


def _chosen(path: str, only: Only) -> bool:
    section = path.split("/")[0]
    sections = {"params": ("params",), "opt": ("opt_state", "step")}.get(only)
    return sections is None or section in sections


def _aligned(a: Checkpoint, b: Checkpoint) -> tuple[Sequence[restack.Move], Sequence[restack.Move]]:
    """Both sides in one scan layout: the stacked one, because it needs one stack at a time."""
    sides = (a, b)
    scan = True if {a.scan_layers, b.scan_layers} == {True, False} else None
    axes = [_layer_axis(side) for side in sides]
    axis = next((each for each in axes if each is not None), None)
    both = []
    for side, own in zip(sides, axes, strict=True):
        moved = scan or (own is not None and own != axis)
        plan = restack.plan(
            side.leaves,
            side.skeleton,
            scan=scan,
            axis=axis if moved else None,
            source_axis=own,
        )
        both.append(plan.moves)
    return both[0], both[1]


def _layer_axis(side: Checkpoint) -> int | None:
    try:
        return restack.layer_axis(side.leaves, side.own.get("param_scan_axis"))
    except errors.ConvertError:  # matters only where one side has to be restacked
        return None


def _compared(
    a: Checkpoint,
    b: Checkpoint,
    ours: Mapping[str, restack.Move],
    theirs: Mapping[str, restack.Move],
    tolerance: Tolerance,
    progress: Callable[[int], None],
) -> Iterator[Line]:
    common = [path for path in ours if path in theirs]
    alike = [path for path in common if ours[path].leaf == theirs[path].leaf]
    for path in common:
        if ours[path].leaf != theirs[path].leaf:
            yield Line("*", path, f"{ours[path].leaf} in A, {theirs[path].leaf} in B")
    left = checkpoint.stream(a, [ours[path] for path in alike], progress)
    right = checkpoint.stream(b, [theirs[path] for path in alike], progress)
    for (move, mine), (_, other) in zip(left, right, strict=True):
        failed = next((each for each in (mine, other) if isinstance(each, Exception)), None)
        if failed is not None:
            yield Line("!", move.target, str(failed).replace("\n", " "))
            continue
        line = compare(move.target, _host(mine), _host(other), tolerance)
        if (
            move.target == "step"
            and line.sign == "="
            and a.layout.step_dtype != b.layout.step_dtype
        ):
            cast = f"{a.layout.step_dtype} in A, {b.layout.step_dtype} in B"
            line = dataclasses.replace(line, sign="~", detail=f"same after the cast: {cast}")
        yield line


def compare(path: str, a: Any, b: Any, tolerance: Tolerance) -> Line:
    """The verdict on two arrays of one shape and type."""
    import numpy as np

    if a.tobytes() == b.tobytes():
        return Line("=", path, elements=a.size)
    unequal = _unequal(a, b)
    first = tuple(int(i) for i in np.argwhere(unequal)[0])
    with np.errstate(all="ignore"):
        # Booleans have no difference, and narrow floats none to trust.
        widest = np.complex128 if a.dtype.kind == "c" else np.float64
        wide = (a.astype(widest), b.astype(widest))
        gap = np.abs(wide[0] - wide[1])
        scale = np.abs(wide[1])
        relative = np.where(gap == 0, 0.0, gap / scale)
    ulps = _ulps(a, b)
    line = Line(
        "*",
        path,
        elements=a.size,
        differing=int(unequal.sum()),
        max_abs=float(gap.max()),
        max_rel=float(relative.max()),
        max_ulp=int(ulps.max()) if ulps is not None else None,
        first=first,
    )
    passed = not tolerance.bitwise and bool(
        (ulps is not None and ulps.max() <= tolerance.ulp)
        if tolerance.ulp
        else np.all(gap <= tolerance.atol + tolerance.rtol * scale)
    )
    return dataclasses.replace(
        line, sign="~" if passed else "*", detail=_detail(line, tolerance, passed)
    )


def _unequal(a: Any, b: Any) -> Any:
    """Where the bits differ: NaN equals itself, and -0 is not 0."""
    import numpy as np

    size = a.dtype.itemsize
    rows = [np.ascontiguousarray(each).view(np.uint8).reshape(-1, size) for each in (a, b)]
    return np.any(rows[0] != rows[1], axis=1).reshape(a.shape)


def _detail(line: Line, tolerance: Tolerance, passed: bool) -> str:
    ulp = "" if line.max_ulp is None else f", max {line.max_ulp} ulp"
    within = f", within {tolerance}" if passed else ""
    where = ",".join(map(str, line.first or ()))
    return (
        f"{line.differing} of {line.elements} elements, max abs {line.max_abs:.3g}, "
        f"max rel {line.max_rel:.3g}{ulp}, first at [{where}]{within}"
    )


def _ulps(a: Any, b: Any) -> Any:
    """Distances in units of the last place; None where the type has none. NaN is far from all."""
    import jax.numpy as jnp
    import numpy as np

    if not jnp.issubdtype(a.dtype, jnp.floating) or a.dtype.itemsize > 8:
        return None
    kind = np.dtype(f"i{a.dtype.itemsize}")
    lowest = -(2 ** (8 * kind.itemsize - 1))
    ordered = []
    for each in (a, b):
        number = np.ascontiguousarray(each).view(kind).reshape(a.shape)
        number = number.astype(object if kind.itemsize == 8 else np.int64)  # no overflow below
        ordered.append(np.where(number < 0, lowest - number, number))
    far = np.iinfo(np.int64).max
    gap = np.minimum(np.abs(ordered[0] - ordered[1]), far)
    return np.where(np.isnan(a) != np.isnan(b), far, gap)


def _host(value: Any) -> Any:
    import jax
    import numpy as np

    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value)


def _unpaired(
    a: Checkpoint, b: Checkpoint, left: Sequence[restack.Move], right: Sequence[restack.Move]
) -> Iterator[Line]:
    """Leaves of one side only; where bits and type agree with just one leaf opposite, a rename."""
    kinds = {move.leaf for move in left} & {move.leaf for move in right}
    names_a = _by_content(a, [move for move in left if move.leaf in kinds])
    names_b = _by_content(b, [move for move in right if move.leaf in kinds])
    renamed = {
        paths[0]: names_b[content][0]
        for content, paths in names_a.items()
        if len(paths) == 1 and len(names_b.get(content, ())) == 1
    }
    for move in left:
        if move.target in renamed:
            yield Line(">", move.target, f"is {renamed[move.target]} in B, same bits")
        else:
            yield Line("-", move.target, f"{move.leaf}")
    taken = set(renamed.values())
    yield from (
        Line("+", move.target, f"{move.leaf}") for move in right if move.target not in taken
    )


def _by_content(
    source: Checkpoint, moves: Sequence[restack.Move]
) -> dict[tuple[Leaf, str], list[str]]:
    found: dict[tuple[Leaf, str], list[str]] = {}
    for move, value in checkpoint.stream(source, moves):
        if not isinstance(value, Exception):
            digest = hashlib.blake2b(_host(value).tobytes(), digest_size=20).hexdigest()
            found.setdefault((move.leaf, digest), []).append(move.target)
    return found
