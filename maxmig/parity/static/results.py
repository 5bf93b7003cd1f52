"""What a proof found: which outputs are proved equal, and where the rest goes different ways."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Equation:
    """One step of a computation, and where it was written.

    Attributes:
        primitive: its name in JAX.
        shape, dtype: of its (first) result.
        source: `file:line`, the innermost line outside of JAX and the standard library.
        function: the function that the line is in.
        caller: where that line is a library's (Flax, Optax): the innermost line that is not.
        name_stack: the path of the module, where the framework tells it.
        operands: what feeds it: names of inputs, numbers, or `primitive (file:line)`.
        constants: the numbers among its operands and parameters, as text.
        params: its parameters, as text.
    """

    primitive: str
    shape: tuple[int, ...]
    dtype: str
    source: str
    function: str = ""
    name_stack: str = ""
    operands: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    params: tuple[tuple[str, str], ...] = ()
    caller: str = ""

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        called = f", called at {self.caller}" if self.caller else ""
        place = self.source or "an unknown line"
        return f"{self.primitive} {self.dtype} {shape} at {place}{called}"


@dataclasses.dataclass(frozen=True)
class Divergence:
    """The first pair of equations that differ although equal values feed them.

    Attributes:
        control, candidate: the equation of each side; None where the side has nothing like it.
        path: the module that it belongs to, by either side's name stack or parameters.
        differences: what differs, in words: the primitive, a parameter, a constant, a dtype.
        outputs: the outputs that depend on it.
    """

    control: Equation | None
    candidate: Equation | None
    path: str = ""
    differences: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        sides = f"control {self.control or 'nothing'}; candidate {self.candidate or 'nothing'}"
        return f"{where}{', '.join(self.differences) or 'different equations'} ({sides})"


@dataclasses.dataclass(frozen=True)
class Cast:
    """A conversion of floating-point numbers that one side makes more often than the other.

    Attributes:
        source_dtype, target_dtype: from and to.
        shape: of the array.
        control, candidate: how many equations of each side do it.
        lines: where, as `side file:line`.
        unknown: how many of them each side makes outside of the layers of Flax whose conversions
            are known to differ (norms, attention, recurrent cells).
    """

    source_dtype: str
    target_dtype: str
    shape: tuple[int, ...]
    control: int
    candidate: int
    lines: tuple[str, ...] = ()
    unknown: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True)
class Proof:
    """Two programs held against one another, without any numbers.

    Attributes:
        program: name of the program.
        proved: outputs that both sides compute alike, for all inputs.
        different: outputs that they do not, or not provably so.
        unprovable: output -> what cannot be compared by content, by name and line.
        missing: outputs, as `side: name`, that the other side does not have.
        inputs: inputs whose shape or dtype differs, or that one side alone has, in words.
        divergences: where the two sides part, in the order of the computation.
        casts: conversions between floating-point types that only one side makes.
        equations: how many equations each side has, calls inlined.
        complete: whether the list of divergences tells everything: with their results taken for
            equal, all outputs are proved.
    """

    program: str
    proved: tuple[str, ...]
    different: tuple[str, ...] = ()
    unprovable: tuple[tuple[str, tuple[str, ...]], ...] = ()
    missing: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    divergences: tuple[Divergence, ...] = ()
    casts: tuple[Cast, ...] = ()
    equations: tuple[int, int] = (0, 0)
    complete: bool = True

    def __bool__(self) -> bool:
        return bool(self.proved) and not (self.different or self.unprovable or self.missing)

    @property
    def outputs(self) -> int:
        """How many outputs there are on either side."""
        return len(self.proved) + len(self.different) + len(self.unprovable) + len(self.missing)

    @property
    def first(self) -> Divergence | None:
        """The first divergence."""
        return self.divergences[0] if self.divergences else None

    @property
    def summary(self) -> str:
        """One line."""
        head = f"{self.program}: {len(self.proved)} of {self.outputs} outputs proved equal"
        if self:
            return head
        if self.unprovable and not self.different:
            return f"{head}; {self.unprovable[0][1][0]}"
        if self.first:
            return f"{head}; first difference {self.first}"
        rest = (*self.missing, *self.inputs)
        return f"{head}; {rest[0]}" if rest else head
