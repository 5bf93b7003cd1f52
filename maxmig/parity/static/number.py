"""Value numbering: a digest for every value of a computation, equal only for equal computations.

A number stands for the bits of a value in row-major order; whoever uses it says in which shape and
type. So reshapes, and conversions that keep the bits, have no number of their own. What cannot be
told by content gets a number that no other value has, and a reason; both go to all that it feeds.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from maxmig.parity.programs import Program
from maxmig.parity.static import control, encode, primitives, rules, source
from maxmig.parity.static.encode import Number, Opaque, digest

Set = frozenset[Any]
_EMPTY: Set = frozenset()
_serial = itertools.count()


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One equation as it was numbered, for whoever looks for the first difference.

    Attributes:
        eqn: the equation.
        stack: name stack of the calls around it, and its own.
        ins: numbers of its operands (or of what is called), outs: of its results.
        within: numbers of the results of its body, if it is a loop or a branch.
        layer: how many loops are around it.
        calls: the calls and loops around it, outermost first.
    """

    eqn: Any
    stack: str
    ins: tuple[Number, ...]
    outs: tuple[Number, ...]
    within: tuple[Number, ...] = ()
    layer: int = 0
    calls: tuple[Any, ...] = ()


class Numbering:
    """Numbers programs; all of one object can be compared with one another.

    Attributes:
        taints: number -> why it cannot be compared.
        free: number -> the symbols of loops (their carries and slices) that it depends on.
        effects: why nothing of the program can be compared.
        records: every equation in order, if they were asked for.
        equations: how many equations were numbered.
    """

    def __init__(self, *, record: bool = False, same: dict[Number, Number] | None = None):
        """
        Args:
            record: keep records.
            same: numbers to take for others: differences that are to be looked past.
        """
        self.taints: dict[Number, Set] = {}
        self.free: dict[Number, Set] = {}
        self.levels: dict[Number, int] = {}
        self.splats: dict[Number, Number] = {}
        self.moved: dict[Number, tuple[Number, tuple[int, ...], tuple[int, ...]]] = {}
        self.effects: dict[str, None] = {}
        self.records: list[Record] = []
        self.equations = 0
        self.names: dict[Number, str] = {}
        self.constants: dict[Number, Any] = {}
        self._record, self._same, self._depth, self._quiet = record, same or {}, 0, 0
        self._calls: tuple[Any, ...] = ()
        self._recorded: set[Number] = set()
        self._types: dict[Any, bytes] = {}
        self._functions: dict[int, tuple[Any, bytes]] = {}

    def program(self, program: Program) -> dict[str, tuple[Number, bytes]]:
        """(number, type) of each output, by name."""
        inner, _ = source.parts(program.jaxpr)
        given = [
            self.named(digest(b"input", name.encode(), self.type(v.aval)), name)
            for name, v in zip(program.inputs, inner.invars, strict=True)
        ]
        self._recorded.update(given)
        outs = self.walk(program.jaxpr, given, "")
        types = [self.type(v.aval) for v in inner.outvars]
        return dict(zip(program.outputs, zip(outs, types, strict=True), strict=True))

    def named(self, number: Number, name: str) -> Number:
        """The number, known to readers by this name."""
        self.names.setdefault(number, name)
        return number

    def type(self, aval: Any) -> bytes:
        """Shape and dtype as bytes."""
        found = self._types.get(aval)
        if found is None:
            dtype, shape = getattr(aval, "dtype", None), getattr(aval, "shape", None)
            plain = type(aval).__name__ == "ShapedArray"
            if not plain or not self._known(dtype):
                text = f"{type(aval).__name__} {next(_serial)}"
            else:
                text = f"{dtype}{shape}"
            found = self._types[aval] = text.encode()
        return found

    def walk(self, jaxpr: Any, given: Sequence[Number], stack: str) -> list[Number]:
        """Numbers of the results of a jaxpr for operands with these numbers."""
        inner, consts = source.parts(jaxpr)
        if len(consts) != len(inner.constvars):
            raise ValueError("a jaxpr whose constants have no values")
        env: dict[Any, Number] = dict(zip(inner.invars, given, strict=True))
        for var, value in zip(inner.constvars, consts, strict=True):
            env[var] = self.constant(value, var.aval)
        for eqn in inner.eqns:
            ins = [self._read(env, atom) for atom in eqn.invars]
            if eqn.effects:
                self._effect(eqn)
            outs = self._equation(eqn, ins, stack)
            for var, out in zip(eqn.outvars, outs, strict=True):
                env[var] = self._same.get(out, out)
        return [self._read(env, atom) for atom in inner.outvars]

    def constant(self, value: Any, aval: Any = None) -> Number:
        """The number of a constant: its bits."""
        try:
            if aval is not None and not hasattr(value, "dtype"):
                value = np.asarray(value, aval.dtype)
            what, bits = encode.array(value)
        except Opaque as opaque:
            return self.opaque(str(opaque), ())
        number = digest(b"bits", bits)
        if aval is not None and jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended):
            number = digest(b"key", what, bits)
        size = getattr(value, "size", 1)
        if size > 1 and bits == bits[: len(bits) // size] * size:
            scalar = digest(b"bits", bits[: len(bits) // size])
            self.constants.setdefault(scalar, np.asarray(value).flat[0])
            return self.splat(scalar, size, aval)
        if number not in self.constants:
            self.constants[number] = value if size == 1 else f"an array {what.decode()}"
        return number

    def splat(self, scalar: Number, count: int, aval: Any) -> Number:
        """The number of an array that repeats one element `count` times."""
        if count == 1:
            return scalar
        width = str(np.dtype(aval.dtype).itemsize) if isinstance(aval.dtype, np.dtype) else "key"
        number = digest(b"splat", scalar, width.encode(), b"%d" % count)
        self.splats[number] = scalar
        return self.inherit(number, (scalar,))

    def opaque(self, reason: str, ins: Sequence[Number]) -> Number:
        """A number that nothing else has."""
        number = digest(b"opaque", b"%d" % next(_serial))
        self.inherit(number, ins)
        self.taints[number] = self.taints.get(number, _EMPTY) | {reason}
        return number

    def inherit(self, number: Number, ins: Sequence[Number]) -> Number:
        """Passes reasons and loop symbols of the operands on to a result."""
        for table in (self.taints, self.free):
            found = [table[i] for i in ins if i in table]
            if found:
                table[number] = table.get(number, _EMPTY).union(*found)
        return number

    def level(self, ins: Sequence[Number]) -> int:
        """One more than the innermost loop whose symbols the operands depend on."""
        symbols = set().union(*(self.free.get(i, _EMPTY) for i in ins))
        return 1 + max((self.levels[s] for s in symbols), default=0)

    def record(
        self, eqn: Any, stack: str, ins: Sequence[Number], outs: Sequence[Number], within: Any = ()
    ) -> None:
        """Keeps an equation for whoever looks for differences, unless its results are known."""
        if self._record and not self._quiet and not self._recorded.issuperset(outs):
            self._recorded.update(outs)
            path = source.joined(stack, eqn)
            self.records.append(
                Record(eqn, path, tuple(ins), tuple(outs), tuple(within), self._depth, self._calls)
            )

    def body(self, jaxpr: Any, given: Sequence[Number], stack: str, *, first: bool) -> list[Number]:
        """Numbers of a loop's or branch's body; only its first walk is recorded."""
        self._depth += 1
        self._quiet += not first
        try:
            return self.walk(jaxpr, given, stack)
        finally:
            self._depth -= 1
            self._quiet -= not first

    def function(self, jaxpr: Any) -> bytes:
        """Stands for a jaxpr that is a parameter, whatever its operands will be.

        Raises:
            Opaque: something in it cannot be told by content.
        """
        cached = self._functions.get(id(jaxpr))
        if cached is None:
            inner, _ = source.parts(jaxpr)
            types = [self.type(v.aval) for v in inner.invars]
            given = [digest(b"argument", b"%d" % i, t) for i, t in enumerate(types)]
            try:
                outs = self.body(jaxpr, given, "", first=False)
            except ValueError as error:
                raise Opaque(str(error)) from error
            for out in outs:
                if out in self.taints:
                    raise Opaque(", ".join(sorted(self.taints[out])))
            result = [self.type(v.aval) for v in inner.outvars]
            cached = (jaxpr, digest(*types, b"->", *outs, *result))
            self._functions[id(jaxpr)] = cached
        return cached[1]

    def _known(self, dtype: Any) -> bool:
        """Whether a dtype is told by its name: two generators of random keys may share one."""
        if not jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
            return True
        try:
            encode.encode(dtype._impl, self.function)
        except (AttributeError, Opaque):
            return False
        return True

    def _read(self, env: dict[Any, Number], atom: Any) -> Number:
        if hasattr(atom, "val"):
            return self.constant(atom.val, atom.aval)
        return env[atom]

    def _equation(self, eqn: Any, ins: list[Number], stack: str) -> list[Number]:
        name = eqn.primitive.name
        special: Callable[..., list[Number]] | None = control.HANDLERS.get(name)
        if special is not None and primitives.is_jaxs(eqn.primitive):
            around = self._calls
            self._calls = (*around, eqn) if self._record else ()
            try:
                return special(self, eqn, ins, stack)
            finally:
                self._calls = around
        self.equations += not self._quiet
        outs = rules.simplified(self, eqn, ins)
        if outs is None:
            outs = rules.numbered(self, eqn, ins)
        self.record(eqn, stack, ins, outs)
        return outs

    def _effect(self, eqn: Any) -> None:
        names = ", ".join(sorted(str(e) for e in eqn.effects))
        place, _ = source.line(eqn)
        self.effects[f"the effect {names} of {eqn.primitive.name} at {place}"] = None
