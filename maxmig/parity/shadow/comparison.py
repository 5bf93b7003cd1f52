"""Compares two programs in float64, and names the first equation that differs."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from maxmig import errors
from maxmig.parity.findings.measurement import SIDES
from maxmig.parity.programs import Program
from maxmig.parity.shadow import align, lockstep, loops, rules
from maxmig.parity.shadow.events import Event
from maxmig.parity.shadow.lockstep import Gap
from maxmig.parity.shadow.results import Error, First, Module, Shadow
from maxmig.parity.shadow.walk import Walk
from maxmig.parity.static import describe
from maxmig.parity.static.results import Divergence

# Rounding in float64 adds up as a random walk; what is above is another computation.
_SMALLEST, _LARGEST = 1e-11, 1e-9


def compare(control: Program, candidate: Program, inputs: Mapping[str, Any]) -> Shadow:
    """Evaluates both programs on the same inputs, with every float promoted to float64.

    Args:
        control, candidate: what is compared.
        inputs: an array for each input of either side, by its name.

    Raises:
        ConfigError: an input is missing or has another shape.
    """
    _check((control, candidate), inputs)
    walks = Walk(control), Walk(candidate)
    events = [list(walk.events()) for walk in walks]
    reasons = [
        f"{text} in the {side}"
        for side, walk in zip(SIDES, walks, strict=True)
        for text in walk.unshadowable
    ]
    counts = (len(events[0]), len(events[1]))
    if reasons:
        return Shadow(control.name, events=counts, unshadowable=tuple(reasons))
    seen = _Seen.of(walks, events, inputs)
    ours, theirs = seen.outputs
    with rules.float64():
        found = held(ours, theirs)
    missing = [f"control: {n}" for n in ours if n not in theirs]
    missing += [f"candidate: {n}" for n in theirs if n not in ours]
    result = Shadow(
        control.name,
        found,
        tuple(missing),
        None,
        _modules(seen.gaps),
        len(seen.aligned),
        counts,
        untaken=tuple(
            f"{side}: {text}"
            for side, walk in zip(SIDES, walks, strict=True)
            for text in walk.untaken
        ),
    )
    if result.failures:
        if any(walk.choosing for walk in walks):
            seen = _look_inside(control, candidate, inputs)
        result = dataclasses.replace(result, first=_First(seen, result.failures).find())
    return result


@dataclasses.dataclass(frozen=True)
class _Seen:
    """Two walks with values, side by side."""

    walks: Sequence[Walk]
    events: Sequence[Sequence[Event]]
    aligned: align.Pairs
    gaps: Sequence[Gap]
    outputs: tuple[lockstep.Outputs, lockstep.Outputs]

    @classmethod
    def of(
        cls,
        walks: tuple[Walk, Walk],
        events: Sequence[Sequence[Event]],
        inputs: Mapping[str, Any],
    ) -> "_Seen":
        aligned = align.pairs(*events)
        with rules.float64():
            gaps, *outputs = lockstep.run(*walks, inputs, aligned)
        return cls(walks, events, aligned, gaps, (outputs[0], outputs[1]))


def _look_inside(control: Program, candidate: Program, inputs: Mapping[str, Any]) -> _Seen:
    """The same again with the turns of while loops, and the branches taken, as events.

    Which they are is known when they are computed: so each side runs once alone beforehand.
    """
    walks = Walk(control, inside=True), Walk(candidate, inside=True)
    with rules.float64():
        events = [
            [dataclasses.replace(event, outs=None) for event in walk.run(inputs)] for walk in walks
        ]
    return _Seen.of(walks, events, inputs)


def evaluate(program: Program, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The outputs of a program with every float in float64: the truth that it aims at.

    Raises:
        InconclusiveError: something in it has no meaning in float64; the text names it.
        ConfigError: an input is missing or has another shape.
    """
    _check((program,), inputs)
    walk = Walk(program)
    for _ in walk.events():
        pass
    if walk.unshadowable:
        reason = next(iter(walk.unshadowable))
        raise errors.InconclusiveError(f"{program.name}: no float64 shadow: {reason}")
    with rules.float64():
        side = walk.run(inputs)
        while True:
            try:
                next(side)
            except StopIteration as done:
                return {name: np.asarray(value) for name, value in done.value.items()}


def limit(elements: int) -> float:
    """The largest relative difference of two float64 computations of one thing."""
    return min(max(1e-12 * math.sqrt(elements), _SMALLEST), _LARGEST)


def _check(sides: Sequence[Program], inputs: Mapping[str, Any]) -> None:
    for side in sides:
        for name, aval in zip(side.inputs, side.jaxpr.in_avals, strict=True):
            if name not in inputs:
                raise errors.ConfigError(f"{side.name}: the input {name} is missing")
            shape = tuple(inputs[name].shape)
            if shape != tuple(aval.shape):
                raise errors.ConfigError(
                    f"{side.name}: expected {name} of shape {list(aval.shape)}, got {list(shape)}"
                )


