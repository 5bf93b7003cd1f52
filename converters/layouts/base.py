"""What a checkpoint layout must be able to do, and the data it answers with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from maxmig.converters import skeletons
from maxmig.converters.leaves import DiskPath, DiskTree, Hole

Written = dict[DiskPath, "str | Hole"]
Family = Literal["linen", "nnx"]


@dataclass(frozen=True)
class Evidence:
    """Whether a layout takes a tree for its own, how sure it is (0 to 1), and why."""

    layout: str
    fits: bool
    reasons: tuple[str, ...]
    confidence: float = 1.0


@dataclass(frozen=True)
class Form:
    """How one tree spells what its layout leaves open, so that it can be written back exactly.

    Attributes:
        wrapped: the sections in which every array sits under a further key `value`.
        boxed: model paths of the single parameters that do, their moments likewise.
        lists: the containers that are written as `blocks/0`, by canonical path; None: as the layout
            does it by itself.
        style: how the optimizer's containers are written; None: the layout's own way.
        step_dtype: the step counter's type; None: the layout's own.
        places: leaves that are in none of the places that all this leads to.
        holes: the holes in the optimizer's state, if they are not those that all this leads to.
        empty: the other places that hold no array, and what is empty in the optimizer because the
            parameter's place is.
        beside: sections that are no part of the model although collections are: top-level keys.
        levels: sections with a `params` level of their own, as the parameters have it (averages).
    """

    wrapped: tuple[str, ...] = ()
    boxed: frozenset[str] = frozenset()
    lists: frozenset[str] | None = None
    style: skeletons.Style | None = None
    step_dtype: str | None = None
    places: Mapping[str, DiskPath] = field(default_factory=dict)
    holes: Mapping[DiskPath, Hole] | None = None
    empty: Mapping[DiskPath, Hole] = field(default_factory=dict)
    beside: frozenset[str] = frozenset()
    levels: frozenset[str] = frozenset()

    @property
    def tops(self) -> dict[DiskPath, Hole]:
        """The top-level keys that hold nothing, which no change of the model's layers touches."""
        return {at: hole for at, hole in self.empty.items() if not at[1:]}

    def to_json(self) -> dict[str, Any]:
        """As JSON for a checkpoint's metadata; what is as usual is left out."""
        found: dict[str, Any] = {}
        if self.wrapped:
            found["wrapped"] = list(self.wrapped)
        if self.boxed:
            found["boxed"] = sorted(self.boxed)
        if self.lists is not None:
            found["lists"] = sorted(self.lists)
        if self.style is not None:
            found["style"] = vars(self.style)
        if self.step_dtype is not None:
            found["step_dtype"] = self.step_dtype
        if self.places:
            found["places"] = {name: list(path) for name, path in self.places.items()}
        if self.holes is not None:
            found["holes"] = [[list(path), hole.value] for path, hole in self.holes.items()]
        if self.empty:
            found["empty"] = [[list(path), hole.value] for path, hole in self.empty.items()]
        for name in ("beside", "levels"):
            if sections := getattr(self, name):
                found[name] = sorted(sections)
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Form":
        """The inverse of `to_json`."""
        holes = found.get("holes")
        lists = found.get("lists")
        style = found.get("style")
        return cls(
            wrapped=tuple(found.get("wrapped", ())),
            boxed=frozenset(found.get("boxed", ())),
            lists=None if lists is None else frozenset(lists),
            style=None if style is None else skeletons.Style(**style),
            step_dtype=found.get("step_dtype"),
            places={name: tuple(path) for name, path in found.get("places", {}).items()},
            holes=None if holes is None else {tuple(path): Hole(value) for path, value in holes},
            empty={tuple(path): Hole(value) for path, value in found.get("empty", ())},
            beside=frozenset(found.get("beside", ())),
            levels=frozenset(found.get("levels", ())),
        )


@dataclass(frozen=True)
class Hints:
    """What a person says of a tree that does not tell it by itself.

    Attributes:
        boxed: parameters that sit in a box, under `value`, by model path.
        unboxed: modules that truly have a parameter called `value`.
        collections: {model path: collection} of leaves of an NNX tree.
    """

    boxed: frozenset[str] = frozenset()
    unboxed: frozenset[str] = frozenset()
    collections: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """A disk tree seen through a layout.

    Attributes:
        layout: the layout's name.
        places: where each canonical leaf is on disk.
        skeleton: the optimizer's containers, None when the tree has no optimizer state.
        notes: what is not spelt as the layout itself would write it.
        form: how to write exactly this tree again.
    """

    layout: str
    places: dict[str, DiskPath]
    skeleton: skeletons.Skeleton
    notes: tuple[str, ...] = ()
    form: Form = field(default_factory=Form)


class Layout(Protocol):
    """One way to write a training state on disk; see `table.Table` for the usual kind."""

    @property
    def name(self) -> str:
        """How the command line and the metadata call it."""

    @property
    def title(self) -> str:
        """One line for people."""

    @property
    def family(self) -> Family:
        """The framework whose names its parameters have."""

    @property
    def step_dtype(self) -> str:
        """The step counter's type on disk; the canonical one is int32."""

    @property
    def exact(self) -> bool:
        """Whether the tree itself tells the optimizer's containers, empty ones too."""

    @property
    def items(self) -> tuple[str, ...]:
        """The first keys, where each is an item of its own in a step; none: one item holds all."""

    def evidence(self, tree: DiskTree) -> Evidence:
        """Judges from metadata alone whether a tree is of this layout, with reasons."""

    def read(self, tree: DiskTree, form: Form | None = None, hints: Hints | None = None) -> Reading:
        """Maps a disk tree to canonical paths; every leaf has one fate, or an error lists it.

        Args:
            tree: the tree.
            form: what is known about it, from the metadata; else it is told from the tree.
            hints: what a person says of it.
        """

    def write(
        self, paths: Iterable[str], skeleton: skeletons.Skeleton, form: Form | None = None
    ) -> Written:
        """Maps canonical paths to a disk tree; the inverse of `read`.

        Args:
            paths: the canonical paths.
            skeleton: the optimizer's containers.
            form: how to spell what the layout leaves open; None: the usual way.
        """
