"""One source of random numbers for both sides, so that dropout masks can be compared.

Linen derives keys from module paths and NNX from counters, so from one seed they draw other masks.
Here requests that stand at one place of both computations are given one key. The turns of a loop
share theirs: where one side scans its layers and the other lists them, all layers get one mask.
"""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from flax.core import scope as linen_scope

SEED = 20
MARK = "_maxmig_path"
_NAME = "maxmig_key_"

Table = Mapping[Hashable, int]


@dataclasses.dataclass(frozen=True)
class Request:
    """One place at which a side asks for a random key.

    Attributes:
        stream: the name it asks for, as far as the framework tells.
        loops: (which loop, its length) of the scans that it is in, the outermost first.
        place: what tells it from others of the same side.
    """

    stream: str
    loops: tuple[tuple[int, int], ...] = ()
    place: Hashable = None


class Requests:
    """Who asked for random keys, in the order of the first time."""

    def __init__(self, table: Table | None, *, named: bool) -> None:
        self.order: dict[Hashable, int] = {}
        self.streams: dict[Hashable, str] = {}
        self._table, self._named = table or {}, named
        self._counts: dict[Hashable, int] = {}

    def restart(self) -> None:
        """A call of the module begins."""
        self._counts.clear()

    def count(self, stream: Hashable) -> int:
        """How often it was asked before in this call."""
        found = self._counts.get(stream, 0)
        self._counts[stream] = found + 1
        return found

    def key(self, place: Hashable, stream: str) -> jax.Array:
        """The key of a place: asked again, as when a program is traced twice, the same."""
        own = self.order.setdefault(place, len(self.order))
        self.streams[place] = stream
        number = self._table.get(place, own)

        def make() -> jax.Array:
            return jax.random.fold_in(jax.random.key(SEED), number)

        if not self._named:
            return make()
        make.__name__ = f"{_NAME}{own}"
        return jax.jit(make)()


_ACTIVE: list[Requests] = []


def restart() -> None:
    """Tells that a call of a module begins: each gets the same keys."""
    if _ACTIVE:
        _ACTIVE[-1].restart()


@contextlib.contextmanager
def shared(table: Table | None = None, *, named: bool = False) -> Iterator[Requests]:
    """While it lasts, both frameworks draw from the shared source.

    Args:
        table: place -> number of the key, from `align`; by default the n-th gets the n-th.
        named: the keys can be found in what is traced, for `requests`.
    """
    requests = Requests(table, named=named)
    original_linen = linen_scope.Scope.make_rng
    original_nnx = nnx.RngStream.__call__

    def make_rng(self: Any, name: str = "params") -> jax.Array:
        original_linen(self, name)  # raises what it raises, and counts
        used = name if self.has_rng(name) else "params"
        return requests.key((self.path, name, self.rng_counters[used]), name)

    def call(self: Any) -> jax.Array:
        original_nnx(self)  # the counter advances as ever
        stream = (getattr(self, MARK, id(self)), self.tag)
        return requests.key((*stream, requests.count(stream)), self.tag)

    linen_scope.Scope.make_rng = make_rng  # type: ignore[method-assign]
    nnx.RngStream.__call__ = call  # type: ignore[method-assign]
    _ACTIVE.append(requests)
    try:
        yield requests
    finally:
        _ACTIVE.pop()
        linen_scope.Scope.make_rng = original_linen  # type: ignore[method-assign]
        nnx.RngStream.__call__ = original_nnx  # type: ignore[method-assign]


def requests(function: Callable[[Any], Any], inputs: Any) -> list[Request]:
    """What a function asks for, in the order of its program, with the loops that it is in.

    What is asked for and not used is not in it: Linen traces the body of a scan more than once.
    """
    from jax.interpreters import partial_eval

    with shared(named=True) as asked:
        closed = jax.make_jaxpr(function)(inputs)
    if not asked.order:
        return []
    used = [True] * len(closed.jaxpr.outvars)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, used)
    places = {number: place for place, number in asked.order.items()}
    found: dict[int, tuple[tuple[int, int], ...]] = {}
    for number, loops in _keys(jaxpr, (), itertools.count()):
        found.setdefault(number, loops)
    return [Request(asked.streams[places[n]], loops, places[n]) for n, loops in found.items()]


