"""Numbers of calls, branches and loops, whatever the order of their arguments.

A carry of a loop is told by how it starts and by how it goes on, which may depend on other carries
and on itself. So all carries are told apart step by step, as states of an automaton are: first by
their starts; then by their updates, where other carries stand under their last names; until no two
that have one name get different ones. Two loops are equal if the names that a result depends on,
directly or not, go on alike in both: each name with the one that it gets next is part of the
digest, so equal digests make "has the same name" a bisimulation of both loops.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from maxmig.parity.static import encode, primitives, source
from maxmig.parity.static.encode import Number, Opaque, digest

if TYPE_CHECKING:
    from maxmig.parity.static.number import Numbering

_EMPTY: frozenset[Any] = frozenset()


def call(n: "Numbering", eqn: Any, ins: Sequence[Number], stack: str) -> list[Number]:
    """A call is what it calls."""
    name = eqn.primitive.name
    place, _ = source.line(eqn)
    if eqn.params.get("compiler_options_kvs"):
        return [n.opaque(f"compiler options at {place}", ins) for _ in eqn.outvars]
    try:
        ins = _placed(n, ins, eqn.params, "in")
        outs = n.walk(eqn.params[primitives.CALLS[name]], ins, source.joined(stack, eqn))
        return _placed(n, outs, eqn.params, "out")
    except (Opaque, ValueError) as error:
        return [n.opaque(f"{error} in {name} at {place}", ins) for _ in eqn.outvars]


def cond(n: "Numbering", eqn: Any, ins: Sequence[Number], stack: str) -> list[Number]:
    """The results of all branches in their order, and what chooses."""
    index, given = ins[0], ins[1:]
    inner = source.joined(stack, eqn)
    branches = [n.body(b, given, inner, first=True) for b in eqn.params["branches"]]
    kind = n.type(eqn.invars[0].aval)
    outs = []
    for var, results in zip(eqn.outvars, zip(*branches, strict=True), strict=True):
        if len(set(results)) == 1:
            outs.append(results[0])
            continue
        number = digest(b"cond", index, kind, n.type(var.aval), *results)
        outs.append(n.inherit(number, (index, *results)))
    within = [result for results in branches for result in results]
    n.record(eqn, stack, ins, outs, within)
    return outs


def scan(n: "Numbering", eqn: Any, ins: Sequence[Number], stack: str) -> list[Number]:
    """A scan, by the carries and the slices that each result depends on."""
    sizes = source.scan_sizes(eqn.params, len(eqn.outvars))
    consts, init, xs = source.operands(ins, *sizes)
    _, init_vars, xs_vars = source.operands(eqn.invars, *sizes)
    inner = source.joined(stack, eqn)
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    level = n.level(ins)
    slices = [
        _slice(n, number, var.aval, length, level) for number, var in zip(xs, xs_vars, strict=True)
    ]

    def advance(carries: list[Number], first: bool) -> list[Number]:
        return n.body(body, [*consts, *carries, *slices], inner, first=first)

    starts = [(i, n.type(v.aval)) for i, v in zip(init, init_vars, strict=True)]
    loop = _solve(n, starts, advance, level)
    head = digest(b"scan", b"%d" % length, b"%d" % bool(eqn.params["reverse"]))
    outs = loop.carries(n, head)
    for var, result in zip(eqn.outvars[len(init) :], loop.results[len(init) :], strict=True):
        outs.append(loop.result(n, digest(head, b"ys", n.type(var.aval)), result))
    n.record(eqn, stack, ins, outs, loop.first)
    return outs


def while_loop(n: "Numbering", eqn: Any, ins: Sequence[Number], stack: str) -> list[Number]:
    """A while loop, by the carries that each result and the condition depend on."""
    sizes = source.loop_sizes(eqn.params)
    cond_consts, body_consts, init = source.operands(ins, *sizes)
    init_vars = source.operands(eqn.invars, *sizes)[2]
    inner = source.joined(stack, eqn)
    level = n.level(ins)

    def advance(carries: list[Number], first: bool) -> list[Number]:
        going = n.body(eqn.params["cond_jaxpr"], [*cond_consts, *carries], inner, first=first)
        return (
            n.body(eqn.params["body_jaxpr"], [*body_consts, *carries], inner, first=first) + going
        )

    starts = [(i, n.type(v.aval)) for i, v in zip(init, init_vars, strict=True)]
    loop = _solve(n, starts, advance, level)
    head = digest(b"while", loop.result(n, b"condition", loop.results[len(init)]))
    outs = loop.carries(n, head, loop.results[len(init)])
    n.record(eqn, stack, ins, outs, loop.first)
    return outs


@dataclasses.dataclass
class _Loop:
    """A loop whose carries have been told apart.

    Attributes:
        level: of its symbols.
        names: of the carries, as their updates see them.
        nexts: the names that they get next, one to one with `names`.
        starts: number of each carry's start where it never changes, else None.
        updates: numbers of the carries' updates.
        results: numbers of all that the body returns.
        first: what the body returned on the first walk.
        rounds: how many walks it took.
        own: the symbols of the loop.
    """

    level: int
    names: list[Number]
    nexts: list[Number]
    constant: list[Number | None]
    results: list[Number]
    first: list[Number]
    rounds: int

    def carries(self, n: "Numbering", head: Number, *also: Number) -> list[Number]:
        """Numbers of the carries after the loop; `also` is what ends it."""
        outs = []
        for i, start in enumerate(self.constant):
            if start is not None:
                outs.append(start)
                continue
            outs.append(self.result(n, digest(head, b"carry"), self.nexts[i], *also, carry=i))
        return outs

    def result(
        self, n: "Numbering", head: bytes, number: Number, *also: Number, carry: int | None = None
    ) -> Number:
        """The number of a result of the loop, from the body's number of it."""
        needed = self._needed(n, (number, *also), carry)
        pairs = sorted({digest(self.names[i], self.nexts[i]) for i in needed})
        found = digest(head, b"%d" % self.rounds, number, *also, *pairs)
        n.inherit(found, [number, *also, *(self.nexts[i] for i in needed)])
        outer = frozenset(s for s in n.free.get(found, _EMPTY) if n.levels[s] < self.level)
        if outer:
            n.free[found] = outer
        else:
            n.free.pop(found, None)
        return found

    def _needed(self, n: "Numbering", numbers: Iterable[Number], carry: int | None) -> list[int]:
        """Carries that the numbers depend on, directly or by way of other carries."""
        places: dict[Number, list[int]] = {}
        for i, name in enumerate(self.names):
            if self.constant[i] is None:
                places.setdefault(name, []).append(i)
        todo = [] if carry is None else [carry]
        for number in numbers:
            todo += [i for s in n.free.get(number, _EMPTY) for i in places.get(s, ())]
        seen: set[int] = set()
        while todo:
            i = todo.pop()
            if i not in seen:
                seen.add(i)
                free = n.free.get(self.results[i], _EMPTY)
                todo += [j for s in free for j in places.get(s, ())]
        return sorted(seen)


