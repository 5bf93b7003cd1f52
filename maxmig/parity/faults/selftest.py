"""Shows that the levels find what they are for: each bug put into either side, and no false alarm.

A check that has never failed proves nothing. For every bug it is told which level catches it, and
whether the module and the line that are named are those of the bug.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from maxmig.config import Config, Stage
from maxmig.parity import shadow, static
from maxmig.parity.faults import bugs, specimen
from maxmig.parity.faults.bugs import Bug
from maxmig.parity.faults.specimen import Side
from maxmig.parity.findings.check import Verdict
from maxmig.parity.findings.measurement import SIDES
from maxmig.parity.programs import Program
from maxmig.parity.shadow import Ratio
from maxmig.parity.static import Divergence

Programs = Mapping[str, Program]
_TRACED = ("forward", "gradients")


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one level said of a bug.

    Attributes:
        caught: it found a difference.
        right: the module and the line that it named are those of the bug.
        path, source: the module, and the line of the side with the bug.
        text: in words.
    """

    caught: bool
    right: bool = False
    path: str = ""
    source: str = ""
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """One bug in one side.

    Attributes:
        bug: its name.
        side: where it was put.
        static, semantic: what the levels L0 and L1 found.
        ratio: the largest of all error ratios at the side's own precision, over its limit.
        worst: the output of that ratio.
    """

    bug: str
    side: str
    static: Finding
    semantic: Finding
    ratio: float
    worst: str

    @property
    def native(self) -> bool:
        """Whether L2 finds it."""
        return self.ratio > 1

    def __bool__(self) -> bool:
        return (self.static.right or self.semantic.right) and self.native


@dataclasses.dataclass(frozen=True)
class Quiet:
    """The equivalent rewrite, or no change at all, at one seed and dtype.

    Attributes:
        seed, dtype: of the run.
        semantic: the verdict in float64.
        ratio: the largest error ratio over its limit.
        worst: the output of that ratio.
    """

    seed: int
    dtype: str
    semantic: Verdict
    ratio: float
    worst: str

    def __bool__(self) -> bool:
        return self.semantic is Verdict.PASS and self.ratio <= 1


@dataclasses.dataclass(frozen=True)
class SelfTest:
    """All bugs and all runs that must be quiet."""

    rows: tuple[Row, ...]
    quiet: tuple[Quiet, ...]

    def __bool__(self) -> bool:
        return bool(self.rows or self.quiet) and all(self.rows) and all(self.quiet)


def run(
    *,
    control: Stage | str = Stage.LINEN,
    candidate: Stage | str = Stage.NNX,
    names: Iterable[str] | None = None,
    where: Iterable[str] = SIDES,
    seeds: int = 2,
    note: Callable[[str], object] = lambda text: None,
) -> SelfTest:
    """Puts each bug into either side of a small model, and an equivalent rewrite at several seeds.

    Args:
        control, candidate: the rungs.
        names: of the bugs; all by default.
        where: the sides that a bug is put into.
        seeds: for the runs that must be quiet, in float32 and bfloat16.
        note: is told what is going on.
    """
    cfg = specimen.small()
    pair = Side(cfg, Stage(control)), Side(cfg, Stage(candidate))
    clean = tuple(side.programs(_TRACED) for side in pair)
    native = Native(pair[0].inputs())
    wanted = [bug for bug in bugs.BUGS if names is None or bug.name in set(names)]
    rows = []
    for bug in wanted:
        for place in where:
            note(f"{bug.name} in the {place}")
            rows.append(look(bug, place, pair, (clean[0], clean[1]), native))
    quiet = [
        found
        for dtype in ("float32", "bfloat16")
        for found in without_alarm(pair, dtype, range(seeds), note)
    ]
    return SelfTest(tuple(rows), tuple(quiet))


