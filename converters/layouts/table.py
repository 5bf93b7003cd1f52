"""One reader and one writer for all layouts that differ only in where they put things.

A layout of this kind is a `Table`: data that is read in both directions, so that writing cannot
drift from reading. Only leaf metadata are needed, never arrays or the model's code.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from maxmig import errors, trees
from maxmig.converters import leaves, names, skeletons
from maxmig.converters.layouts import merged, wrappers
from maxmig.converters.layouts.base import Evidence, Family, Form, Hints, Reading, Written
from maxmig.converters.layouts.facts import Facts
from maxmig.converters.leaves import DiskPath, DiskTree, Hole, Leaf
from maxmig.converters.skeletons import Style

Owns = Callable[[Facts], tuple[float, list[str]]]
Collections = Literal["none", "top", "merged"]


@dataclass(frozen=True)
class Table:
    """A layout as data.

    Attributes:
        name: how the command line and the metadata call it.
        title: one line for people.
        family: the framework whose names its parameters have.
        params: below which keys the parameters are.
        opt_state: below which keys the optimizer state is; None: it has none.
        step: the keys of the step counter; None: it has none.
        step_dtype: its type on disk (canonical: int32).
        style: how the optimizer's containers are written.
        owns: how sure a tree is of this layout (0: it is not), and why.
        aux: below which keys random state is; None: there is no place for it.
        collections: other collections are top-level keys, or merged with the parameters.
        others: further ways to write the optimizer's containers that occur in this layout.
        usual: how a tree is spelt that was not written before in another way.
        rename: what tells other names of leaves in old trees: {keys in the model: canonical path}.
    """

    name: str
    title: str = field(compare=False)
    family: Family
    params: DiskPath
    opt_state: DiskPath | None
    step: DiskPath | None
    step_dtype: str
    style: Style
    owns: Owns
    aux: DiskPath | None = None
    collections: Collections = "none"
    others: tuple[Style, ...] = ()
    rename: Callable[[Iterable[DiskPath]], Mapping[DiskPath, str]] | None = None
    usual: Form | None = None

    @property
    def exact(self) -> bool:
        """Whether the tree itself tells the optimizer's containers, empty ones too."""
        return self.style.holes

    def evidence(self, tree: DiskTree) -> Evidence:
        """Judges a tree by its keys and types alone."""
        confidence, reasons = self.owns(Facts(tree))
        return Evidence(self.name, confidence > 0, tuple(reasons), confidence)

    def read(self, tree: DiskTree, form: Form | None = None, hints: Hints | None = None) -> Reading:
        """Maps every leaf of a disk tree to its canonical path.

        Raises:
            ConvertError: a leaf has no place in this layout, a parameter is a hole, or two leaves
                have one canonical path; all of them are listed.
        """
        reader = _Reader(self, tree, form, hints or Hints())
        reader.run()
        if reader.problems:
            raise errors.ConvertError(
                f"the tree cannot be read as layout {self.name!r}:\n  "
                + "\n  ".join(reader.problems)
            )
        places = {name: reader.places[name] for name in trees.sort(reader.places)}
        found, variants = self._form(tree, places, reader)
        return Reading(self.name, places, reader.skeleton, (*reader.notes, *variants), found)

    def write(
        self, paths: Iterable[str], skeleton: skeletons.Skeleton, form: Form | None = None
    ) -> Written:
        """Where the layout puts canonical leaves, and its holes: {disk path: canonical or hole}.

        Raises:
            ConvertError: a leaf that the skeleton does not know, or one that it misses.
        """
        form = form or Form()
        flat = list(paths)
        written: Written = {}
        for path in flat:
            if path in form.places:
                _put(written, tuple(form.places[path]), path)
            elif not path.startswith(f"{skeletons.ROOT}/") and path != skeletons.ROOT:
                _put(written, self._place(path, form), path)
        if skeleton is not None and self.opt_state is not None:
            for at, value in self._state(flat, skeleton, form).items():
                if not (isinstance(value, str) and value in form.places):
                    _put(written, at, value)
        _account(flat, written)
        if form.holes is not None:
            written = {at: value for at, value in written.items() if isinstance(value, str)}
            written |= form.holes
        return written

    def _state(self, flat: Iterable[str], skeleton: skeletons.Skeleton, form: Form) -> Written:
        assert self.opt_state is not None
        params = trees.sort(skeletons.params_of(flat))
        style = form.style or self.style
        found = skeletons.write(
            skeleton, self.opt_state, params, style, lists=form.lists, boxed=form.boxed
        )
        if "opt_state" not in form.wrapped:
            return found
        return {
            (*at, "value") if isinstance(value, str) or value is Hole.NONE else at: value
            for at, value in found.items()
        }

    def _place(self, path: str, form: Form) -> DiskPath:
        section, _, rest = path.partition("/")
        lists = form.lists
        if lists is None and not self.style.split:
            lists = frozenset()
        if path == "step" and self.step is not None:
            return (*self.step, "value") if "step" in form.wrapped else self.step
        if section == "params":
            at = (*self.params, *names.keys(rest, lists))
        elif section == "aux":
            at = self._aux_place(path, rest, lists)
        elif path == "step":
            raise errors.ConvertError(
                f"step: layout {self.name!r} has no place for it; leave it out (--params-only)"
            )
        elif self.collections == "top":
            at = (section, *(names.keys(rest, lists) if rest else ()))
        elif self.collections == "merged":
            if not rest:
                return (section,)
            at = (*self.params, *names.keys(rest, lists))
        else:
            raise errors.ConvertError(
                f"{path}: expected a canonical path below params/, opt_state/ or aux/, or step; "
                f"layout {self.name!r} has no place for the collection {section!r}"
            )
        name = "aux" if section == "aux" else "params"
        return (*at, "value") if name in form.wrapped or rest in form.boxed else at

    def _aux_place(self, path: str, rest: str, lists: frozenset[str] | None) -> DiskPath:
        if self.aux is None:
            raise errors.ConvertError(
                f"{path}: layout {self.name!r} has no place for random state; "
                "drop it (--random drop): it is derived again where it is needed"
            )
        return (*self.aux, *names.keys(rest, lists))

    def _form(
        self, tree: DiskTree, places: Mapping[str, DiskPath], reader: "_Reader"
    ) -> tuple[Form, tuple[str, ...]]:
        """What must be known to write exactly this tree again, and what is unusual in it."""
        candidates = [
            dataclasses.replace(reader.form, style=style, lists=lists)
            for style in (None, *self.others)
            for lists in ((None, reader.form.lists) if self.style.split else (reader.form.lists,))
        ]
        best: tuple[int, Form, list[str], bool] | None = None
        for form in candidates:
            other, holes = self._differs(tree, places, reader.skeleton, form)
            if best is None or len(other) + holes < best[0]:
                best = (len(other) + holes, form, other, holes)
            if not best[0]:
                break
        assert best is not None
        _, found, other, holes = best
        notes: tuple[str, ...] = ()
        if other:
            first = leaves.spell(places[other[0]])
            notes = (f"{len(other)} leaves are not where {self.name!r} writes them, first {first}",)
            found = dataclasses.replace(found, places={n: places[n] for n in other})
        if holes:
            own = {at: leaf for at, leaf in tree.items() if isinstance(leaf, Hole)}
            found = dataclasses.replace(found, holes=own)
        return found, notes

    def _differs(
        self,
        tree: DiskTree,
        places: Mapping[str, DiskPath],
        skeleton: skeletons.Skeleton,
        form: Form,
    ) -> tuple[list[str], bool]:
        written = self.write(places, skeleton, dataclasses.replace(form, places={}, holes=None))
        back = {value: at for at, value in written.items() if isinstance(value, str)}
        holes = {at: value for at, value in written.items() if isinstance(value, Hole)}
        own = {at: leaf for at, leaf in tree.items() if isinstance(leaf, Hole)}
        return [name for name, at in places.items() if back.get(name) != at], holes != own