def held(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[Error, ...]:
    """The outputs of two programs in float64, held against one another."""
    usual = _usual(ours)
    found = []
    for name in (n for n in ours if n in theirs):
        a, b = (np.asarray(_plain(side[name])) for side in (ours, theirs))
        if a.shape != b.shape:
            problem = f"shape {list(a.shape)} in the control, {list(b.shape)} in the candidate"
            found.append(Error(name, math.inf, limit(a.size), a.size, problem))
            continue
        floor = 0.01 * usual.get(_kind(name), 0.0) * math.sqrt(a.size)
        gap, _ = lockstep.relative(a, b, floor)
        problem = "not finite on one side alone" if math.isinf(gap) else ""
        found.append(Error(name, gap, limit(a.size), a.size, problem))
    return tuple(found)


def _usual(outputs: Mapping[str, Any]) -> dict[str, float]:
    """Root mean square of all outputs of a kind: gradients, parameters, ..."""
    sums: dict[str, tuple[float, int]] = {}
    for name, value in outputs.items():
        array = np.asarray(_plain(value))
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            continue
        total, count = sums.get(_kind(name), (0.0, 0))
        sums[_kind(name)] = (total + float(np.sum(np.square(array))), count + array.size)
    return {kind: math.sqrt(total / count) for kind, (total, count) in sums.items() if count}


def _kind(name: str) -> str:
    """`gradients`, `params`, `opt_state/mu`, ...; scalars of a loss are each on their own."""
    first, _, rest = name.partition("/")
    if first in ("gradients", "params"):
        return first
    return "/".join([first, *rest.split("/")[:1]]) if first == "opt_state" else name


def _plain(value: Any) -> Any:
    import jax

    return (
        jax.random.key_data(value)
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
        else value
    )


def _modules(gaps: Sequence[Gap]) -> tuple[Module, ...]:
    """The largest gap of each module, in order."""
    found = []
    for path, group in itertools.groupby(gaps, key=lambda g: _path(g.control, g.candidate)):
        members = list(group)
        if path:
            found.append(Module(path, max(g.relative for g in members), len(members)))
    return tuple(found)


def _path(*events: Event) -> str:
    """The module of a pair: either side's name stack, or the parameter that is used."""
    for event in events:
        if event.path:
            return event.path
    return next((describe.module(n) for e in events for n in e.params), "")


@dataclasses.dataclass(frozen=True)
class _First:
    """Looks for the first equation that makes a difference."""

    seen: _Seen
    failures: Sequence[Error]

    def find(self) -> First | None:
        """What the sides compute unlike one another just before the first difference."""
        bad = next((g for g in self.seen.gaps if g.relative > _SMALLEST), None)
        last: tuple[Event | None, Event | None] = (None, None)
        if bad is None:
            ends = [
                frozenset[int]().union(*(w.outputs.get(e.output, ()) for e in self.failures))
                for w in self.seen.walks
            ]
        else:
            last, ends = (bad.control, bad.candidate), [bad.control.fed, bad.candidate.fed]
        paired = [set(side) for side in zip(*self.seen.aligned, strict=True)] or [set(), set()]
        extra = [self._unpaired(side, end, paired[side]) for side, end in enumerate(ends)]
        ours, theirs = (e or p for e, p in zip(extra, last, strict=True))
        if ours is None and theirs is None:
            return None
        told = self._told(ours, theirs)
        if bad is None:
            return First(told, max(e.relative for e in self.failures), math.nan, math.nan)
        return First(told, bad.relative, *bad.norms)

    def _unpaired(self, side: int, start: Iterable[int], paired: set[int]) -> Event | None:
        """The first event without a partner that leads there by way of such events alone."""
        events, todo = self.seen.events[side], [i for i in start if i not in paired]
        seen: set[int] = set()
        while todo:
            i = todo.pop()
            if i not in seen:
                seen.add(i)
                todo += [k for k in events[i].fed if k not in paired]
        return events[min(seen)] if seen else None

    def _told(self, ours: Event | None, theirs: Event | None) -> Divergence:
        one, two = (None if e is None else _equation(e) for e in (ours, theirs))
        outputs = tuple(e.output for e in self.failures)
        path = _path(*(e for e in (ours, theirs) if e is not None))
        told = (*describe.differences(one, two), *_turns(ours, theirs))
        return Divergence(one, two, path, told, outputs)


def _turns(*events: Event | None) -> tuple[str, ...]:
    """The turns of loops and the branches that equations are in, in words."""
    found = []
    for event in (e for e in events if e is not None):
        if event.eqn.primitive.name == "while":
            found.append(f"after turn {loops.TURNS} of the loop")
        found.append(event.within)
    return tuple(dict.fromkeys(text for text in found if text))


def _equation(event: Event) -> Any:
    constants = [describe.number(value) for value in event.constants]
    return describe.equation(event.eqn, event.path, event.params, constants, event.calls)