def _solve(
    n: "Numbering",
    starts: list[tuple[Number, bytes]],
    advance: Callable[[list[Number], bool], list[Number]],
    level: int,
) -> _Loop:
    """Tells the carries of a loop apart."""
    constant: list[Number | None] = [None] * len(starts)
    first: list[Number] = []
    while True:
        rounds = 0
        names = [_symbol(n, level, (b"carry", number, kind), (number,)) for number, kind in starts]
        while True:
            given = [name if c is None else c for name, c in zip(names, constant, strict=True)]
            results = advance(given, not first)
            first = first or results or [b""]
            rounds += 1
            nexts = [
                _symbol(n, level, (b"carry", *start, b"then", result), (start[0], result))
                for start, result in zip(starts, results, strict=False)
            ]
            if _classes(nexts, constant) == _classes(names, constant):
                break
            names = nexts
        fixed = [
            i
            for i, name in enumerate(names)
            if constant[i] is None and results[i] in (name, starts[i][0])
        ]
        if not fixed:
            return _Loop(level, names, nexts, constant, results, first, rounds)
        for i in fixed:  # it never changes, so it is no carry at all
            constant[i] = starts[i][0]


def _classes(names: list[Number], constant: list[Number | None]) -> int:
    return len({name for name, c in zip(names, constant, strict=True) if c is None})


def _symbol(n: "Numbering", level: int, parts: tuple[bytes, ...], ins: Sequence[Number]) -> Number:
    """A number that stands for a value inside a loop, which changes from one turn to the next."""
    number = digest(b"symbol", b"%d" % level, *parts)
    n.inherit(number, ins)
    # It is a value of its own, not made of its parts, but for what those cannot tell.
    outer = frozenset(s for s in n.free.get(number, _EMPTY) if n.levels[s] < level)
    n.free[number] = outer | {number}
    n.levels[number] = level
    return number


def _slice(n: "Numbering", number: Number, aval: Any, length: int, level: int) -> Number:
    """One layer of a stacked operand."""
    if number in n.splats:
        count = 1
        for size in aval.shape[1:]:
            count *= size
        return n.splat(n.splats[number], count, aval)
    symbol = _symbol(n, level, (b"slice", number, n.type(aval)), (number,))
    return n.named(symbol, n.names[number]) if number in n.names else symbol


def _placed(
    n: "Numbering", numbers: Sequence[Number], params: dict[str, Any], side: str
) -> list[Number]:
    """Numbers with the placement that a call asks for, where it asks for one."""
    shardings = params.get(f"{side}_shardings") or ()
    found = []
    for i, number in enumerate(numbers):
        wanted = shardings[i] if i < len(shardings) else None
        if wanted is None or type(wanted).__name__ == "UnspecifiedValue":
            found.append(number)
        else:
            placed = digest(b"placed", encode.encode(wanted, n.function), number)
            found.append(n.inherit(placed, (number,)))
    return found


HANDLERS: dict[str, Callable[..., list[Number]]] = {
    **dict.fromkeys(primitives.CALLS, call),
    "cond": cond,
    "scan": scan,
    "while": while_loop,
}
