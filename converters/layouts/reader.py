"""Reads a tree through a layout's table: what each of its leaves is, or what is wrong with it."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maxmig.converters import leaves, names, skeletons
from maxmig.converters.layouts import merged, sections, wrappers
from maxmig.converters.layouts.base import Form, Hints
from maxmig.converters.leaves import DiskPath, DiskTree, Hole, Leaf

if TYPE_CHECKING:
    from maxmig.converters.layouts.table import Table

_MEANT = ("params", "step", skeletons.ROOT)  # sections with a meaning of their own


class Reader:
    """One reading of one tree through one table."""

    def __init__(self, table: "Table", tree: DiskTree, form: Form | None, hints: Hints):
        self.hints = hints
        self.table = table
        self.tree = tree
        self.known = form
        self.places: dict[str, DiskPath] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.lists: set[str] = set()
        self.skeleton: skeletons.Skeleton = None
        self.form = Form()
        self._levels = _levels(table, tree)
        self.containers: dict[DiskPath, DiskPath] = {}  # holes in the optimizer, by their keys
        self._empty: list[tuple[DiskPath, DiskPath, Hole]] = []
        self._fixed = {tuple(at): name for name, at in (form.places if form else {}).items()}

    def run(self) -> None:
        table = self.table
        bare = self._strip()
        model: dict[DiskPath, tuple[DiskPath, Leaf]] = {}
        state: dict[DiskPath, _Stored | Hole] = {}
        rest: list[tuple[DiskPath, DiskPath, Leaf | Hole]] = []
        for path, leaf in self.tree.items():
            keys = bare.keys[path]
            inner = self._inner(keys)
            if path in self._fixed and inner is None:
                self._add(self._fixed[path], path, leaf)
            elif table.step is not None and keys == table.step:
                self._add("step", path, leaf)
                self._step_type(leaf)
            elif inner is not None:  # its containers tell the names, also of what is fixed
                state[inner] = _Stored(path) if isinstance(leaf, Leaf) else leaf
                if isinstance(leaf, Hole):
                    self.containers[inner] = path
            elif self._beside(keys):
                self._top(path, keys, leaf)
            elif _strictly(keys, table.params):
                if isinstance(leaf, Leaf):
                    model[keys[len(table.params) :]] = (path, leaf)
                else:
                    self._empty.append((keys[len(table.params) :], path, leaf))
            else:
                rest.append((path, keys, leaf))
        self._model(model, state, bare.wrapped)
        for path, keys, leaf in rest:
            self._other(path, keys, leaf)
        self._holes(state)
        self._optimizer(state)
        self.form = Form(
            wrapped=tuple(bare.wrapped),
            boxed=frozenset(names.canonical(keys) for keys in bare.boxed),
            lists=frozenset(self.lists),
            step_dtype=self.form.step_dtype,
            levels=self._levels,
            beside=frozenset(
                sections.section(keys[0])
                for keys in bare.keys.values()
                if len(keys) > 1 and self._beside(keys)
            ),
        )

    def _inner(self, keys: DiskPath) -> DiskPath | None:
        """The keys within the optimizer's state; None: they lead elsewhere."""
        start = self.table.opt_state
        return None if start is None or not _below(keys, start) else keys[len(start) :]

    def _beside(self, keys: DiskPath) -> bool:
        """Whether keys lead to what is no part of the model, where all collections are."""
        if self.table.collections != "merged" or not keys:
            return False
        told = self.known is not None and sections.section(keys[0]) in self.known.beside
        return told or (bool(self.table.params) and not self._own(keys))

    def _strip(self) -> wrappers.Bare:
        table = self.table
        known: dict[str, DiskPath] = {"params": table.params}
        if table.aux is not None:
            known["aux"] = table.aux
        if table.opt_state is not None:
            known["opt_state"] = table.opt_state
        if table.step is not None:
            known["step"] = table.step
        known |= {sections.section(p[0]): p[:1] for p in self.tree if self._beside(p)}
        boxes = None
        if table.family == "linen" or table.collections == "top":
            boxes = {"params": table.params}
            if table.collections == "top":
                tops = {str(p[0]) for p in self.tree if len(p) > 1}
                named = {table.params[:1], (table.opt_state or ())[:1]}
                levels = dict.fromkeys(self._levels, table.params[1:])
                boxes |= {
                    name: (top, *levels.get(name, ()))
                    for top in tops
                    if (top,) not in named and (name := sections.section(top))
                }
        boxed = self.known.boxed if self.known else None
        bare = wrappers.strip(self.tree, known, boxes=boxes, known=boxed, hints=self.hints)
        self.problems += bare.problems
        self.notes += bare.notes
        return bare

    def _model(
        self,
        model: Mapping[DiskPath, tuple[DiskPath, Leaf]],
        state: Mapping[DiskPath, object],
        wrapped: Collection[str],
    ) -> None:
        parts = dict.fromkeys(model, "params")
        if self.table.collections == "merged":
            moments = _suffixes(state, model)
            found = {keys: leaf for keys, (_, leaf) in model.items()}
            told = self.hints.collections
            parts = merged.classify(found, moments, told, self.problems)
            if {"params", "opt_state"} <= set(wrapped) and self.known is None:
                self.notes += merged.untrained(parts, moments, told)
        other = self.table.rename(model) if self.table.rename else {}
        for keys, (path, leaf) in model.items():
            name = names.canonical(keys, self.lists)
            self._add(f"{parts[keys]}/{other.get(keys, name)}", path, leaf)

    def _other(self, path: DiskPath, keys: DiskPath, leaf: Leaf | Hole) -> None:
        table = self.table
        if table.aux is not None and _strictly(keys, table.aux):
            rest = names.canonical(keys[len(table.aux) :], self.lists)
            self._add(f"aux/{rest}", path, leaf)
        elif table.collections == "top" and not self._own(keys):
            self._top(path, keys, leaf)
        else:
            self.problems.append(f"{leaves.spell(path)}: no place for it in this layout")

    def _top(self, path: DiskPath, keys: DiskPath, leaf: Leaf | Hole) -> None:
        if keys[0] in _MEANT:
            self.problems.append(
                f"{leaves.spell(path)}: no place for it in this layout: {keys[0]!r} is no name of "
                "a collection"
            )
        elif isinstance(leaf, Leaf):
            name = sections.section(keys[0])
            level = len(self.table.params) if name in self._levels else 1
            rest = names.canonical(keys[level:], self.lists)
            self._add(f"{name}/{rest}" if rest else name, path, leaf)

    def _own(self, keys: DiskPath) -> bool:
        """Whether the first key is one of the layout's own, which no collection can have."""
        table = self.table
        own = (table.params, table.aux, table.opt_state, table.step)
        return any(start and keys[0] == start[0] for start in own)

    def _add(self, name: str, path: DiskPath, leaf: Leaf | Hole) -> None:
        if isinstance(leaf, Hole):
            self.problems.append(f"{leaves.spell(path)}: a hole ({leaf.value}) instead of an array")
        elif name in self.places:
            other = leaves.spell(self.places[name])
            self.problems.append(f"{leaves.spell(path)} and {other}: both {name}")
        else:
            self.places[name] = path

    def _holes(self, state: "dict[DiskPath, _Stored | Hole]") -> None:
        """Takes note of places in the model without an array, and forgets what follows them."""
        if not self._empty:
            return
        ends = {keys: (path, hole) for keys, path, hole in self._empty}
        sizes = {len(keys) for keys in ends}
        for keys, leaf in list(state.items()):
            end = next((keys[-size:] for size in sizes if keys[-size:] in ends), None)
            if end is None or len(end) == len(keys):
                continue
            if isinstance(leaf, Hole):
                del state[keys], self.containers[keys]
            else:  # what is trained has a value: this is a placeholder
                path, hole = ends[end]
                problem = f"{leaves.spell(path)}: a hole ({hole.value}) instead of an array"
                self.problems.append(f"{problem}: {leaves.spell(leaf.path)} follows it")
        told = ", ".join(
            f"{leaves.spell(path)} ({hole.value})" for _, path, hole in self._empty[:4]
        )
        self.notes.append(
            f"{len(self._empty)} places in the model hold no array, such as {told}: "
            "they are no leaves, and only a tree that is spelt as this one has them"
        )

    def _step_type(self, leaf: Leaf | Hole) -> None:
        if isinstance(leaf, Leaf) and leaf.dtype != self.table.step_dtype:
            self.form = dataclasses.replace(self.form, step_dtype=leaf.dtype)

    def _optimizer(self, state: Mapping[DiskPath, "_Stored | Hole"]) -> None:
        if not state:
            return
        # Below one more key, because opt_state itself may be a hole or an array.
        loose = _gapped(state) if self._empty else frozenset()
        nested = leaves.nest({("", *_keyed(keys, loose)): leaf for keys, leaf in state.items()})[""]
        holes = {leaf for leaf in state.values() if isinstance(leaf, Hole)}
        positions = any(isinstance(key, int) for keys in state for key in keys)
        numbered = any(str(key).isdecimal() for keys in state for key in keys)
        empties = numbered and holes == {Hole.EMPTY_DICT} and not positions
        empties = empties and self.table.family == "linen"
        params = skeletons.params_of(self.places)
        self.skeleton, held = skeletons.read(nested, params, empties=empties)
        self.places |= {name: stored.path for name, stored in held.items()}


