"""Walks a jaxpr equation by equation, with every float promoted to float64, or without any values.

Calls are inlined and scans unrolled, so that each equation of each layer is an event of its own.
Without values the walk gives the same events in the same order: that is what two sides are aligned
by before anything is computed.
"""

import dataclasses
import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from maxmig.parity.programs import Program
from maxmig.parity.shadow import rules
from maxmig.parity.static import primitives, source

Values = list[Any]
Fed = frozenset[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One equation of one layer.

    Attributes:
        eqn: the equation.
        path: the module, by the name stack, the layer's number in it; empty where none is told.
        calls: the calls and loops around it.
        params: names of the parameters among its operands, the layer's number in them.
        constants: the numbers among its operands.
        fed: indices of the events whose results, maybe rearranged, are its operands.
        outs: its results; None without values.
    """

    eqn: Any
    path: str
    calls: tuple[Any, ...]
    params: tuple[str, ...]
    constants: tuple[Any, ...]
    fed: Fed
    outs: Values | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a value without its numbers.

    Attributes:
        param: the parameter that it is, maybe rearranged.
        fed: indices of the events that it comes from.
    """

    param: str = ""
    fed: Fed = frozenset()


_UNKNOWN = _Known()
_Steps = Generator[Event, None, tuple[Values | None, list[_Known]]]


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the walk is: name stack, calls, and the stacks of layers that are being unrolled."""

    stack: str = ""
    calls: tuple[Any, ...] = ()
    layers: tuple[tuple[str, int], ...] = ()
    silent: bool = False

    def into(self, eqn: Any) -> "_Place":
        inner = "/".join(s for s in (self.stack, source.stack(eqn)) if s)
        return dataclasses.replace(self, stack=inner, calls=(*self.calls, eqn))


def _live(program: Program) -> Program:
    """The program without what no output needs, such as an initialiser that a bridge calls."""
    closed = program.jaxpr
    inner, _ = dce_jaxpr(closed.jaxpr, [True] * len(program.outputs), instantiate=True)
    return dataclasses.replace(program, jaxpr=ClosedJaxpr(inner, closed.consts))


class Walk:
    """The events of one program.

    Attributes:
        program: the program.
        outputs: after a walk, the events that each output comes from.
        unshadowable: after a walk without values, what has no meaning in float64.
    """

    def __init__(self, program: Program):
        self.program = _live(program)
        self.roots = frozenset(n.split("/")[1] for n in program.inputs if n.startswith("params/"))
        self.outputs: dict[str, Fed] = {}
        self.unshadowable: dict[str, None] = {}
        self._count = 0
        self._prefixes: dict[str, None] = {}
        self._last: dict[int, tuple[Any, list[list[Any]]]] = {}

    def events(self) -> Iterator[Event]:
        """All events, without values."""
        yield from self._program(None)

    def run(self, inputs: Mapping[str, Any]) -> Generator[Event, Values | None, dict[str, Any]]:
        """All events with values; what it returns are the outputs by name.

        What is sent to it takes the place of an event's results. To be run under `rules.float64()`.
        """
        given = [rules.promote(inputs[name]) for name in self.program.inputs]
        outs = yield from self._program(given)
        assert outs is not None
        return dict(zip(self.program.outputs, outs, strict=True))

    def _program(self, given: Values | None) -> Generator[Event, Any, Values | None]:
        self._count = 0
        known = [_Known(n if n.startswith("params/") else "") for n in self.program.inputs]
        outs, made = yield from self._jaxpr(self.program.jaxpr, given, known, _Place())
        self.outputs = {n: k.fed for n, k in zip(self.program.outputs, made, strict=True)}
        return outs

    def _jaxpr(
        self, jaxpr: Any, given: Values | None, known: Sequence[_Known], place: _Place
    ) -> _Steps:
        inner, consts = source.parts(jaxpr)
        env: dict[Any, Any] | None = None
        if given is not None:
            env = dict(zip(inner.invars, given, strict=True))
            for var, value in zip(inner.constvars, consts, strict=True):
                env[var] = rules.promote(value)
        told = dict(zip(inner.invars, known, strict=True))
        for eqn, dead in zip(inner.eqns, self._dying(inner), strict=True):
            ins = None if env is None else [_read(env, atom) for atom in eqn.invars]
            outs, made = yield from self._equation(
                eqn, ins, [_told(told, v) for v in eqn.invars], place
            )
            told.update(zip(eqn.outvars, made, strict=True))
            if env is not None:
                assert outs is not None
                env.update(zip(eqn.outvars, outs, strict=True))
                for var in dead:
                    env.pop(var, None)
        results = None if env is None else [_read(env, atom) for atom in inner.outvars]
        return results, [_told(told, atom) for atom in inner.outvars]

    def _equation(self, eqn: Any, ins: Values | None, known: list[_Known], place: _Place) -> _Steps:
        name = eqn.primitive.name
        if ins is None:
            self._note(eqn, place)
        if name in primitives.CALLS:
            called = eqn.params[primitives.CALLS[name]]
            return (yield from self._jaxpr(called, ins, known, place.into(eqn)))
        if name == "scan":
            return (yield from self._scan(eqn, ins, known, place))
        outs: Values | None = None
        if ins is not None:
            opaque = name in ("while", "cond")
            outs = self._silent(eqn, ins, place) if opaque else rules.apply(eqn, ins)
        made = _Known(fed=frozenset().union(*(k.fed for k in known)))
        if name in rules.RENAMING and len(known) == 1:
            made = known[0]
        if name not in rules.QUIET and not place.silent and eqn.outvars:
            replaced = yield self._event(eqn, known, made.fed, outs, place)
            outs = outs if replaced is None else replaced
            made = _Known(fed=frozenset((self._count,)))
            self._count += 1
        return outs, [made] * len(eqn.outvars)

    def _note(self, eqn: Any, place: _Place) -> None:
        """Remembers what has no meaning in float64, also inside of branches and loops."""
        if reason := rules.unshadowable(eqn):
            line, _ = source.place(eqn, place.calls)
            self.unshadowable[f"{reason} ({line})" if line else reason] = None
        if eqn.primitive.name in ("while", "cond"):
            inside = place.into(eqn)
            for sub in rules.bodies(eqn):
                for inner in source.parts(sub)[0].eqns:
                    self._deep(inner, inside)

    def _deep(self, eqn: Any, place: _Place) -> None:
        self._note(eqn, place)
        for sub in rules.bodies(eqn):
            for inner in source.parts(sub)[0].eqns:
                self._deep(inner, place.into(eqn))

    def _event(
        self, eqn: Any, known: list[_Known], fed: Fed, outs: Values | None, place: _Place
    ) -> Event:
        stack = "/".join(s for s in (place.stack, source.stack(eqn)) if s)
        path = self._numbered(source.module_path(stack, self.roots), place.layers)
        constants = tuple(v.val for v in eqn.invars if hasattr(v, "val"))
        params = tuple(k.param for k in known if k.param)
        return Event(eqn, path, place.calls, params, constants, fed, outs)

    def _scan(self, eqn: Any, ins: Values | None, known: list[_Known], place: _Place) -> _Steps:
        body, length = eqn.params["jaxpr"], eqn.params["length"]
        sizes = source.scan_sizes(eqn.params, len(eqn.outvars))
        consts_known, carry_known, xs_known = source.operands(known, *sizes)
        consts, carry, xs = ([], [], []) if ins is None else source.operands(ins, *sizes)
        stacked: list[tuple[list[Any] | None, list[_Known]]] = []
        inside, prefix = place.into(eqn), self._prefix([k.param for k in xs_known])
        order = range(length)[::-1] if eqn.params["reverse"] else range(length)
        for i in order:
            here = inside
            if prefix:
                here = dataclasses.replace(inside, layers=(*inside.layers, (prefix, i)))
            given = None if ins is None else [*consts, *carry, *(x[i] for x in xs)]
            layer = [
                dataclasses.replace(k, param=self._numbered_name(k.param, prefix, i))
                for k in xs_known
            ]
            outs, made = yield from self._jaxpr(
                body, given, [*consts_known, *carry_known, *layer], here
            )
            count = len(carry_known)
            carry, carry_known = (outs or [])[:count], made[:count]
            stacked.append((None if outs is None else outs[count:], made[count:]))
        if eqn.params["reverse"]:
            stacked.reverse()
        ys = [v.aval for v in eqn.outvars[len(carry_known) :]]
        ys_known = [
            _Known(fed=frozenset().union(*(made[k].fed for _, made in stacked)))
            for k in range(len(ys))
        ]
        made = [*carry_known, *ys_known]
        if ins is None:
            return None, made
        rows = [row for row, _ in stacked if row is not None]
        return [*carry, *(rules.stack([r[k] for r in rows], a) for k, a in enumerate(ys))], made

    def _silent(self, eqn: Any, ins: Values, place: _Place) -> Values:
        """A branch or a loop whose length is not known beforehand: one event."""
        inside = dataclasses.replace(place.into(eqn), silent=True)
        if eqn.primitive.name == "cond":
            branches = eqn.params["branches"]
            index = min(max(int(ins[0]), 0), len(branches) - 1)
            return self._result(branches[index], ins[1:], inside)
        sizes = source.loop_sizes(eqn.params)
        cond_consts, body_consts, carry = source.operands(ins, *sizes)
        while bool(self._result(eqn.params["cond_jaxpr"], [*cond_consts, *carry], inside)[0]):
            carry = self._result(eqn.params["body_jaxpr"], [*body_consts, *carry], inside)
        return list(carry)

    def _result(self, jaxpr: Any, given: Values, place: _Place) -> Values:
        walk = self._jaxpr(jaxpr, given, [_UNKNOWN] * len(given), place)
        while True:
            try:
                next(walk)
            except StopIteration as done:
                return list(done.value[0])

    def _prefix(self, names: Sequence[str]) -> str:
        """What the stacked parameters of a scan have in common: `decoder/layers`."""
        paths = [n.removeprefix("params/").split("/") for n in names if n]
        if not paths:
            return next(iter(self._prefixes), "")
        same = itertools.takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False))
        common = [names[0] for names in same]
        prefix = "/".join(common if len(common) < len(paths[0]) else common[:-1])
        if prefix:
            self._prefixes.setdefault(prefix)
        return prefix

    @staticmethod
    def _numbered(path: str, layers: Sequence[tuple[str, int]]) -> str:
        for prefix, i in layers:
            if path == prefix or path.startswith(f"{prefix}/"):
                path = f"{prefix}_{i}{path[len(prefix) :]}"
        return path

    @classmethod
    def _numbered_name(cls, name: str, prefix: str, i: int) -> str:
        if not name:
            return ""
        return "params/" + cls._numbered(name.removeprefix("params/"), [(prefix, i)])

    def _dying(self, inner: Any) -> list[list[Any]]:
        """For each equation the variables that nothing after it uses."""
        found = self._last.get(id(inner))
        if found is None:
            used = {v for v in inner.outvars if not hasattr(v, "val")}
            dying: list[list[Any]] = []
            for eqn in reversed(inner.eqns):
                touched = [v for v in (*eqn.invars, *eqn.outvars) if not hasattr(v, "val")]
                dying.append([v for v in dict.fromkeys(touched) if v not in used])
                used.update(touched)
            found = self._last[id(inner)] = (inner, dying[::-1])
        return found[1]


def _told(told: dict[Any, _Known], atom: Any) -> _Known:
    return _UNKNOWN if hasattr(atom, "val") else told.get(atom, _UNKNOWN)


def _read(env: dict[Any, Any], atom: Any) -> Any:
    if hasattr(atom, "val"):
        return rules.promote(np.asarray(atom.val, atom.aval.dtype))
    return env[atom]