def without_alarm(
    pair: tuple[Side, Side],
    dtype: str,
    seeds: Iterable[int],
    note: Callable[[str], object] = lambda text: None,
) -> list[Quiet]:
    """The equivalent rewrite in the candidate, at some seeds."""
    cfg: Config = pair[0].cfg.replace(dtype=dtype)
    control, candidate = (dataclasses.replace(side, cfg=cfg) for side in pair)
    traced = (
        control.programs(_TRACED),
        dataclasses.replace(candidate, bug=bugs.REWRITE).programs(_TRACED),
    )
    found = []
    for seed in seeds:
        note(f"the equivalent rewrite, {dtype}, seed {seed}")
        given = control.inputs(seed)
        name = "gradients"
        semantic = shadow.compare(traced[0][name], traced[1][name], given)
        worst, ratio = Native(given).triangulate(traced)
        found.append(Quiet(seed, dtype, semantic.verdict, _share(ratio), worst))
    return found


class Native:
    """What sides compute at their own precision, and the truth; each is computed once."""

    def __init__(self, given: Mapping[str, np.ndarray]):
        self.given = dict(given)
        self._kept: dict[tuple[str, int], tuple[Program, Mapping[str, np.ndarray]]] = {}

    def triangulate(
        self, pair: tuple[Programs, Programs], *, both: bool = False
    ) -> tuple[str, Ratio]:
        """(output, its errors): the worst of logits and gradients against the control's truth.

        With `both`, a candidate that is far more exact than the control counts as well.
        """
        found: list[tuple[str, Ratio]] = []
        for name in _TRACED:
            truth = self._once("truth", pair[0][name])
            ours, theirs = (self._once("native", side[name]) for side in pair)
            found += [
                (output, shadow.error_against_truth(ours[output], theirs[output], truth[output]))
                for output in ours
                if output == "logits" or output.startswith("gradients/")
            ]
        return max(found, key=lambda item: _share(item[1], both=both))

    def _once(self, what: str, program: Program) -> Mapping[str, np.ndarray]:
        key = (what, id(program))
        if key not in self._kept:
            compute = shadow.evaluate if what == "truth" else specimen.run
            self._kept[key] = (program, compute(program, self.given))
        return self._kept[key][1]


def _share(ratio: Ratio, *, both: bool = False) -> float:
    """How much of what is allowed an error takes: above 1 is too much."""
    return max(ratio.value, ratio.back if both else 0.0) / ratio.factor


def look(
    bug: Bug,
    place: str,
    pair: tuple[Side, Side],
    clean: tuple[Programs, Programs],
    native: Native,
    *,
    run: bool = True,
) -> Row:
    """What each level says of a bug in one side.

    Args:
        bug: what is put in.
        place: `control` or `candidate`.
        pair, clean: both sides, and their programs without the bug.
        native: runs programs.
        run: False leaves L2 out; the ratio is 0 then.
    """
    at = SIDES.index(place)
    traced = _TRACED if run else (bug.program,)
    broken = dataclasses.replace(pair[at], bug=bug).programs(traced)
    both = (broken, clean[1]) if at == 0 else (clean[0], broken)
    control, candidate = (side[bug.program] for side in both)
    proof = static.prove(control, candidate)
    semantic = shadow.compare(control, candidate, native.given)
    first = semantic.first.divergence if semantic.first else None
    worst, share = "", 0.0
    if run:
        # Less precision in the control makes the candidate the more exact one: told as well.
        worst, ratio = native.triangulate(both, both=place == "control")
        share = _share(ratio, both=place == "control")
    return Row(
        bug.name,
        place,
        _finding(bug, place, not proof, proof.first),
        _finding(bug, place, semantic.verdict is Verdict.FAIL, first),
        share,
        worst,
    )


def _finding(bug: Bug, place: str, caught: bool, first: Divergence | None) -> Finding:
    if first is None:
        return Finding(caught)
    equation = first.control if place == "control" else first.candidate
    line = equation.source if equation else ""
    below = first.path.startswith(bug.module) if bug.module else not first.path
    right = caught and below and line.rsplit(":", 1)[0] in bug.files
    return Finding(caught, right, first.path, line, str(first))