@dataclass(frozen=True)
class _Stored:
    """A leaf of a nested state: where it is on disk."""

    path: DiskPath


def _gapped(state: Collection[DiskPath]) -> frozenset[DiskPath]:
    """The lists that miss an entry, because it follows a place in the model without an array."""
    found: dict[DiskPath, set[int]] = {}
    for keys in state:
        for level, key in enumerate(keys):
            if isinstance(key, int):
                found.setdefault(keys[:level], set()).add(key)
    return frozenset(at for at, held in found.items() if max(held) >= len(held))


def _keyed(keys: DiskPath, lists: Collection[DiskPath]) -> DiskPath:
    """Keys with the places in some lists spelt as keys of a dict, which may leave some out."""
    return tuple(str(key) if keys[:level] in lists else key for level, key in enumerate(keys))


def _suffixes(
    state: Mapping[DiskPath, object], model: Mapping[DiskPath, object]
) -> frozenset[DiskPath]:
    """The keys of the model that end some path of the optimizer: those that have moments."""
    sizes = {len(keys) for keys in model}
    found = {keys[-size:] for keys in state for size in sizes if size < len(keys)}
    return frozenset(found & model.keys())


def _levels(table: "Table", tree: DiskTree) -> frozenset[str]:
    """Sections in which all is below a `params` of their own, where the parameters are too."""
    if table.collections != "top" or len(table.params) < 2:
        return frozenset()
    own = {start[0] for start in (table.params, table.aux, table.opt_state, table.step) if start}
    found = {str(path[0]) for path in tree if path and path[0] not in own}
    flat = {str(p[0]) for p in tree if p[1 : len(table.params)] != table.params[1:] or len(p) < 3}
    return frozenset(map(sections.section, found - flat))


def _below(keys: DiskPath, start: DiskPath) -> bool:
    return keys[: len(start)] == start


def _strictly(keys: DiskPath, start: DiskPath) -> bool:
    return len(keys) > len(start) and keys[: len(start)] == start