class _Reader:
    """One reading of one tree through one table."""

    def __init__(self, table: Table, tree: DiskTree, form: Form | None, hints: Hints):
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
        self._fixed = {tuple(at): name for name, at in (form.places if form else {}).items()}

    def run(self) -> None:
        table = self.table
        bare = self._strip()
        model: dict[DiskPath, tuple[DiskPath, Leaf | Hole]] = {}
        state: dict[DiskPath, _Stored | Hole] = {}
        rest: list[tuple[DiskPath, DiskPath, Leaf | Hole]] = []
        for path, leaf in self.tree.items():
            keys = bare.keys[path]
            if path in self._fixed:
                self._add(self._fixed[path], path, leaf)
            elif table.step is not None and keys == table.step:
                self._add("step", path, leaf)
                self._step_type(leaf)
            elif table.opt_state is not None and _below(keys, table.opt_state):
                inner = keys[len(table.opt_state) :]
                state[inner] = _Stored(path) if isinstance(leaf, Leaf) else leaf
            elif _strictly(keys, table.params):
                model[keys[len(table.params) :]] = (path, leaf)
            else:
                rest.append((path, keys, leaf))
        self._model(model, state)
        for path, keys, leaf in rest:
            self._other(path, keys, leaf)
        self._optimizer(state)
        self.form = Form(
            wrapped=tuple(bare.wrapped),
            boxed=frozenset(names.canonical(keys) for keys in bare.boxed),
            lists=frozenset(self.lists),
            step_dtype=self.form.step_dtype,
        )

    def _strip(self) -> wrappers.Bare:
        table = self.table
        sections: dict[str, DiskPath] = {"params": table.params}
        if table.aux is not None:
            sections["aux"] = table.aux
        if table.opt_state is not None:
            sections["opt_state"] = table.opt_state
        if table.step is not None:
            sections["step"] = table.step
        boxes = None
        if table.family == "linen" or table.collections == "top":
            boxes = {"params": table.params}
            if table.collections == "top":
                tops = {str(p[0]) for p in self.tree if len(p) > 1}
                named = {table.params[:1], (table.opt_state or ())[:1]}
                boxes |= {top: (top,) for top in tops if (top,) not in named}
        known = self.known.boxed if self.known else None
        bare = wrappers.strip(self.tree, sections, boxes=boxes, known=known, hints=self.hints)
        self.problems += bare.problems
        self.notes += bare.notes
        return bare

    def _model(
        self,
        model: Mapping[DiskPath, tuple[DiskPath, Leaf | Hole]],
        state: Mapping[DiskPath, object],
    ) -> None:
        sections = dict.fromkeys(model, "params")
        if self.table.collections == "merged":
            moments = _suffixes(state, model)
            found = {keys: leaf for keys, (_, leaf) in model.items()}
            sections = merged.classify(found, moments, self.hints.collections, self.problems)
        other = self.table.rename(model) if self.table.rename else {}
        for keys, (path, leaf) in model.items():
            name = names.canonical(keys, self.lists)
            self._add(f"{sections[keys]}/{other.get(keys, name)}", path, leaf)

    def _other(self, path: DiskPath, keys: DiskPath, leaf: Leaf | Hole) -> None:
        table = self.table
        if table.aux is not None and _strictly(keys, table.aux):
            rest = names.canonical(keys[len(table.aux) :], self.lists)
            self._add(f"aux/{rest}", path, leaf)
        elif table.collections == "top" and not self._own(keys):
            if isinstance(leaf, Leaf):
                rest = names.canonical(keys[1:], self.lists)
                self._add(f"{keys[0]}/{rest}" if rest else str(keys[0]), path, leaf)
        else:
            self.problems.append(f"{leaves.spell(path)}: no place for it in this layout")

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

    def _step_type(self, leaf: Leaf | Hole) -> None:
        if isinstance(leaf, Leaf) and leaf.dtype != self.table.step_dtype:
            self.form = dataclasses.replace(self.form, step_dtype=leaf.dtype)

    def _optimizer(self, state: Mapping[DiskPath, "_Stored | Hole"]) -> None:
        if not state:
            return
        # Below one more key, because opt_state itself may be a hole or an array.
        nested = leaves.nest({("", *keys): leaf for keys, leaf in state.items()})[""]
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


