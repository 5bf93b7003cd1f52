"""Where two programs part: the first equations that differ although equal values feed them."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from maxmig.parity.programs import Program
from maxmig.parity.static import describe, source
from maxmig.parity.static.encode import Number
from maxmig.parity.static.number import Numbering, Record
from maxmig.parity.static.results import Cast, Divergence

# Flax's layers of which Linen's and NNX's are known to convert otherwise.
_KNOWN = re.compile(r"[/\\]flax[/\\].*(normalization|attention|recurrent)\.py$")
LIMIT = 8  # differences that are looked past, one after the other


@dataclasses.dataclass(frozen=True)
class Found:
    """See `Proof` for what the fields mean."""

    divergences: tuple[Divergence, ...]
    casts: tuple[Cast, ...]
    complete: bool


def inputs(control: Program, candidate: Program) -> tuple[str, ...]:
    """Inputs that are not the same on both sides, in words."""
    ours = dict(zip(control.inputs, control.jaxpr.in_avals, strict=True))
    theirs = dict(zip(candidate.inputs, candidate.jaxpr.in_avals, strict=True))
    found = [f"the control alone has {name}" for name in ours if name not in theirs]
    found += [f"the candidate alone has {name}" for name in theirs if name not in ours]
    for name in (n for n in ours if n in theirs):
        a, b = ours[name], theirs[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            kinds = [f"{x.dtype}{list(x.shape)}" for x in (a, b)]
            found.append(f"{name} is {kinds[0]} in the control, {kinds[1]} in the candidate")
    return tuple(found)


def find(control: Program, candidate: Program, outputs: Sequence[str]) -> Found:
    """Looks for the first difference, takes its results for equal, and looks for the next."""
    found: list[Divergence] = []
    same: tuple[dict[Number, Number], dict[Number, Number]] = ({}, {})
    casts: tuple[Cast, ...] | None = None
    left, complete = list(outputs), False
    while True:
        a, b = (
            _Side(program, equal) for program, equal in zip((control, candidate), same, strict=True)
        )
        casts = _casts(a, b) if casts is None else casts
        left = [name for name in left if a.outputs[name] != b.outputs[name]]
        if not left:
            complete = True
            break
        pair = _first(a, b, left)
        if pair is None or len(found) == LIMIT:
            break
        ours, theirs, near = pair
        found.append(describe.divergence(a, b, (ours, theirs), tuple(left), near))
        if not _look_past(ours, theirs, same):
            break
    return Found(tuple(found), casts or (), complete)


class _Side:
    """A numbered program with its records."""

    def __init__(self, program: Program, same: dict[Number, Number]):
        self.numbering = Numbering(record=True, same=same)
        self.outputs = self.numbering.program(program)
        self.roots = roots(program)
        self.records = self.numbering.records
        self._same = same
        known = {self.seen(o) for r in self.records for o in r.outs}
        n = self.numbering
        self.known = known.union(n.levels, n.names, n.constants, n.splats)

    def seen(self, number: Number) -> Number:
        """The number after differences have been looked past."""
        return self._same.get(number, number)

    def cone(self, names: Iterable[str]) -> list[Record]:
        """The records that these outputs depend on, in order."""
        needed = {self.outputs[name][0] for name in names}
        kept = []
        for record in reversed(self.records):
            if any(self.seen(o) in needed for o in record.outs):
                kept.append(record)
                needed.update(record.ins, record.within)
        return kept[::-1]

    def first_differences(self, other: "_Side", names: Iterable[str]) -> list[Record]:
        """Records whose operands the other side has too, but whose results it has not."""
        constants = self.numbering.constants.keys() | self.numbering.splats.keys()
        return [
            record
            for record in self.cone(names)
            if any(self.seen(o) not in other.known for o in record.outs)
            and all(i in other.known or i in constants for i in record.ins)
        ]


def roots(program: Program) -> frozenset[str]:
    """First names of the paths of all parameters."""
    return frozenset(name.split("/")[1] for name in program.inputs if name.startswith("params/"))


_Pair = tuple[Record | None, Record | None, Record | None]


def _first(a: _Side, b: _Side, names: Sequence[str]) -> _Pair | None:
    """(the control's equation that is most like it, the first root of the candidate, where)."""
    ours, theirs = a.first_differences(b, names), b.first_differences(a, names)
    if not theirs:
        return (ours[0], None, ours[0]) if ours else None
    first = theirs[0]
    best = max(ours[:16], key=lambda r: _likeness(r, first), default=None)
    if best is None or best.eqn.primitive.name != first.eqn.primitive.name:
        # The control's own may have been seen on both sides, in another layer of the candidate.
        return _twin(a, first, names) or best, first, best
    return best, first, best


def _twin(a: _Side, first: Record, names: Sequence[str]) -> Record | None:
    """The control's equation that differs in a number alone: same line, primitive and operands."""
    place = source.place(first.eqn, first.calls)
    constants = a.numbering.constants
    fed = [i for i in first.ins if i in a.known and i not in constants]
    twins = [
        r
        for r in a.cone(names)
        if r.eqn.primitive.name == first.eqn.primitive.name
        and len(r.ins) == len(first.ins)
        and [i for i in r.ins if i not in constants] == fed
        and source.place(r.eqn, r.calls) == place
    ]
    return next(iter(twins), None)


def _likeness(a: Record, b: Record) -> float:
    shared = len(set(a.ins) & set(b.ins))
    alike = a.eqn.primitive.name == b.eqn.primitive.name
    shapes = _shape(a) == _shape(b)
    return 2.0 * bool(shared) + 1.5 * alike + shapes + 0.5 * (a.layer == b.layer)


def _look_past(
    ours: Record | None, theirs: Record | None, same: tuple[dict[Number, Number], ...]
) -> bool:
    """Takes the results of a pair for equal; where one side has one step more, skips that step."""
    if ours is None or theirs is None:
        return False
    alike = ours.eqn.primitive.name == theirs.eqn.primitive.name
    shared = set(ours.ins) & set(theirs.ins)
    for record, own in ((theirs, same[1]), (ours, same[0])):
        step = _step(record)
        if not alike and step is not None and step in shared and record.outs[0] not in own:
            own[record.outs[0]] = step
            return True
    if len(ours.outs) != len(theirs.outs) or _shape(ours) != _shape(theirs):
        return False
    fresh = [o for o in theirs.outs if o not in same[1]]
    same[1].update(zip(theirs.outs, ours.outs, strict=True))
    return bool(fresh)


def _step(record: Record) -> Number | None:
    """The operand of a conversion."""
    return record.ins[0] if record.eqn.primitive.name == "convert_element_type" else None


def _shape(record: Record) -> Any:
    return record.eqn.outvars[0].aval.shape


def _casts(a: _Side, b: _Side) -> tuple[Cast, ...]:
    """Conversions between floating-point types that one side makes more often."""
    ours, theirs = _conversions(a), _conversions(b)
    found = []
    for key in ours.keys() | theirs.keys():
        none = _Conversions()
        one, two = ours.get(key, none), theirs.get(key, none)
        if one.lines.total() == two.lines.total() and one.unknown == two.unknown:
            continue
        extra = [f"control {line}" for line in one.lines - two.lines]
        extra += [f"candidate {line}" for line in two.lines - one.lines]
        totals = one.lines.total(), two.lines.total()
        unknown = one.unknown, two.unknown
        found.append(Cast(*key, *totals, tuple(sorted(extra)), unknown))
    return tuple(sorted(found, key=lambda c: (c.source_dtype, c.target_dtype, c.shape)))


@dataclasses.dataclass
class _Conversions:
    """How often each line converts, and how many of all are not those of `_KNOWN` layers."""

    lines: Counter[str] = dataclasses.field(default_factory=Counter)
    unknown: int = 0


def _conversions(side: _Side) -> dict[tuple[str, str, tuple[int, ...]], _Conversions]:
    found: dict[tuple[str, str, tuple[int, ...]], _Conversions] = {}
    for record in side.records:
        if record.eqn.primitive.name != "convert_element_type":
            continue
        old, new = record.eqn.invars[0].aval, record.eqn.outvars[0].aval
        if all(jnp.issubdtype(x.dtype, jnp.floating) for x in (old, new)):
            here = found.setdefault(
                (str(old.dtype), str(new.dtype), tuple(new.shape)), _Conversions()
            )
            here.lines[source.place(record.eqn, record.calls)[0]] += 1
            here.unknown += not source.through(record.eqn, record.calls, _KNOWN)
    return found
