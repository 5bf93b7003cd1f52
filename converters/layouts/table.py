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
from maxmig.converters.layouts import reader, sections
from maxmig.converters.layouts.base import Evidence, Family, Form, Hints, Reading, Written
from maxmig.converters.layouts.facts import Facts
from maxmig.converters.leaves import DiskPath, DiskTree, Hole
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
        items: the first keys, where each is an item of its own in a step; none: one item holds all.
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
    items: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the tree itself tells the optimizer's containers, empty ones too."""
        return self.style.holes and not self.style.inner

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
        seen = reader.Reader(self, tree, form, hints or Hints())
        seen.run()
        if seen.problems:
            raise errors.ConvertError(
                f"the tree cannot be read as layout {self.name!r}:\n  " + "\n  ".join(seen.problems)
            )
        places = {name: seen.places[name] for name in trees.sort(seen.places)}
        found, variants = self._form(tree, places, seen)
        return Reading(self.name, places, seen.skeleton, (*seen.notes, *variants), found)

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
        return _without_gaps(_filled(written, form.empty))

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
            start: DiskPath = (sections.key(section),)
            start += self.params[1:] if section in form.levels else ()
            at = (*start, *(names.keys(rest, lists) if rest else ()))
        elif self.collections == "merged":
            if not rest:
                return self._field(section)
            start = self._field(section) if section in form.beside else self.params
            at = (*start, *names.keys(rest, lists))
        else:
            raise errors.ConvertError(
                f"{path}: expected a canonical path below params/, opt_state/ or aux/, or step; "
                f"layout {self.name!r} has no place for the collection {section!r}"
            )
        name = section if section in {"aux", *form.beside} else "params"
        return (*at, "value") if name in form.wrapped or rest in form.boxed else at

    def _field(self, section: str) -> DiskPath:
        """Where what is no part of the model is kept beside it."""
        at = (sections.key(section),)
        own = sorted({str(keys[0]) for keys in (self.params, self.opt_state, self.step) if keys})
        if at[0] in own:
            raise errors.ConvertError(
                f"{section}: layout {self.name!r} keeps {', '.join(own)} at the top, and a field "
                "of such a name cannot be beside them; leave it out in a mapping file: "
                f"`- {{drop: {{collection: {section}}}, reason: ...}}`"
            )
        return at

    def _aux_place(self, path: str, rest: str, lists: frozenset[str] | None) -> DiskPath:
        if self.aux is None:
            raise errors.ConvertError(
                f"{path}: layout {self.name!r} has no place for random state; "
                "drop it (--random drop): it is derived again where it is needed"
            )
        return (*self.aux, *names.keys(rest, lists))

    def _form(
        self, tree: DiskTree, places: Mapping[str, DiskPath], seen: reader.Reader
    ) -> tuple[Form, tuple[str, ...]]:
        """What must be known to write exactly this tree again, and what is unusual in it."""
        candidates = [
            dataclasses.replace(seen.form, style=style, lists=lists)
            for style in (None, *self.others)
            for lists in ((None, seen.form.lists) if self.style.split else (seen.form.lists,))
        ]
        own, empty = self._empty(tree, seen)
        best: tuple[int, Form, list[str], bool] | None = None
        for form in candidates:
            other, holes = self._differs(own, places, seen.skeleton, form)
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
            found = dataclasses.replace(found, holes=own)
        return dataclasses.replace(found, empty=empty), notes

    def _empty(
        self, tree: DiskTree, seen: reader.Reader
    ) -> tuple[dict[DiskPath, Hole], dict[DiskPath, Hole]]:
        """The holes that the optimizer's containers tell of, and all others."""
        known = seen.known.empty if seen.known is not None else {}
        containers = set(seen.containers.values())
        if seen.skeleton is None:
            containers.discard(self.opt_state or ())
        spelt = {tuple(map(str, at)): at for at in known}
        own: dict[DiskPath, Hole] = {}
        empty: dict[DiskPath, Hole] = {}
        for at, hole in tree.items():
            if not isinstance(hole, Hole):
                continue
            if at in containers:
                own[at] = hole
                continue
            before = spelt.get(tuple(map(str, at)))  # a file has `{}` for all that is empty
            alike = before is not None and (hole is Hole.NONE) == (known[before] is Hole.NONE)
            if before is not None and alike:
                empty[before] = known[before]
            else:
                empty[at] = hole
        return own, empty

    def _differs(
        self,
        own: Mapping[DiskPath, Hole],
        places: Mapping[str, DiskPath],
        skeleton: skeletons.Skeleton,
        form: Form,
    ) -> tuple[list[str], bool]:
        written = self.write(places, skeleton, dataclasses.replace(form, places={}, holes=None))
        back = {value: at for at, value in written.items() if isinstance(value, str)}
        holes = {at: value for at, value in written.items() if isinstance(value, Hole)}
        return [name for name, at in places.items() if back.get(name) != at], holes != own


def _filled(written: Written, empty: Mapping[DiskPath, Hole]) -> Written:
    """With further holes, whose keys are places in a list where others' keys are there."""
    if not empty:
        return written
    known = {at[:size] for at in written for size in range(1, len(at) + 1)}
    for path, hole in empty.items():
        at: DiskPath = ()
        for key in path:
            here = (*at, key)
            if here not in known:
                other: DiskPath = (*at, str(key))
                if str(key).isdecimal() and isinstance(key, str):
                    other = (*at, int(key))
                here = other if other in known else here
            at = here
        if at not in known:
            written[at] = hole
    return written


def _without_gaps(written: Written) -> Written:
    """With None for the places in lists of which nothing is written, since no list has gaps."""
    lists: dict[DiskPath, set[int]] = {}
    for at in written:
        for level, key in enumerate(at):
            if isinstance(key, int):
                lists.setdefault(at[:level], set()).add(key)
    for start, held in lists.items():
        written |= {(*start, index): Hole.NONE for index in range(max(held)) if index not in held}
    return written


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
