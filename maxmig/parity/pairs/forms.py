"""A Linen layer in the form that NNX has it, and which layer of the other side fits it."""

import dataclasses
import math
from collections.abc import Hashable
from typing import Any

from maxmig.parity.pairs import kinds
from maxmig.parity.pairs.mapping import Entry
from maxmig.parity.pairs.tracing import Unit

Shape = tuple[int, ...]
Shapes = tuple[tuple[str, Shape], ...]


@dataclasses.dataclass(frozen=True)
class Made:
    """A leaf that a Linen layer would have in NNX."""

    sources: tuple[str, ...]
    shape: Shape
    op: str = "same"
    axis: int = 0
    rule: str = ""


@dataclasses.dataclass(frozen=True)
class Form:
    """A Linen layer in the form that NNX has it."""

    unit: Unit
    leaves: dict[str, Made]
    lossy: dict[str, str]

    @property
    def shapes(self) -> Shapes:
        """Names and shapes of its leaves, sorted."""
        return tuple(sorted((name, made.shape) for name, made in self.leaves.items()))


def form_of(unit: Unit) -> Form:
    """A Linen layer in the form that NNX has it, by the rules of its kind."""
    made: dict[str, Made] = {}
    covered: set[str] = set()
    for rule in kinds.RULES.get(unit.kind, ()):
        if not set(rule.sources) <= set(unit.leaves):
            continue
        shapes = [tuple(unit.leaves[s].shape) for s in rule.sources]
        shape = shapes[0]
        if rule.op == "concat":
            total = sum(s[rule.axis] for s in shapes)
            shape = (*shape[: rule.axis], total, *shape[rule.axis + 1 :])
        sources = tuple(unit.leaf(s) for s in rule.sources)
        made[rule.target] = Made(sources, shape, rule.op, rule.axis, rule.name)
        covered |= set(rule.sources)
    lossy = {n: why for n, why in kinds.LOSSY.get(unit.kind, {}).items() if n in unit.leaves}
    for name, leaf in unit.leaves.items():
        if name not in covered and name not in lossy:
            made[name] = Made((unit.leaf(name),), tuple(leaf.shape))
    return Form(unit, made, lossy)


def shapes_of(unit: Unit) -> Shapes:
    """Names and shapes of the leaves of a layer, sorted."""
    return tuple(sorted((name, tuple(leaf.shape)) for name, leaf in unit.leaves.items()))


def bare(shapes: Shapes) -> Hashable:
    """Shapes without names, but for what is a parameter."""
    return tuple(sorted((name.startswith("params/"), shape) for name, shape in shapes))


def sizes(shapes: Shapes) -> Hashable:
    """Sizes without names, but for what is a parameter."""
    return tuple(sorted((name.startswith("params/"), math.prod(shape)) for name, shape in shapes))


def same_names(form: Form, unit: Unit, how: str) -> list[Entry] | None:
    """Leaves by name, where all names and shapes are the same."""
    return [
        Entry(unit.leaf(n), m.sources, m.op, m.axis, how=m.rule or how)
        for n, m in form.leaves.items()
    ]


def by_shape(form: Form, unit: Unit, how: str) -> list[Entry] | None:
    """Leaves by name where names agree, then by shape, by collection."""
    found = partial(form, unit, how)
    return found if len(found) == len(form.leaves) == len(unit.leaves) else None


def partial(form: Form, unit: Unit, how: str = "shape") -> list[Entry]:
    """Entries for all leaves of two layers that fit one another."""
    if not kin(form.unit, unit):
        return []
    found: list[Entry] = []
    left = {name: tuple(leaf.shape) for name, leaf in unit.leaves.items()}
    for fits in (_equal, _like_shape, _like_size):
        for name, made in form.leaves.items():
            if any(entry.sources == made.sources for entry in found):
                continue
            other = next((n for n, s in left.items() if fits(name, made.shape, n, s)), None)
            if other is None:
                continue
            shape = left.pop(other)
            extra: dict[str, Any] = {"op": made.op, "axis": made.axis}
            if shape != made.shape:
                if made.op != "same":
                    continue
                extra = {"op": "reshape", "shape": shape}
            found.append(Entry(unit.leaf(other), made.sources, how=made.rule or how, **extra))
    return found


def kin(linen: Unit, nnx: Unit) -> bool:
    """Whether two layers may be the same: of one kind, or at least one is the user's own."""
    return (
        linen.kind == nnx.kind
        or not (linen.kind in kinds.NNX and nnx.kind in kinds.NNX)
        or {linen.kind, nnx.kind} <= {"Linear", "LinearGeneral", "Einsum", "Conv"}
    )


def _collections(a: str, b: str) -> bool:
    """A parameter stands for a parameter only; other collections may be called as one likes."""
    params = [name.startswith("params/") for name in (a, b)]
    return params[0] == params[1]


def _equal(a: str, shape_a: Shape, b: str, shape_b: Shape) -> bool:
    same = a.partition("/")[2] == b.partition("/")[2]
    return same and shape_a == shape_b and _collections(a, b)


def _like_shape(a: str, shape_a: Shape, b: str, shape_b: Shape) -> bool:
    return shape_a == shape_b and _collections(a, b)


def _like_size(a: str, shape_a: Shape, b: str, shape_b: Shape) -> bool:
    same = a.partition("/")[2] == b.partition("/")[2]
    return same and math.prod(shape_a) == math.prod(shape_b) and _collections(a, b)
