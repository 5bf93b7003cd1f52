"""What a container of arrays must be able to do: tell its tree, its chunks, and read boxes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from maxmig.converters import boxes
from maxmig.converters.leaves import DiskPath, Hole, Leaf
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Grid:
    """How an array is cut into chunks.

    Attributes:
        shape: the logical shape of the array.
        chunk: the shape of what is decoded at once: reading less costs as much.
        stored: the shape of one stored value, a multiple of `chunk` (they differ for sharded
            arrays); `chunk` where they are the same.
        codec: how a chunk is encoded, spelt so that equal codecs mean equal bytes; None when the
            array lies as it is in a file that can be mapped into memory.
        nbytes: the memory of one decoded chunk.
        whole: whether the encoded chunk is held as a whole while it is decoded.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    stored: tuple[int, ...]
    codec: str | None
    nbytes: int
    whole: bool = True

    @property
    def encoded(self) -> bool:
        """Whether a chunk must be decoded to be read."""
        return self.codec is not None

    def boxes(self, box: Box | None = None) -> Iterator[Box]:
        """The chunks, in row-major order; cut to a box, those that touch it."""
        box = tuple((0, size) for size in self.shape) if box is None else box
        return boxes.chunks(box, [max(1, size) for size in self.chunk])


class Storage(Protocol):
    """A container that is only read.

    Attributes:
        url: where it is; a plain path for local files.
    """

    url: str

    @property
    def strings(self) -> Mapping[DiskPath, str]:
        """The texts of the leaves that are strings."""

    def tree(self) -> dict[DiskPath, Leaf | Hole]:
        """All leaves and holes with shapes and types, from metadata alone.

        Raises:
            CheckpointError: the metadata cannot be read.
        """

    def metadata(self) -> dict[str, Any]:
        """What the writer wanted to be remembered; empty when nothing."""

    def grid(self, path: DiskPath) -> Grid:
        """How a leaf is cut into chunks."""

    def read(self, path: DiskPath, box: Box | None = None) -> "np.ndarray":
        """One box of a leaf, or all of it; random keys come as their uint32 words, in a last axis.

        Raises:
            CheckpointError: the data are damaged or missing; names the leaf and the chunk.
        """

    def fingerprint(self) -> str:
        """Names, sizes and times of all files: another one means that the source was changed."""