def _suffixes(
    state: Mapping[DiskPath, object], model: Mapping[DiskPath, object]
) -> frozenset[DiskPath]:
    """The keys of the model that end some path of the optimizer: those that have moments."""
    sizes = {len(keys) for keys in model}
    found = {keys[-size:] for keys in state for size in sizes if size < len(keys)}
    return frozenset(found & model.keys())


def _below(keys: DiskPath, start: DiskPath) -> bool:
    return keys[: len(start)] == start


def _strictly(keys: DiskPath, start: DiskPath) -> bool:
    return len(keys) > len(start) and keys[: len(start)] == start


def _put(written: Written, at: DiskPath, value: "str | Hole") -> None:
    if at in written:
        raise errors.ConvertError(
            f"{leaves.spell(at)}: both {written[at]} and {value} would be written there"
        )
    written[at] = value


def _account(flat: Iterable[str], written: Mapping[DiskPath, "str | Hole"]) -> None:
    placed = {value for value in written.values() if isinstance(value, str)}
    given = set(flat)
    problems = [f"missing: {path}" for path in trees.sort(placed - given)]
    problems += [
        f"no place in the optimizer's skeleton: {path}" for path in trees.sort(given - placed)
    ]
    if problems:
        raise errors.ConvertError(
            "the optimizer's leaves and its skeleton do not agree:\n  " + "\n  ".join(problems)
        )
