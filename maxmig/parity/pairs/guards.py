"""Bounds and choices of one side alone that no input reaches: a clip, a where, a nan_to_num.

Equal numbers say nothing of them: what they would change never came. They are looked up in the
programs, brought together by what they do (`jnp.clip(x, 0, 6)` is `minimum(relu(x), 6)`), and those
without a counterpart are watched while the inputs run.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import source_info_util

from maxmig.parity.findings.measurement import SIDES
from maxmig.parity.programs import Program
from maxmig.parity.static import primitives, source

Flat = Mapping[str, Any]
Key = tuple[str, ...]

_QUIET = frozenset(
    {
        *("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy"),
        *("stop_gradient", "reduce_precision", "transpose", "sharding_constraint"),
    }
)
_FLIPPED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge", "eq": "eq", "ne": "ne"}
# What a user calls when a bound is meant; all else of JAX's own that is made of such steps is not.
_ASKED = frozenset({"clip", "_clip", "nan_to_num", "where", "_where", "maximum", "minimum"})
_INNARDS = (
    "jax/_src/nn/",
    "jax/_src/ops/",
    "jax/_src/scipy/",
    "jax/_src/image/",
    "jax/_src/random.py",
    "jax/_src/lax/slicing.py",
    "jax/_src/numpy/indexing.py",
    "jax/_src/numpy/reductions.py",
    "jax/_src/numpy/linalg.py",
)
_FRAMEWORKS = re.compile(r"/site-packages/(flax|optax|chex|einops)/")


@dataclasses.dataclass(frozen=True)
class _Fact:
    """What is known of a value without its numbers.

    Attributes:
        number: that it is throughout.
        test: the comparison that it is the result of.
        varies: whether it depends on an input.
    """

    number: float | None = None
    test: Key = ()
    varies: bool = False


_FIXED = _Fact()


@dataclasses.dataclass(frozen=True)
class Guard:
    """One bound or choice.

    Attributes:
        key: what it does.
        line: where it is written; empty where it is no line of the user's.
    """

    key: Key
    line: str

    def __str__(self) -> str:
        kind, *rest = self.key
        words = {"max": "the lower bound", "min": "the upper bound", "where": "a choice:"}[kind]
        return f"{words} {' '.join(rest)} ({self.line})"


def unseen(control: Program, candidate: Program, inputs: Sequence[Flat]) -> tuple[str, ...]:
    """The bounds and choices of one side alone that change nothing for any of the inputs.

    Args:
        control, candidate: the programs.
        inputs: arrays by name, as often as they were run.
    """
    both = [_Walk().guards(program) for program in (control, candidate)]
    found = []
    for side, program in enumerate((control, candidate)):
        other = {guard.key for guard in both[1 - side]}
        lone: dict[Key, Guard] = {}
        for guard in both[side]:
            if guard.line and guard.key not in other:
                lone.setdefault(guard.key, guard)
        if not lone:
            continue
        reached = _Walk(frozenset(lone)).reached(program, inputs)
        found += [
            f"the {SIDES[side]} alone has {guard}"
            for key, guard in lone.items()
            if key not in reached
        ]
    return tuple(found)


class _Walk:
    """Goes through a program, without values or with them, and notes its bounds and choices."""

    def __init__(self, watched: frozenset[Key] = frozenset()) -> None:
        self.found: list[Guard] = []
        self._watched = watched
        self._flags: dict[Key, Any] = {}

    def guards(self, program: Program) -> list[Guard]:
        """All of them, in order."""
        inner, consts = source.parts(program.jaxpr)
        given = [_Fact(varies=True)] * len(inner.invars)
        self._jaxpr(inner, consts, given, None, ())
        return self.found

    def reached(self, program: Program, inputs: Sequence[Flat]) -> set[Key]:
        """Which of those that are watched change something."""
        inner, consts = source.parts(program.jaxpr)

        @jax.jit
        def run(*values: Any) -> dict[str, Any]:
            self._flags = {}
            facts = [_Fact(varies=True)] * len(inner.invars)
            self._jaxpr(inner, consts, facts, list(values), ())
            return {"\n".join(key): flag for key, flag in self._flags.items()}

        found: set[Key] = set()
        for flat in inputs:
            flags = run(*(flat[name] for name in program.inputs))
            found |= {tuple(key.split("\n")) for key, flag in flags.items() if bool(flag)}
        return found

    def _jaxpr(
        self,
        inner: Any,
        consts: Sequence[Any],
        facts: Sequence[_Fact],
        values: Sequence[Any] | None,
        calls: tuple[Any, ...],
    ) -> tuple[list[_Fact], list[Any] | None]:
        told = dict(zip(inner.invars, facts, strict=True))
        told |= {v: _Fact(_number(c)) for v, c in zip(inner.constvars, consts, strict=True)}
        env: dict[Any, Any] = {}
        if values is not None:
            env = dict(zip(inner.invars, values, strict=True))
            env |= dict(zip(inner.constvars, consts, strict=True))

        def fact(atom: Any) -> _Fact:
            return _Fact(_number(atom.val)) if hasattr(atom, "val") else told[atom]

        def value(atom: Any) -> Any:
            return jnp.asarray(atom.val, atom.aval.dtype) if hasattr(atom, "val") else env[atom]

        for eqn in inner.eqns:
            ins = None if values is None else [value(atom) for atom in eqn.invars]
            made, outs = self._equation(eqn, [fact(a) for a in eqn.invars], ins, calls)
            told |= dict(zip(eqn.outvars, made, strict=True))
            if outs is not None:
                env |= dict(zip(eqn.outvars, outs, strict=True))
        results = None if values is None else [value(atom) for atom in inner.outvars]
        return [fact(atom) for atom in inner.outvars], results

    def _equation(
        self, eqn: Any, facts: list[_Fact], ins: list[Any] | None, calls: tuple[Any, ...]
    ) -> tuple[list[_Fact], list[Any] | None]:
        name = eqn.primitive.name
        if name in primitives.CALLS:
            inner, consts = source.parts(eqn.params[primitives.CALLS[name]])
            return self._jaxpr(inner, consts, facts, ins, (*calls, eqn))
        if name == "scan":
            return self._scan(eqn, facts, ins, calls)
        self._note(eqn, facts, ins, calls)
        outs: list[Any] | None = None
        if ins is not None and eqn.outvars:  # without results it only has an effect
            with eqn.ctx.manager:
                result = eqn.primitive.bind(*ins, **eqn.params)
            outs = list(result) if eqn.primitive.multiple_results else [result]
        return [_result(eqn, facts)] * len(eqn.outvars), outs

    def _scan(
        self, eqn: Any, facts: list[_Fact], ins: list[Any] | None, calls: tuple[Any, ...]
    ) -> tuple[list[_Fact], list[Any] | None]:
        inner, consts = source.parts(eqn.params["jaxpr"])
        sizes = source.scan_sizes(eqn.params, len(eqn.outvars))
        varies = _Fact(varies=any(f.varies for f in facts))
        inside = [*facts[: sizes[0]], *[varies] * (len(facts) - sizes[0])]
        made = [varies] * len(eqn.outvars)
        if ins is None:
            self._jaxpr(inner, consts, inside, None, (*calls, eqn))
            return made, None
        fixed, carry, xs = source.operands(ins, *sizes)

        def turn(carry: list[Any], x: list[Any]) -> tuple[list[Any], Any]:
            walk = _Walk(self._watched)
            _, outs = walk._jaxpr(inner, consts, inside, [*fixed, *carry, *x], (*calls, eqn))
            assert outs is not None
            return outs[: len(carry)], (outs[len(carry) :], walk._flags)

        length, back = eqn.params["length"], eqn.params["reverse"]
        carry, (ys, flags) = jax.lax.scan(turn, carry, xs, length=length, reverse=back)
        for key, flag in flags.items():
            self._flag(key, flag.any())
        return made, [*carry, *ys]

    def _note(
        self, eqn: Any, facts: list[_Fact], ins: list[Any] | None, calls: tuple[Any, ...]
    ) -> None:
        for key, changes in _guards(eqn, facts):
            if ins is not None:
                if key in self._watched:
                    self._flag(key, changes(ins))
            else:
                self.found.append(Guard(key, _line(eqn, calls)))

    def _flag(self, key: Key, flag: Any) -> None:
        before = self._flags.get(key)
        self._flags[key] = flag if before is None else before | flag


def _guards(eqn: Any, facts: list[_Fact]) -> list[tuple[Key, Any]]:
    """What an equation bounds or chooses, and whether, by its operands, that changes a value."""
    name = eqn.primitive.name
    if name == "clamp":
        low, x, high = facts
        found = [
            (_bound("max", low), lambda ins: (ins[1] < ins[0]).any()),
            (_bound("min", high), lambda ins: (ins[1] > ins[2]).any()),
        ]
        return [pair for pair in found if pair[0]] if x.varies else []
    if name in ("max", "min"):
        for i, fact in enumerate(facts):
            key = _bound(name, fact)
            if key and facts[1 - i].varies:
                below = jnp.less if name == "max" else jnp.greater
                return [(key, functools.partial(_outside, below, i))]
        return []
    if name == "select_n" and len(facts) == 3 and facts[0].varies:
        return [_choice(facts)]
    return []


def _outside(beyond: Any, bound: int, ins: Sequence[Any]) -> Any:
    return beyond(ins[1 - bound], ins[bound]).any()


def _choice(facts: list[_Fact]) -> tuple[Key, Any]:
    test, no, yes = facts
    if (no.number is None) == (yes.number is None):  # both are something: both must be seen
        fill = "one of two" if no.number is None else f"{_text(no.number)} or {_text(yes.number)}"
        return ("where", fill, *test.test), lambda ins: _any(ins[0]) & ~_all(ins[0])
    number, on = (yes.number, True) if no.number is None else (no.number, False)
    asked = test.test
    if asked and asked[0] in ("gt", "ge", "lt", "le") and asked[1:] == (_text(number),):
        up = (asked[0] in ("gt", "ge")) == on
        key: Key = ("min" if up else "max", _text(number))
    else:
        key = ("where", _text(number), *(() if on else ("unless",)), *asked)
    return key, lambda ins: _any(ins[0]) if on else ~_all(ins[0])


def _any(x: Any) -> Any:
    return (x != 0).any()


def _all(x: Any) -> Any:
    return (x != 0).all()


def _bound(name: str, fact: _Fact) -> Key:
    number = fact.number
    return () if number is None or not math.isfinite(number) else (name, _text(number))


def _result(eqn: Any, facts: list[_Fact]) -> _Fact:
    name = eqn.primitive.name
    varies = any(f.varies for f in facts)
    if name in _QUIET and facts:
        return facts[0]
    if name == "is_finite":
        return _Fact(test=(name,), varies=varies)
    if name == "not":
        return _Fact(test=("not", *facts[0].test), varies=varies)
    if name in _FLIPPED:
        a, b = facts
        if eqn.invars[0] is eqn.invars[1]:
            return _Fact(test=("nan",) if name == "ne" else (name,), varies=varies)
        if b.number is not None:
            return _Fact(test=(name, _text(b.number)), varies=varies)
        if a.number is not None:
            return _Fact(test=(_FLIPPED[name], _text(a.number)), varies=varies)
        return _Fact(test=(name,), varies=varies)
    return dataclasses.replace(_FIXED, varies=varies)


def _number(value: Any) -> float | None:
    """The number that a constant is throughout."""
    try:
        array = np.asarray(value)
        if not array.size or array.dtype.kind not in "fiubV":
            return None
        array = array.astype(np.float64)
    except (TypeError, ValueError):  # a random key
        return None
    first = float(array.flat[0])
    return first if array.size == 1 or bool((array == first).all()) else None


def _text(number: float | None) -> str:
    return "none" if number is None else f"{number:.6g}"


def _line(eqn: Any, calls: tuple[Any, ...]) -> str:
    """The user's line that asks for it; empty where a library does, for reasons of its own."""
    link, name = eqn, ""
    for call in calls:
        if source.is_jaxs_own(call):
            link, name = call, str(call.params.get("name", ""))
            break
    if name and name not in _ASKED:
        return ""
    trace = link.source_info.traceback
    for frame in trace.frames if trace is not None else ():
        path = frame.file_name.replace("\\", "/")
        if source_info_util.is_user_filename(frame.file_name):
            return "" if _FRAMEWORKS.search(path) else source.place(eqn, calls)[0]
        if any(part in path for part in _INNARDS):
            return ""
    return ""
