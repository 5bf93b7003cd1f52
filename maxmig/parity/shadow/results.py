"""What two programs compute when every float has 64 bits, and where they first differ."""

import dataclasses

from maxmig.parity.findings import words
from maxmig.parity.findings.check import Verdict
from maxmig.parity.static.results import Divergence


@dataclasses.dataclass(frozen=True)
class Error:
    """One output of the candidate against the control's.

    Attributes:
        output: its name.
        relative: ||control - candidate|| / max(||control||, ||candidate||, a hundredth of what is
            usual among the outputs of its kind).
        limit: the largest that rounding in float64 explains.
        elements: how many numbers were compared.
        problem: what no rounding explains: NaN on one side, another shape.
    """

    output: str
    relative: float
    limit: float
    elements: int
    problem: str = ""

    def __bool__(self) -> bool:
        return not self.problem and self.relative <= self.limit


@dataclasses.dataclass(frozen=True)
class First:
    """The first aligned pair of equations whose results differ.

    Attributes:
        divergence: the equations, with both source lines, the module and the layer.
        relative: the relative difference of their results, in the norm.
        control_norm, candidate_norm: the norms of both results.
    """

    divergence: Divergence
    relative: float
    control_norm: float
    candidate_norm: float


@dataclasses.dataclass(frozen=True)
class Module:
    """The largest difference inside one module, in the order of the computation."""

    path: str
    relative: float
    equations: int


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of the candidate, fed with the control's values.

    Attributes:
        path: the layer.
        relative: the largest difference of what it gives to other layers, or to the outputs.
        equations: how many such results were compared.
        limit: the largest difference that rounding in float64 explains.
    """

    path: str
    relative: float
    equations: int
    limit: float

    def __bool__(self) -> bool:
        return self.relative <= self.limit


@dataclasses.dataclass(frozen=True)
class Shadow:
    """Two programs evaluated in float64 on the same inputs.

    Attributes:
        program: name of the program.
        errors: every output that both sides have.
        missing: outputs that one side alone has, as `side: name`.
        first: where they first differ; None where no output differs.
        modules: how the difference grows, module by module.
        aligned: pairs of equations that were held against one another.
        events: equations of each side, scans unrolled.
        unshadowable: what has no meaning in float64, by name and line: nothing can be said then.
        untaken: branches that these inputs do not reach, as `side: branch 0 of ...`: equal outputs
            say nothing of them.
    """

    program: str
    errors: tuple[Error, ...] = ()
    missing: tuple[str, ...] = ()
    first: First | None = None
    modules: tuple[Module, ...] = ()
    aligned: int = 0
    events: tuple[int, int] = (0, 0)
    unshadowable: tuple[str, ...] = ()
    untaken: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.verdict is Verdict.PASS

    @property
    def verdict(self) -> Verdict:
        """INCONCLUSIVE where nothing could be evaluated or compared, or not everything ran."""
        if self.unshadowable or not any(e.elements for e in self.errors):
            return Verdict.INCONCLUSIVE
        if self.missing or self.failures:
            return Verdict.FAIL
        return Verdict.INCONCLUSIVE if self.untaken else Verdict.PASS

    @property
    def failures(self) -> tuple[Error, ...]:
        """The outputs that differ by more than rounding explains."""
        return tuple(e for e in self.errors if not e)

    @property
    def worst(self) -> Error | None:
        """The output that differs most."""
        return max(self.errors, key=lambda e: (bool(e.problem), e.relative / e.limit), default=None)

    @property
    def summary(self) -> str:
        """One line."""
        if self.unshadowable:
            return f"{self.program}: no float64 shadow: {self.unshadowable[0]}"
        if self.worst is None:
            return f"{self.program}: nothing was compared"
        worst = f"at most {self.worst.relative:.1e} apart ({self.worst.output})"
        if self and not self.worst.relative:
            worst = "exactly equal"
        outputs = words.counted(len(self.errors), "output")
        head = f"{self.program}: {outputs} in float64, {worst}"
        if self.first:
            where = f"first difference {self.first.relative:.1e}: {self.first.divergence}"
            return f"{head}; {where}"
        return f"{head}; {self.untaken[0]}" if self.untaken else head
