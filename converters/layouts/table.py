"""One reader and one writer for all layouts that differ only in where they put things.

A layout of this kind is a `Table`: data that is read in both directions, so that writing cannot
drift from reading. Only leaf metadata are needed, never arrays or the model's code.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from maxmig import errors, trees
from maxmig.converters import leaves, skeletons, stacks
from maxmig.converters.leaves import DiskPath, DiskTree, Hole, Leaf

Written = dict[DiskPath, "str | Hole"]


@dataclass(frozen=True)
class Evidence:
    """Whether a layout takes a tree for its own, and why."""

    layout: str
    fits: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """A disk tree seen through a layout.

    Attributes:
        layout: the layout's name.
        places: where each canonical leaf is on disk.
        skeleton: the optimizer's containers, None when the tree has no optimizer state.
        notes: what is not spelt as the layout itself would write it.
    """

    layout: str
    places: dict[str, DiskPath]
    skeleton: skeletons.Skeleton
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A layout as data.

    Attributes:
        name: how the command line and the metadata call it.
        params: below which keys the parameters are.
        aux: below which keys the state that only one framework keeps is; may equal `params`.
        opt_state: below which keys the optimizer state is.
        step: the keys of the step counter.
        step_dtype: its type on disk (canonical: int32).
        style: how the optimizer's containers are written.
        requires: keys without which a tree is not of this layout.
    """

    name: str
    params: DiskPath
    aux: DiskPath
    opt_state: DiskPath
    step: DiskPath
    step_dtype: str
    style: skeletons.Style
    requires: DiskPath
    title: str = field(default="", compare=False)

    @property
    def exact(self) -> bool:
        """Whether the tree itself tells the optimizer's containers, empty ones too."""
        return self.style.holes

    def evidence(self, tree: DiskTree) -> Evidence:
        """Judges a tree by its keys alone."""
        size = len(self.requires)
        held = sum(path[:size] == self.requires for path in tree)
        tops = {self.params[0], self.aux[0], self.opt_state[0], self.step[0]}
        strange = sorted({str(path[0]) for path in tree} - tops)
        wanted = leaves.spell(self.requires)
        reasons = [f"{held} leaves below {wanted!r}" if held else f"nothing below {wanted!r}"]
        if strange:
            reasons.append(f"does not know the top-level keys {strange}")
        return Evidence(self.name, bool(held) and not strange, tuple(reasons))

    def read(self, tree: DiskTree) -> Reading:
        """Maps every leaf of a disk tree to its canonical path.

        Raises:
            ConvertError: a leaf has no place in this layout, a parameter is a hole, or two leaves
                have one canonical path; all of them are listed.
        """
        notes: list[str] = []
        problems: list[str] = []
        places: dict[str, DiskPath] = {}
        state: dict[DiskPath, _Stored | Hole] = {}
        unwrapped = self._unwrapped(tree, notes)
        for path, (keys, leaf) in unwrapped.items():
            if keys[: len(self.opt_state)] == self.opt_state:
                state[keys[len(self.opt_state) :]] = (
                    _Stored(path) if isinstance(leaf, Leaf) else leaf
                )
                continue
            name = self._canonical(keys, leaf)
            if name is None:
                problems.append(f"{leaves.spell(path)}: no place for it in this layout")
            elif isinstance(leaf, Hole):
                problems.append(f"{leaves.spell(path)}: a hole ({leaf.value}) instead of an array")
            elif name in places:
                problems.append(
                    f"{leaves.spell(path)} and {leaves.spell(places[name])}: both {name}"
                )
            else:
                places[name] = path
        skeleton, moments = self._state(state, skeletons.params_of(places))
        if problems:
            raise errors.ConvertError(
                f"the tree cannot be read as layout {self.name!r}:\n  " + "\n  ".join(problems)
            )
        places |= moments
        ordered = {name: places[name] for name in trees.sort(places)}
        reading = Reading(self.name, ordered, skeleton)
        return Reading(self.name, ordered, skeleton, (*notes, *self._variants(tree, reading)))

    def write(self, paths: Iterable[str], skeleton: skeletons.Skeleton) -> Written:
        """Where the layout puts canonical leaves, and its holes: {disk path: canonical or hole}.

        Raises:
            ConvertError: a leaf that the skeleton does not know, or one that it misses.
        """
        flat = list(paths)
        params = trees.sort(skeletons.params_of(flat))
        written: Written = {}
        for path in flat:
            section, _, rest = path.partition("/")
            if section == "params":
                self._put(written, (*self.params, *self._keys(rest)), path)
            elif section == "aux":
                self._put(written, (*self.aux, *self._keys(rest)), path)
            elif path == "step":
                self._put(written, self.step, path)
            elif section != skeletons.ROOT:
                raise errors.ConvertError(
                    f"{path}: expected a canonical path below params/, opt_state/ or aux/, or step"
                )
        if skeleton is not None:
            for at, value in skeletons.write(skeleton, self.opt_state, params, self.style).items():
                self._put(written, at, value)
        _account(flat, written)
        return written

    def _put(self, written: Written, at: DiskPath, value: "str | Hole") -> None:
        if at in written:
            raise errors.ConvertError(
                f"{leaves.spell(at)}: both {written[at]} and {value} would be written there"
            )
        written[at] = value

    def _keys(self, path: str) -> tuple[str, ...]:
        return stacks.split(path) if self.style.split else tuple(path.split("/"))

    def _canonical(self, keys: DiskPath, leaf: "Leaf | Hole") -> str | None:
        if keys == self.step:
            return "step"
        for section, start in (("aux", self.aux), ("params", self.params)):
            rest = keys[len(start) :]
            if not rest or keys[: len(start)] != start:
                continue
            if section == "aux" and self.aux == self.params and not is_random(rest, leaf):
                continue
            return f"{section}/{stacks.joined(rest)}"
        return None

    def _state(
        self, state: dict[DiskPath, "_Stored | Hole"], params: frozenset[str]
    ) -> tuple[skeletons.Skeleton, dict[str, DiskPath]]:
        if not state:
            return None, {}
        # Below one more key, because opt_state itself may be a hole or an array.
        nested = leaves.nest({("", *keys): leaf for keys, leaf in state.items()})[""]
        skeleton, held = skeletons.read(nested, params)
        return skeleton, {name: stored.path for name, stored in held.items()}

    def _unwrapped(
        self, tree: DiskTree, notes: list[str]
    ) -> dict[DiskPath, tuple[DiskPath, "Leaf | Hole"]]:
        """Each path with the keys that count: without a `value` that wraps a section's every leaf.

        A module or an attribute may truly be called `value`, so some of the leaves prove nothing.
        """
        found: dict[DiskPath, tuple[DiskPath, Leaf | Hole]] = {
            path: (path, leaf) for path, leaf in tree.items()
        }
        for start in dict.fromkeys((self.params, self.aux, self.opt_state, self.step)):
            inside = [path for path in tree if path[: len(start)] == start]
            arrays = [path for path in inside if isinstance(tree[path], Leaf)]
            if arrays and all(len(path) > len(start) and path[-1] == "value" for path in arrays):
                notes.append(f"{leaves.spell(start)}: every leaf is wrapped in a 'value'")
                found |= {
                    path: (path[:-1] if path[-1] == "value" else path, tree[path])
                    for path in inside
                }
        return found

    def _variants(self, tree: DiskTree, reading: Reading) -> Iterator[str]:
        """Tells what this layout itself would have written in another way."""
        written = self.write(reading.places, reading.skeleton)
        back = {at: reading.places[v] if isinstance(v, str) else v for at, v in written.items()}
        other = [
            path
            for path, leaf in tree.items()
            if back.get(path) != (path if isinstance(leaf, Leaf) else leaf)
        ]
        if other:
            first = leaves.spell(other[0])
            yield f"{len(other)} leaves are not where {self.name!r} writes them, first {first}"


@dataclass(frozen=True)
class _Stored:
    """A leaf of a nested state: where it is on disk."""

    path: DiskPath


def is_random(keys: DiskPath, leaf: "Leaf | Hole | None" = None) -> bool:
    """Whether a leaf is a random key or counter: by its type, else by its place below `rngs`."""
    if isinstance(leaf, Leaf) and leaf.is_key:
        return True
    return "rngs" in keys[:-1] and keys[-1] in ("key", "count")


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
