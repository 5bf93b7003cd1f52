"""What a conversion is, as data: which boxes of which stored arrays make up each array of it.

A mapping makes a `Conversion` from metadata alone; the engine carries it out, and verification
holds the result against it. Nothing here reads an array.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from maxmig.converters.leaves import DiskPath, Hole, Leaf

if TYPE_CHECKING:
    import numpy as np

    from maxmig.converters.accounting import Accounting
    from maxmig.converters.storage.base import Storage

Box = tuple[tuple[int, int], ...]
"""A part of an array: (start, stop) for each axis of its logical shape; `()` is a scalar."""

CONTAINERS = ("orbax", "msgpack", "safetensors")


class Op(Protocol):
    """How one array is made of others; the kinds are in `ops`, each with an exact inverse.

    Axes count from the front and never reach the words of a random key, which ride along.
    """

    def result(self, sources: Sequence[Leaf]) -> Leaf:
        """Shape and type of the result.

        Raises:
            ConvertError: the sources do not fit the operation.
        """

    def parts(self, box: Box, sources: Sequence[Leaf]) -> tuple[tuple[int, Box], ...]:
        """Which box of which source (by its place) is read to make a box of the result."""

    def apply(
        self, arrays: "Sequence[np.ndarray]", box: Box, sources: Sequence[Leaf]
    ) -> "np.ndarray":
        """The box of the result, from the arrays of `parts(box, sources)` in their order."""


@dataclass(frozen=True)
class Transfer:
    """One array of the result, and where it comes from.

    Attributes:
        target: its path in the result's tree.
        leaf: its shape and type there.
        sources: the paths in the source's tree that it is made of.
        op: how.
        cast: whether `leaf.dtype` differs from the sources'; the values are then exactly those of
            NumPy's cast of the sources (of a step counter: the same number).
        number: whether Orbax is told that it is a plain number, no array, although it is cast.
    """

    target: DiskPath
    leaf: Leaf
    sources: tuple[DiskPath, ...]
    op: Op
    cast: bool = False
    number: bool = False


@dataclass(frozen=True)
class Made:
    """An array of the result that has no source: a derived random state, a constant scale.

    Attributes:
        target: its path in the result's tree.
        leaf: its shape and type there.
        make: makes it, always the same; random keys as their uint32 words.
        why: its origin, for the accounting.
    """

    target: DiskPath
    leaf: Leaf
    make: "Callable[[], np.ndarray]"
    why: str


@dataclass(frozen=True)
class Conversion:
    """A whole conversion, planned and accounted for; no array has been read.

    Attributes:
        storage: the source.
        layout: the name of the result's layout.
        transfers: the arrays that come from the source.
        made: the arrays that do not.
        strings: the texts of the result, which its metadata hold.
        holes: where the result has None, `{}` or `[]` instead of an array.
        container: `orbax`, `msgpack` or `safetensors`.
        metadata: the custom metadata of the result's step.
        step: the number of the result's directory; None writes one without a number.
        spelling: what the container of the result leaves open, as `Storage.spelling` tells it.
        items: the items of an Orbax step that hold the result's tree, each named by the first key
            of its paths; none: one item holds all of it.
        accounting: the fate of each leaf of the source, the origin of each of the result.
        notes: what a reader should know.
    """

    storage: "Storage"
    layout: str
    transfers: tuple[Transfer, ...]
    accounting: "Accounting"
    made: tuple[Made, ...] = ()
    strings: Mapping[DiskPath, str] = field(default_factory=dict)
    holes: Mapping[DiskPath, Hole] = field(default_factory=dict)
    container: str = "orbax"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    notes: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    spelling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def leaves(self) -> dict[DiskPath, Leaf]:
        """Every array and string of the result by its path there."""
        found = {item.target: item.leaf for item in self.transfers}
        found |= {item.target: item.leaf for item in self.made}
        return found | {path: Leaf.of_text(text) for path, text in self.strings.items()}

    @property
    def nbytes(self) -> int:
        """The size of the result's arrays in bytes."""
        return sum(leaf.nbytes for leaf in self.leaves.values())


def whole(leaf: Leaf) -> Box:
    """The box that is all of a leaf."""
    return tuple((0, size) for size in leaf.shape)


def shape_of(box: Box) -> tuple[int, ...]:
    """The shape of a box."""
    return tuple(stop - start for start, stop in box)
