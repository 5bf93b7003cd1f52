"""Walks a jaxpr equation by equation, with every float promoted to float64, or without any values.

Calls are inlined and scans unrolled, so that each equation of each layer is an event of its own.
Without values the walk gives the same events in the same order: that is what two sides are aligned
by before anything is computed. While loops and branches are one event each, since only values tell
how they go; on request a walk with values looks into them.

A value is dropped after the last equation that uses it, also inside of the calls that it is handed
to: the memory of a walk is that of the values in use, however many equations there are.
"""

import dataclasses
import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from maxmig.parity.programs import Program
from maxmig.parity.shadow import loops, rules
from maxmig.parity.shadow.events import UNKNOWN, Event, Fed, Known, Place, Steps, Values
from maxmig.parity.static import primitives, source

CHOOSING = ("while", "cond")


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
        choosing: after a walk without values, whether there is a while loop or a branch.
        branches: after a walk with values, of each choice its place, how many branches it has, and
            which of them were taken.
    """

    def __init__(self, program: Program, *, inside: bool = False):
        """Args: program: what is walked; inside: whether to look into while loops and branches."""
        self.program = _live(program)
        self.roots = frozenset(n.split("/")[1] for n in program.inputs if n.startswith("params/"))
        self.outputs: dict[str, Fed] = {}
        self.unshadowable: dict[str, None] = {}
        self.choosing = False
        self.branches: dict[int, tuple[str, int, set[int]]] = {}
        self._inside = inside
        self._count = 0
        self._prefixes: dict[str, None] = {}
        self._last: dict[int, tuple[Any, list[list[Any]]]] = {}

    def events(self) -> Iterator[Event]:
        """All events, without values: none of those inside of while loops and branches."""
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
        known = [Known(n if n.startswith("params/") else "") for n in self.program.inputs]
        outs, made = yield from self.jaxpr(self.program.jaxpr, given, known, Place())
        self.outputs = {n: k.fed for n, k in zip(self.program.outputs, made, strict=True)}
        return outs

    def jaxpr(
        self, jaxpr: Any, given: Values | None, known: Sequence[Known], place: Place
    ) -> Steps:
        """The events of a jaxpr, and its results.

        Args:
            jaxpr: what is walked, open or closed.
            given: its operands, None without values; the list is emptied, so that no caller holds
                what is not used any more.
            known: what is known of the operands.
            place: where it stands.
        """
        inner, consts = source.parts(jaxpr)
        env: dict[Any, Any] | None = None
        if given is not None:
            env = dict(zip(inner.invars, given, strict=True))
            given.clear()
            for var, value in zip(inner.constvars, consts, strict=True):
                env[var] = rules.promote(value)
        told = dict(zip(inner.invars, known, strict=True))
        for eqn, dead in zip(inner.eqns, self._dying(inner), strict=True):
            ins = None if env is None else [_read(env, atom) for atom in eqn.invars]
            _drop(env, dead)
            outs, made = yield from self._equation(
                eqn, ins, [_told(told, v) for v in eqn.invars], place
            )
            told.update(zip(eqn.outvars, made, strict=True))
            if env is not None:
                assert outs is not None
                env.update(zip(eqn.outvars, outs, strict=True))
                _drop(env, dead)
            del ins, outs
        results = None if env is None else [_read(env, atom) for atom in inner.outvars]
        return results, [_told(told, atom) for atom in inner.outvars]

    def _equation(self, eqn: Any, ins: Values | None, known: list[Known], place: Place) -> Steps:
        name = eqn.primitive.name
        if ins is None:
            self._note(eqn, place)
        if name in primitives.CALLS:
            called = eqn.params[primitives.CALLS[name]]
            return (yield from self.jaxpr(called, ins, known, place.into(eqn)))
        if name == "scan":
            return (yield from loops.scan(self, eqn, ins, known, place))
        outs: Values | None = None
        if ins is not None:
            if name not in CHOOSING:
                outs = rules.apply(eqn, ins)
            elif self._inside and not place.silent:
                return (yield from loops.inside(self, eqn, ins, known, place))
            else:
                outs = loops.silent(self, eqn, ins, place)
        made = Known(fed=frozenset().union(*(k.fed for k in known)))
        if name in rules.RENAMING and len(known) == 1:
            made = known[0]
        if name in rules.QUIET or place.silent or not eqn.outvars:
            return outs, [made] * len(eqn.outvars)
        if ins is not None:
            ins.clear()
        return (yield from self.event(eqn, known, made.fed, outs, place))

    def event(
        self, eqn: Any, known: Sequence[Known], fed: Fed, outs: Values | None, place: Place
    ) -> Steps:
        """One equation as an event; whoever asked for it may send other results."""
        stack = "/".join(s for s in (place.stack, source.stack(eqn)) if s)
        path = place.numbered(source.module_path(stack, self.roots))
        constants = tuple(k.constant for k in known if k.constant is not None)
        params = tuple(k.param for k in known if k.param)
        replaced = yield Event(eqn, path, place.calls, params, constants, fed, outs, place.turns)
        made = Known(fed=frozenset((self._count,)))
        self._count += 1
        return (outs if replaced is None else replaced), [made] * len(eqn.outvars)

    def prefix(self, names: Sequence[str]) -> str:
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

    @property
    def untaken(self) -> tuple[str, ...]:
        """Branches that no turn of the walk took, in words."""
        return tuple(
            f"branch {number} of the choice at {line or 'an unknown line'} is never taken"
            for line, count, taken in self.branches.values()
            for number in sorted(set(range(count)) - taken)
        )

    def take(self, eqn: Any, index: Any, calls: Sequence[Any]) -> int:
        """The branch that an index means."""
        count = len(eqn.params["branches"])
        if id(eqn) not in self.branches:
            self.branches[id(eqn)] = (source.place(eqn, calls)[0], count, set())
        number = min(max(int(index), 0), count - 1)
        self.branches[id(eqn)][2].add(number)
        return number

    def _note(self, eqn: Any, place: Place) -> None:
        """Remembers what has no meaning in float64, also inside of branches and loops."""
        if reason := rules.unshadowable(eqn):
            line, _ = source.place(eqn, place.calls)
            self.unshadowable[f"{reason} ({line})" if line else reason] = None
        if eqn.primitive.name in CHOOSING:
            self.choosing = True
            self._deep(eqn, place)

    def _deep(self, eqn: Any, place: Place) -> None:
        inside = place.into(eqn)
        for sub in rules.bodies(eqn):
            for inner in source.parts(sub)[0].eqns:
                self._note(inner, inside)
                if inner.primitive.name not in CHOOSING:
                    self._deep(inner, inside)

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


def _drop(env: dict[Any, Any] | None, dead: Sequence[Any]) -> None:
    if env is not None:
        for var in dead:
            env.pop(var, None)


def _told(told: dict[Any, Known], atom: Any) -> Known:
    return Known(constant=atom.val) if hasattr(atom, "val") else told.get(atom, UNKNOWN)


def _read(env: dict[Any, Any], atom: Any) -> Any:
    if hasattr(atom, "val"):
        return rules.promote(np.asarray(atom.val, atom.aval.dtype))
    return env[atom]
