"""Equations in words: where they stand, what feeds them, and in what two of them differ."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from maxmig.parity.static import source
from maxmig.parity.static.encode import Number
from maxmig.parity.static.number import Numbering, Record
from maxmig.parity.static.results import Divergence, Equation

_LONG = 100
_NEXT = 6  # equations in which a scaling must follow


class Side(Protocol):
    """A numbered program."""

    numbering: Numbering
    records: list[Record]
    roots: frozenset[str]


def divergence(
    a: Side,
    b: Side,
    pair: tuple[Record | None, Record | None],
    outputs: tuple[str, ...],
    near: Record | None = None,
) -> Divergence:
    """Two equations that differ; `near` is the control's equation whose module it is."""
    control = None if pair[0] is None else _equation(a, pair[0])
    candidate = None if pair[1] is None else _equation(b, pair[1])
    path = ""
    owners = {_own(a, near), _own(b, pair[1])} - {""}
    for find in (_own, _named, _near):
        if find is _own and len(owners) > 1:
            continue  # each reads another module's parameter: where it is read is what counts
        path = path or find(a, near) or find(b, pair[1])
        if find is _named and any(_has_names(side) for side in (a, b)):
            break  # where modules have names, what has none is outside of all
    told = (*_scalings(a, b, pair), *differences(control, candidate))
    return Divergence(control, candidate, path, told, outputs)


def _scalings(a: Side, b: Side, pair: tuple[Record | None, Record | None]) -> tuple[str, ...]:
    """How the two sides scale by a number, where they do so by other operations or elsewhere."""
    names = {record.eqn.primitive.name for record in pair if record is not None}
    if None in pair or len(names) == 1:
        return ()
    one, two = (_scaled(s, r) for s, r in zip((a, b), pair, strict=True) if r is not None)
    return (f"the control {one}, the candidate {two}",) if one and two and one != two else ()


def _scaled(side: Side, record: Record) -> str:
    """What a value is multiplied or divided by, here or in what follows at once."""
    n, reached, made = side.numbering, set(record.outs), dict[Number, str]()

    def text(i: Number) -> str:
        scalar = n.splats.get(i, i)
        return made.get(i) or (number(n.constants[scalar]) if scalar in n.constants else "")

    at = side.records.index(record)
    for r in side.records[at : at + _NEXT]:
        if r is not record and not reached & set(r.ins):
            continue
        name, told = r.eqn.primitive.name, [text(i) for i in r.ins]
        if told and all(told):
            made[r.outs[0]] = f"{name}({', '.join(told)})"
        elif name in ("div", "mul") and len(told) == 2 and any(told):
            other = told[1] or told[0]
            if name == "mul":
                return f"multiplies by {other}"
            return f"divides by {other}" if told[1] else ""
        reached.update(r.outs)
    return ""


def differences(control: Equation | None, candidate: Equation | None) -> tuple[str, ...]:
    """In what two equations differ, in words."""
    if control is None or candidate is None:
        side, other = ("candidate", control) if candidate is None else ("control", candidate)
        return (f"the {side} has nothing like {other}",)
    found = []
    if control.primitive != candidate.primitive:
        found.append(f"{control.primitive} against {candidate.primitive}")
    for what, one, two in (
        ("dtype", control.dtype, candidate.dtype),
        ("shape", control.shape, candidate.shape),
    ):
        if one != two:
            found.append(f"{what} {one} against {two}")
    if control.primitive == candidate.primitive:
        ours, theirs = dict(control.params), dict(candidate.params)
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                found.append(f"{key} {ours.get(key)} against {theirs.get(key)}")
    if control.constants != candidate.constants:
        one, two = (", ".join(e.constants) or "none" for e in (control, candidate))
        found.append(f"constant {one} against {two}")
    if not found:
        one, two = (", ".join(e.operands) for e in (control, candidate))
        if one != two:
            found.append(f"fed by {one} against {two}")
    return tuple(found)


def equation(
    eqn: Any,
    stack: str,
    operands: Sequence[str],
    constants: Sequence[str],
    calls: Sequence[Any] = (),
) -> Equation:
    """An equation for a reader."""
    place, function = source.place(eqn, calls)
    aval = eqn.outvars[0].aval if eqn.outvars else None
    return Equation(
        eqn.primitive.name,
        tuple(getattr(aval, "shape", ())),
        str(getattr(aval, "dtype", "")),
        place,
        function,
        stack,
        tuple(operands),
        tuple(constants),
        _params(eqn.params),
        source.caller(eqn, calls),
    )


def number(value: Any) -> str:
    """A constant as text."""
    if isinstance(value, str):
        return value
    try:
        array = np.asarray(value)
    except TypeError:  # a random key
        return str(value)[:_LONG]
    return str(array.flat[0]) if array.size == 1 else f"{array.dtype}{list(array.shape)}"


def _equation(side: Side, record: Record) -> Equation:
    n, operands, constants = side.numbering, [], []
    producers = _producers(side, record)
    for i in record.ins:
        scalar = n.splats.get(i, i)
        if scalar in n.constants:
            constants.append(number(n.constants[scalar]))
            operands.append(constants[-1])
        elif i in n.names:
            operands.append(n.names[i])
        elif i in producers:
            made = producers[i]
            where, _ = source.place(made.eqn, made.calls)
            operands.append(f"{made.eqn.primitive.name} ({where})")
        else:
            operands.append("a value of the loop")
    path = source.module_path(record.stack, side.roots)
    return equation(record.eqn, path, operands, constants, record.calls)


def _producers(side: Side, record: Record) -> Mapping[Number, Record]:
    wanted = set(record.ins)
    return {o: r for r in side.records for o in r.outs if o in wanted}


def _params(params: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Parameters as text, without what is called and without None."""
    found = []
    for key in sorted(params):
        value = params[key]
        if value is None or callable(value) or hasattr(value, "eqns") or hasattr(value, "jaxpr"):
            continue
        text = str(value)
        if len(text) <= _LONG and " at 0x" not in text:
            found.append((key, text))
    return tuple(found)


def module(name: str) -> str:
    """The module that owns a parameter: `params/a/b/kernel` is `a/b`'s."""
    return name.removeprefix("params/").rpartition("/")[0]


def _own(side: Side, record: Record | None) -> str:
    """The module whose parameter is an operand."""
    names = [] if record is None else [side.numbering.names.get(i, "") for i in record.ins]
    return next((module(name) for name in names if name.startswith("params/")), "")


def _named(side: Side, record: Record | None) -> str:
    """The module by the name stack."""
    return "" if record is None else source.module_path(record.stack, side.roots)


def _has_names(side: Side) -> bool:
    named = sum(bool(source.module_path(r.stack, side.roots)) for r in side.records)
    return 5 * named > len(side.records)


def _near(side: Side, record: Record | None) -> str:
    """The module whose parameter is used next, or was used last."""
    if record is None:
        return ""
    at = side.records.index(record)
    nearby = (side.records[at : at + 60], side.records[at : max(at - 60, 0) : -1])
    return next((path for rs in nearby for r in rs if (path := _own(side, r))), "")
