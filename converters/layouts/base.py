"""What a checkpoint layout must be able to do."""

from collections.abc import Iterable
from typing import Protocol

from maxmig.converters import skeletons
from maxmig.converters.layouts.table import Evidence, Reading, Written
from maxmig.converters.leaves import DiskTree


class Layout(Protocol):
    """One way to write a training state on disk; see `table.Table` for the usual kind."""

    @property
    def name(self) -> str:
        """How the command line and the metadata call it."""

    @property
    def title(self) -> str:
        """One line for people."""

    @property
    def step_dtype(self) -> str:
        """The step counter's type on disk; the canonical one is int32."""

    @property
    def exact(self) -> bool:
        """Whether the tree itself tells the optimizer's containers, empty ones too."""

    def evidence(self, tree: DiskTree) -> Evidence:
        """Judges from metadata alone whether a tree is of this layout, with reasons."""

    def read(self, tree: DiskTree) -> Reading:
        """Maps a disk tree to canonical paths; every leaf has one fate, or an error lists it."""

    def write(self, paths: Iterable[str], skeleton: skeletons.Skeleton) -> Written:
        """Maps canonical paths to a disk tree; the inverse of `read`."""
