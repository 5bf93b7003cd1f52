"""Scans, while loops and branches, turn by turn."""

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

from maxmig.parity.shadow import rules
from maxmig.parity.shadow.events import UNKNOWN, Known, Place, Steps, Values
from maxmig.parity.static import source

if TYPE_CHECKING:
    from maxmig.parity.shadow.walk import Walk

TURNS = 64  # of a while loop that are looked into; what follows counts as one equation


def scan(walk: "Walk", eqn: Any, ins: Values | None, known: list[Known], place: Place) -> Steps:
    """A scan unrolled, so that each layer of a stack counts for itself."""
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    sizes = source.scan_sizes(eqn.params, len(eqn.outvars))
    consts_known, carry_known, xs_known = source.operands(known, *sizes)
    valued = ins is not None
    consts, carry, xs = source.operands(ins or [], *sizes)
    if ins is not None:
        ins.clear()
    stacked: list[tuple[list[Any] | None, list[Known]]] = []
    inside, prefix = place.into(eqn), walk.prefix([k.param for k in xs_known])
    order = range(length)[::-1] if eqn.params["reverse"] else range(length)
    for i in order:
        here = inside
        if prefix:
            here = dataclasses.replace(inside, layers=(*inside.layers, (prefix, i)))
        given = [*consts, *carry, *(x[i] for x in xs)] if valued else None
        layer = [dataclasses.replace(k, param=_numbered(k.param, prefix, i)) for k in xs_known]
        carry = []  # the turn frees it after its last use
        outs, made = yield from walk.jaxpr(body, given, [*consts_known, *carry_known, *layer], here)
        count = len(carry_known)
        carry, carry_known = (outs or [])[:count], made[:count]
        stacked.append((None if outs is None else outs[count:], made[count:]))
    if eqn.params["reverse"]:
        stacked.reverse()
    ys = [v.aval for v in eqn.outvars[len(carry_known) :]]
    ys_known = [
        Known(fed=frozenset().union(*(made[k].fed for _, made in stacked))) for k in range(len(ys))
    ]
    made = [*carry_known, *ys_known]
    if not valued:
        return None, made
    rows = [row for row, _ in stacked if row is not None]
    return [*carry, *(rules.stack([r[k] for r in rows], a) for k, a in enumerate(ys))], made


def inside(walk: "Walk", eqn: Any, ins: Values, known: list[Known], place: Place) -> Steps:
    """The branch that is taken, or each turn of a while loop, as events of their own."""
    one = branch if eqn.primitive.name == "cond" else loop
    return (yield from one(walk, eqn, ins, known, place))


def branch(walk: "Walk", eqn: Any, ins: Values, known: list[Known], place: Place) -> Steps:
    """The branch that is taken."""
    number = walk.take(eqn, ins[0], place.calls)
    chosen, given = eqn.params["branches"][number], [k.after(known[0].fed) for k in known[1:]]
    values = ins[1:]
    ins.clear()
    outs, made = yield from walk.jaxpr(chosen, values, given, place.turn(eqn, number))
    return outs, [k.after(known[0].fed) for k in made]


def loop(walk: "Walk", eqn: Any, ins: Values, known: list[Known], place: Place) -> Steps:
    """The first turns of a while loop; if there are more, all the rest as one equation."""
    sizes = source.loop_sizes(eqn.params)
    cond_consts, body_consts, carry = source.operands(ins, *sizes)
    ins.clear()
    cond_known, body_known, now = source.operands(known, *sizes)
    for turn in itertools.count(1):
        if turn > TURNS:
            rest = silent(walk, eqn, [*cond_consts, *body_consts, *carry], place)
            fed = frozenset[int]().union(*(k.fed for k in now))
            return (yield from walk.event(eqn, known, fed, rest, place))
        going, told = yield from walk.jaxpr(
            eqn.params["cond_jaxpr"],
            [*cond_consts, *carry],
            [*cond_known, *now],
            place.turn(eqn, turn, decides=True),
        )
        assert going is not None
        now = [k.after(told[0].fed) for k in now]
        if not bool(going[0]):
            return carry, now
        given, carry = [*body_consts, *carry], []
        outs, now = yield from walk.jaxpr(
            eqn.params["body_jaxpr"], given, [*body_known, *now], place.turn(eqn, turn)
        )
        assert outs is not None
        carry = outs
    raise AssertionError  # a loop ends above


def silent(walk: "Walk", eqn: Any, ins: Values, place: Place) -> Values:
    """The results of a branch or of a loop whose length is not known beforehand, at once."""
    here = dataclasses.replace(place.into(eqn), silent=True)
    if eqn.primitive.name == "cond":
        number = walk.take(eqn, ins[0], place.calls)
        return _result(walk, eqn.params["branches"][number], ins[1:], here)
    sizes = source.loop_sizes(eqn.params)
    cond_consts, body_consts, carry = source.operands(ins, *sizes)
    while bool(_result(walk, eqn.params["cond_jaxpr"], [*cond_consts, *carry], here)[0]):
        given, carry = [*body_consts, *carry], []
        carry = _result(walk, eqn.params["body_jaxpr"], given, here)
    return list(carry)


def _result(walk: "Walk", jaxpr: Any, given: Values, place: Place) -> Values:
    steps = walk.jaxpr(jaxpr, given, [UNKNOWN] * len(given), place)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return list(done.value[0])


def _numbered(name: str, prefix: str, i: int) -> str:
    if not name:
        return ""
    path = Place(layers=((prefix, i),)).numbered(name.removeprefix("params/"))
    return f"params/{path}"
