"""Proposes the mapping between two trees by class, shape, name and order of calls.

What is proposed here is a guess; `confirm` moves one leaf at a time on both sides and sees.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from maxmig.parity.pairs import joined, kinds
from maxmig.parity.pairs.mapping import Entry, Group, Mapping
from maxmig.parity.pairs.tracing import Unit

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Made:
    """A leaf that a Linen layer would have in NNX."""

    sources: tuple[str, ...]
    shape: Shape
    op: str = "same"
    axis: int = 0
    rule: str = ""


@dataclasses.dataclass(frozen=True)
class _Form:
    """A Linen layer in the form that NNX has it."""

    unit: Unit
    leaves: dict[str, _Made]
    lossy: dict[str, str]

    @property
    def shapes(self) -> tuple[tuple[str, Shape], ...]:
        return tuple(sorted((name, made.shape) for name, made in self.leaves.items()))


def propose(linen: Sequence[Unit], nnx: Sequence[Unit]) -> Mapping:
    """The likely mapping from the layers of the Linen side to those of the NNX side."""
    linen, nnx = joined.apart(linen, nnx), joined.apart(nnx, linen)
    search = _Search([_form(unit) for unit in linen], list(nnx))
    search.joined(surplus=True)
    exact = lambda f: (f.unit.kind, f.shapes)  # noqa: E731
    search.match(exact, lambda u: (u.kind, _shapes(u)))
    search.match(lambda f: f.shapes, _shapes)
    search.stacked()
    search.joined()
    search.loose(lambda f: _bare(f.shapes), lambda u: _bare(_shapes(u)))
    search.loose(lambda f: _sizes(f.shapes), lambda u: _sizes(_shapes(u)))
    search.singles()
    return search.result()


class _Search:
    """What is matched, and what is left of both sides."""

    def __init__(self, forms: list[_Form], units: list[Unit]) -> None:
        self.forms, self.units = forms, units
        self.all_forms, self.all_units = tuple(forms), tuple(units)
        self.entries: list[Entry] = []
        self.groups: list[Group] = []
        self.dropped: dict[str, str] = {}

    def match(
        self, of_form: Callable[[_Form], Hashable], of_unit: Callable[[Unit], Hashable]
    ) -> None:
        """Matches layers whose leaves have the same names and shapes."""
        self._by_group(of_form, of_unit, _same_names)

    def loose(
        self, of_form: Callable[[_Form], Hashable], of_unit: Callable[[Unit], Hashable]
    ) -> None:
        """Matches layers whose leaves fit by shape, or by size, under other names."""
        self._by_group(of_form, of_unit, _by_shape)

    def stacked(self) -> None:
        """A layer of `nn.scan` with an axis more than a run of layers in NNX, or the reverse."""
        for form in list(self.forms):
            for axis in (0, 1):
                if form in self.forms:
                    self._unstack(form, axis)
        for unit in list(self.units):
            for axis in (0, 1):
                if unit in self.units:
                    self._stack(unit, axis)

    def joined(self, *, surplus: bool = False) -> None:
        """A layer of NNX that is several of Linen's side by side (query, key, value); the reverse.

        They are joined in the order of their calls; whether that is right, `confirm` sees.

        Args:
            surplus: only where one side has so many more layers of that shape, and the other side
                none of the joined shape: before layers are matched one to one.
        """
        for unit in list(self.units):
            for run in joined.runs(self.forms, lambda f: (f.unit.parent, f.shapes)):
                found = joined.join([f.shapes for f in run], _shapes(unit))
                if found is None or not all(_kin(f.unit, unit) for f in run):
                    continue
                if surplus and not joined.left(run[0].shapes, _shapes(unit), len(run), self.counts):
                    continue
                for name, op, axis in found:
                    sources = tuple(f.leaves[name].sources[0] for f in run)
                    self.entries.append(Entry(unit.leaf(name), sources, op, axis, how="joined"))
                self.forms = [f for f in self.forms if f not in run]
                self.units.remove(unit)
                break
        for form in list(self.forms):
            for several in joined.runs(self.units, lambda u: (u.parent, _shapes(u))):
                found = joined.join([_shapes(u) for u in several], form.shapes)
                if found is None or not all(_kin(form.unit, u) for u in several):
                    continue
                counts = self.counts[::-1]
                if surplus and not joined.left(
                    _shapes(several[0]), form.shapes, len(several), counts
                ):
                    continue
                self._cut(form, several, found)
                break

    @property
    def counts(self) -> tuple[Counter[Hashable], Counter[Hashable]]:
        """How many layers of each shape there are on either side."""
        return (
            Counter(form.shapes for form in self.all_forms),
            Counter(_shapes(unit) for unit in self.all_units),
        )

    def _cut(self, form: _Form, units: list[Unit], found: list[tuple[str, str, int]]) -> None:
        for name, op, axis in found:
            for i, unit in enumerate(units):
                sources, size = form.leaves[name].sources, unit.leaves[name].shape
                entry = Entry(unit.leaf(name), sources, "take", axis, i, how="joined")
                if op == "concat":
                    ends = {"index": i * size[axis], "stop": (i + 1) * size[axis]}
                    entry = dataclasses.replace(entry, op="slice", **ends)
                self.entries.append(entry)
        self.units = [u for u in self.units if u not in units]
        self.forms.remove(form)

    def singles(self) -> None:
        """Leaves that are left, one by one: where only one of its shape is left on either side."""
        for form in list(self.forms):
            for unit in list(self.units):
                found = _partial(form, unit)
                if found:
                    self.entries += found
                    self._take(form, unit, found)
                    break

    def result(self) -> Mapping:
        """The mapping; what is left over is told with the reason."""
        extra: dict[str, str] = {}
        for unit in self.units:
            for name, leaf in unit.leaves.items():
                path = unit.leaf(name)
                extra[path], entry = self._why_extra(unit, name, tuple(leaf.shape))
                if entry is not None:
                    self.entries.append(entry)
        for form in self.forms:
            for made in form.leaves.values():
                for path in made.sources:
                    self.dropped[path] = self._why_dropped(form.unit, made)
        order = {p: i for i, p in enumerate(kinds.natural(e.target for e in self.entries))}
        entries = sorted(self.entries, key=lambda e: order[e.target])
        return Mapping(tuple(entries), self.dropped, extra, tuple(self.groups))

    def _by_group(
        self,
        of_form: Callable[[_Form], Hashable],
        of_unit: Callable[[Unit], Hashable],
        pair: "Callable[[_Form, Unit, str], list[Entry] | None]",
    ) -> None:
        groups: dict[Hashable, tuple[list[_Form], list[Unit]]] = {}
        for form in self.forms:
            groups.setdefault(of_form(form), ([], []))[0].append(form)
        for unit in self.units:
            groups.setdefault(of_unit(unit), ([], []))[1].append(unit)
        for forms, units in groups.values():
            if not forms or not units:
                continue
            pairs, how = _order(forms, units)
            done = []
            for form, unit in pairs:
                entries = pair(form, unit, how if len(forms) > 1 else "shape")
                if entries is None:
                    continue
                self.entries += entries
                self._take(form, unit, entries)
                done.append((form.unit.path, unit.path))
            if len(done) > 1:
                kind = pairs[0][1].kind or pairs[0][0].unit.kind
                a, b = zip(*done, strict=True)
                self.groups.append(Group(kind, a, b, how))

    def _take(self, form: _Form, unit: Unit, entries: Iterable[Entry]) -> None:
        """Removes what is matched from what is left."""
        self.dropped |= {form.unit.leaf(name): why for name, why in form.lossy.items()}
        used = {path for entry in entries for path in entry.sources}
        rest = {n: made for n, made in form.leaves.items() if not used & set(made.sources)}
        made_of = {entry.target for entry in entries}
        left = {n: leaf for n, leaf in unit.leaves.items() if unit.leaf(n) not in made_of}
        place = self.forms.index(form)
        self.forms[place : place + 1] = (
            [dataclasses.replace(form, leaves=rest, lossy={})] if rest else []
        )
        place = self.units.index(unit)
        self.units[place : place + 1] = [dataclasses.replace(unit, leaves=left)] if left else []

    def _unstack(self, form: _Form, axis: int) -> None:
        if not all(len(shape) > axis for _, shape in form.shapes):
            return
        lengths = {shape[axis] for _, shape in form.shapes}
        if len(lengths) != 1:
            return
        inner = tuple((n, (*s[:axis], *s[axis + 1 :])) for n, s in form.shapes)
        twins = [f for f in self.forms if f.shapes == form.shapes]
        units = [u for u in self.units if _shapes(u) == inner]
        (length,) = lengths
        if len(units) != length * len(twins):
            return
        for k, twin in enumerate(twins):
            for i, unit in enumerate(units[k :: len(twins)]):
                for name, made in twin.leaves.items():
                    entry = Entry(unit.leaf(name), made.sources, "take", axis, i, how="scan")
                    self.entries.append(entry)
                self.units.remove(unit)
            self.forms.remove(twin)

    def _stack(self, unit: Unit, axis: int) -> None:
        shapes = _shapes(unit)
        if not all(len(shape) > axis for _, shape in shapes):
            return
        lengths = {shape[axis] for _, shape in shapes}
        if len(lengths) != 1:
            return
        inner = tuple((n, (*s[:axis], *s[axis + 1 :])) for n, s in shapes)
        twins = [u for u in self.units if _shapes(u) == shapes]
        forms = [f for f in self.forms if f.shapes == inner]
        (length,) = lengths
        if len(forms) != length * len(twins):
            return
        forms.sort(key=lambda f: f.unit.order)
        for k, twin in enumerate(twins):
            here = forms[k :: len(twins)]
            for name in twin.leaves:
                sources = tuple(f.leaves[name].sources[0] for f in here)
                self.entries.append(Entry(twin.leaf(name), sources, "stack", axis, how="scan"))
            for form in here:
                self.forms.remove(form)
            self.units.remove(twin)

    def _why_extra(self, unit: Unit, name: str, shape: Shape) -> tuple[str, Entry | None]:
        path = unit.leaf(name)
        for form in self.all_forms:
            if form.unit.calls < 2 or not name.startswith("params/"):
                continue
            twin = form.leaves.get(name)
            if twin and form.unit.kind == unit.kind and twin.shape == shape and twin.op == "same":
                return _untied(form.unit, twin), Entry(path, twin.sources, how="tied")
            for made in form.leaves.values():
                for op, fits in (("same", made.shape), ("transpose", made.shape[::-1])):
                    if fits == shape and len(made.sources) == 1 and len(shape) > 1:
                        axes = tuple(reversed(range(len(shape)))) if op == "transpose" else ()
                        entry = Entry(path, made.sources, op, axes=axes, how="tied")
                        return _untied(form.unit, made), entry
        return (
            f"the control has no leaf like it ({unit.module or 'a variable'} {list(shape)})",
            None,
        )

    def _why_dropped(self, unit: Unit, made: _Made) -> str:
        for other in self.all_units:
            if other.calls < 2:
                continue
            for name, leaf in other.leaves.items():
                shape = tuple(leaf.shape)
                whole = other.kind == unit.kind and shape == made.shape
                if whole or (len(shape) > 1 and made.shape in (shape, shape[::-1])):
                    return (
                        f"the candidate uses one weight {other.calls} times ({other.leaf(name)}: "
                        "tied), where the control has a weight of its own: untied"
                    )
        raw = any(name.startswith("raw/") for u in self.all_units for name in u.leaves)
        if unit.module == "WeightNorm" and raw:
            return (
                "before flax 0.12.12 nnx.WeightNorm keeps its scales as raw arrays, which are not "
                "trained, while Linen trains them; use flax 0.12.12, or a layer of your own with "
                "an nnx.Param"
            )
        twin = kinds.WITHOUT_TWIN.get(unit.module)
        if twin:
            return f"{unit.module} has no class in NNX; {twin}"
        return (
            f"the candidate has no leaf like it ({unit.module or 'a variable'} {list(made.shape)})"
        )


def _untied(unit: Unit, made: _Made) -> str:
    return (
        f"the control uses one weight {unit.calls} times ({made.sources[0]}: tied); the candidate "
        "has a weight of its own here, which trains apart: untied"
    )


def _form(unit: Unit) -> _Form:
    """A Linen layer in the form that NNX has it, by the rules of its kind."""
    made: dict[str, _Made] = {}
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
        made[rule.target] = _Made(sources, shape, rule.op, rule.axis, rule.name)
        covered |= set(rule.sources)
    lossy = {n: why for n, why in kinds.LOSSY.get(unit.kind, {}).items() if n in unit.leaves}
    for name, leaf in unit.leaves.items():
        if name not in covered and name not in lossy:
            made[name] = _Made((unit.leaf(name),), tuple(leaf.shape))
    return _Form(unit, made, lossy)


def _order(forms: list[_Form], units: list[Unit]) -> tuple[list[tuple[_Form, Unit]], str]:
    """Which layer of a group is which: by name if both sides use the same, else by order."""
    for key in (_plain, lambda path: _plain(path.rpartition("/")[2])):
        named = {key(form.unit.path): form for form in forms}
        others = {key(unit.path): unit for unit in units}
        distinct = len(named) == len(forms) and len(others) == len(units)
        if distinct and named.keys() == others.keys():
            return [(form, others[name]) for name, form in named.items()], "name"
    shared = {_plain(f.unit.path) for f in forms} & {_plain(u.path) for u in units}
    by_name = [
        (f, u) for f in forms for u in units if _plain(f.unit.path) == _plain(u.path) in shared
    ]
    if len(forms) == len(units):
        return list(zip(forms, units, strict=True)), "order"
    rest_f = [f for f in forms if f not in [a for a, _ in by_name]]
    rest_u = [u for u in units if u not in [b for _, b in by_name]]
    return [*by_name, *zip(rest_f, rest_u, strict=False)], "order"


def _plain(path: str) -> str:
    return re.sub(r"[/_.]", "", path).lower()


def _same_names(form: _Form, unit: Unit, how: str) -> list[Entry] | None:
    return [
        Entry(unit.leaf(n), m.sources, m.op, m.axis, how=m.rule or how)
        for n, m in form.leaves.items()
    ]


def _by_shape(form: _Form, unit: Unit, how: str) -> list[Entry] | None:
    """Leaves by name where names agree, then by shape, by collection."""
    found = _partial(form, unit, how)
    return found if len(found) == len(form.leaves) == len(unit.leaves) else None


def _partial(form: _Form, unit: Unit, how: str = "shape") -> list[Entry]:
    """Entries for all leaves of two layers that fit one another."""
    if not _kin(form.unit, unit):
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


def _kin(linen: Unit, nnx: Unit) -> bool:
    """Whether two layers may be the same: of one kind, or at least one is the user's own."""
    return (
        linen.kind == nnx.kind
        or not (linen.kind in kinds.NNX and nnx.kind in kinds.NNX)
        or {
            linen.kind,
            nnx.kind,
        }
        <= {"Linear", "LinearGeneral", "Einsum", "Conv"}
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


def _shapes(unit: Unit) -> tuple[tuple[str, Shape], ...]:
    return tuple(sorted((name, tuple(leaf.shape)) for name, leaf in unit.leaves.items()))


def _bare(shapes: Iterable[tuple[str, Shape]]) -> Hashable:
    return tuple(sorted((name.startswith("params/"), shape) for name, shape in shapes))


def _sizes(shapes: Iterable[tuple[str, Shape]]) -> Hashable:
    return tuple(sorted((name.startswith("params/"), math.prod(shape)) for name, shape in shapes))