def align(ours: Sequence[Request], theirs: Sequence[Request]) -> tuple[Table, Table] | None:
    """Which places of both sides stand for one another; None if one side asks more often.

    Returns:
        For each side: place -> number of the key. Places that stand for the same get the same.
    """
    pairs = paired(ours, theirs)
    if pairs is None:
        return None
    group: dict[tuple[int, int], tuple[int, int]] = {}

    def first(node: tuple[int, int]) -> tuple[int, int]:
        while group.setdefault(node, node) != node:
            node = group[node]
        return node

    for a, b in pairs:
        one, two = first((0, a)), first((1, b))
        group[max(one, two)] = min(one, two)
    numbers = {node: n for n, node in enumerate(dict.fromkeys(first(node) for node in [*group]))}
    sides = ({}, {})  # type: tuple[dict[Hashable, int], dict[Hashable, int]]
    for side, asked in enumerate((ours, theirs)):
        for i, request in enumerate(asked):
            sides[side][request.place] = numbers[first((side, i))]
    return sides


def follow(ours: Sequence[tuple[Request, int]], theirs: Sequence[Request]) -> Table | None:
    """The keys of one side where those of the other are given: from a recording.

    Args:
        ours: the other side's requests, and the number of the key that each was given.
        theirs: this side's.
    """
    pairs = paired([request for request, _ in ours], theirs)
    table: dict[Hashable, int] = {}
    for a, b in pairs or ():
        number = ours[a][1]
        if table.setdefault(theirs[b].place, number) != number:
            return None  # one loop, of what were several layers with masks of their own
    return None if pairs is None else table


def paired(ours: Sequence[Request], theirs: Sequence[Request]) -> list[tuple[int, int]] | None:
    """The i-th of all requests of both sides, loops unrolled; None if they are not as many."""
    a, b = _unrolled(list(enumerate(ours)), 0), _unrolled(list(enumerate(theirs)), 0)
    return list(dict.fromkeys(zip(a, b, strict=True))) if len(a) == len(b) else None


def names(ours: Sequence[Request], theirs: Sequence[Request]) -> str:
    """What differs in the names of the streams, in words; empty if nothing does."""
    pairs = paired(ours, theirs)
    if pairs is None:
        count = [len(_unrolled(list(enumerate(side)), 0)) for side in (ours, theirs)]
        told = [", ".join(dict.fromkeys(r.stream for r in side)) or "-" for side in (ours, theirs)]
        return (
            f"a call of the control asks for {count[0]} random keys ({told[0]}), of the candidate "
            f"for {count[1]} ({told[1]})"
        )
    # `nnx.Rngs(0)` has one stream for all names.
    other = {
        (ours[a].stream, theirs[b].stream): None
        for a, b in pairs
        if theirs[b].stream not in ("default", ours[a].stream)
    }
    return "; ".join(
        f"what Linen draws from the stream {a!r}, NNX draws from {b!r}" for a, b in other
    )


def _unrolled(asked: Sequence[tuple[int, Request]], depth: int) -> list[int]:
    found: list[int] = []
    loop = lambda item: item[1].loops[depth : depth + 1]  # noqa: E731
    for which, group in itertools.groupby(asked, key=loop):
        members = list(group)
        if which:
            found += _unrolled(members, depth + 1) * which[0][1]
        else:
            found += [i for i, _ in members]
    return found


def _keys(
    jaxpr: Any, loops: tuple[tuple[int, int], ...], loop: "itertools.count[int]"
) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
    for eqn in jaxpr.eqns:
        match = re.fullmatch(rf"{_NAME}(\d+)", str(eqn.params.get("name", "")))
        if match:
            yield int(match[1]), loops
            continue
        inner = loops
        if eqn.primitive.name == "scan":
            inner = (*loops, (next(loop), int(eqn.params["length"])))
        for value in eqn.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                part = getattr(part, "jaxpr", part)
                if hasattr(part, "eqns"):
                    yield from _keys(part, inner, loop)
