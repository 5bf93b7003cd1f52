"""Proposes the mapping between two trees by class, shape, name and order of calls.

What is proposed here is a guess; `confirm` moves one leaf at a time on both sides and sees.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

from maxmig.parity.pairs import joined, kinds, leftover
from maxmig.parity.pairs.forms import (
    Form,
    bare,
    by_shape,
    form_of,
    kin,
    partial,
    same_names,
    shapes_of,
    sizes,
)
from maxmig.parity.pairs.mapping import Entry, Group, Mapping
from maxmig.parity.pairs.tracing import Unit


def propose(linen: Sequence[Unit], nnx: Sequence[Unit]) -> Mapping:
    """The likely mapping from the layers of the Linen side to those of the NNX side."""
    linen, nnx = joined.apart(linen, nnx), joined.apart(nnx, linen)
    search = _Search([form_of(unit) for unit in linen], list(nnx))
    search.joined(surplus=True)
    exact = lambda f: (f.unit.kind, f.shapes)  # noqa: E731
    search.match(exact, lambda u: (u.kind, shapes_of(u)))
    search.match(lambda f: f.shapes, shapes_of)
    search.stacked()
    search.joined()
    search.loose(lambda f: bare(f.shapes), lambda u: bare(shapes_of(u)))
    search.loose(lambda f: sizes(f.shapes), lambda u: sizes(shapes_of(u)))
    search.singles()
    return search.result()


class _Search:
    """What is matched, and what is left of both sides."""

    def __init__(self, forms: list[Form], units: list[Unit]) -> None:
        self.forms, self.units = forms, units
        self.all_forms, self.all_units = tuple(forms), tuple(units)
        self.entries: list[Entry] = []
        self.groups: list[Group] = []
        self.dropped: dict[str, str] = {}

    def match(
        self, of_form: Callable[[Form], Hashable], of_unit: Callable[[Unit], Hashable]
    ) -> None:
        """Matches layers whose leaves have the same names and shapes."""
        self._by_group(of_form, of_unit, same_names)

    def loose(
        self, of_form: Callable[[Form], Hashable], of_unit: Callable[[Unit], Hashable]
    ) -> None:
        """Matches layers whose leaves fit by shape, or by size, under other names."""
        self._by_group(of_form, of_unit, by_shape)

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
                found = joined.join([f.shapes for f in run], shapes_of(unit))
                if found is None or not all(kin(f.unit, unit) for f in run):
                    continue
                if surplus and not joined.left(
                    run[0].shapes, shapes_of(unit), len(run), self.counts
                ):
                    continue
                for name, op, axis in found:
                    sources = tuple(f.leaves[name].sources[0] for f in run)
                    self.entries.append(Entry(unit.leaf(name), sources, op, axis, how="joined"))
                self.forms = [f for f in self.forms if f not in run]
                self.units.remove(unit)
                break
        for form in list(self.forms):
            for several in joined.runs(self.units, lambda u: (u.parent, shapes_of(u))):
                found = joined.join([shapes_of(u) for u in several], form.shapes)
                if found is None or not all(kin(form.unit, u) for u in several):
                    continue
                counts = self.counts[::-1]
                if surplus and not joined.left(
                    shapes_of(several[0]), form.shapes, len(several), counts
                ):
                    continue
                self._cut(form, several, found)
                break

    @property
    def counts(self) -> tuple[Counter[Hashable], Counter[Hashable]]:
        """How many layers of each shape there are on either side."""
        return (
            Counter(form.shapes for form in self.all_forms),
            Counter(shapes_of(unit) for unit in self.all_units),
        )

    def _cut(self, form: Form, units: list[Unit], found: list[tuple[str, str, int]]) -> None:
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
                found = partial(form, unit)
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
                extra[path], entry = leftover.extra(self.all_forms, unit, name, tuple(leaf.shape))
                if entry is not None:
                    self.entries.append(entry)
        for form in self.forms:
            for made in form.leaves.values():
                for path in made.sources:
                    self.dropped[path] = leftover.dropped(self.all_units, form.unit, made)
        order = {p: i for i, p in enumerate(kinds.natural(e.target for e in self.entries))}
        entries = sorted(self.entries, key=lambda e: order[e.target])
        return Mapping(tuple(entries), self.dropped, extra, tuple(self.groups))

    def _by_group(
        self,
        of_form: Callable[[Form], Hashable],
        of_unit: Callable[[Unit], Hashable],
        pair: "Callable[[Form, Unit, str], list[Entry] | None]",
    ) -> None:
        groups: dict[Hashable, tuple[list[Form], list[Unit]]] = {}
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

    def _take(self, form: Form, unit: Unit, entries: Iterable[Entry]) -> None:
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

    def _unstack(self, form: Form, axis: int) -> None:
        if not all(len(shape) > axis for _, shape in form.shapes):
            return
        lengths = {shape[axis] for _, shape in form.shapes}
        if len(lengths) != 1:
            return
        inner = tuple((n, (*s[:axis], *s[axis + 1 :])) for n, s in form.shapes)
        twins = [f for f in self.forms if f.shapes == form.shapes]
        units = [u for u in self.units if shapes_of(u) == inner]
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
        shapes = shapes_of(unit)
        if not all(len(shape) > axis for _, shape in shapes):
            return
        lengths = {shape[axis] for _, shape in shapes}
        if len(lengths) != 1:
            return
        inner = tuple((n, (*s[:axis], *s[axis + 1 :])) for n, s in shapes)
        twins = [u for u in self.units if shapes_of(u) == shapes]
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


def _order(forms: list[Form], units: list[Unit]) -> tuple[list[tuple[Form, Unit]], str]:
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
