"""From logical axis names to mesh axes."""

import dataclasses
from collections.abc import Sequence

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Array = jax.Array
Axes = Sequence[str | None]


@dataclasses.dataclass(frozen=True)
class Rules:
    """An ordered list of (logical axis, mesh axes), for one mesh.

    As in MaxText: the first rule of a name whose mesh axes are still free in this array wins, later
    ones are fallbacks; mesh axes of size one are left out; a name without a rule is not split.

    Attributes:
        rules: the list.
        mesh: the mesh.
    """

    rules: tuple[tuple[str, tuple[str, ...]], ...]
    mesh: Mesh

    def spec(self, axes: Axes, shape: Sequence[int] | None = None) -> PartitionSpec:
        """How an array with these logical axes is split.

        Args:
            axes: a logical name, or None, for each dimension.
            shape: if given, mesh axes that do not divide a dimension are left out.
        """
        used: set[str] = set()
        entries: list[tuple[str, ...] | str | None] = []
        for i, name in enumerate(axes):
            chosen = self._choose(name, used)
            if shape is not None:
                chosen = self._divisible(chosen, shape[i])
            used.update(chosen)
            entries.append(chosen if len(chosen) > 1 else (chosen[0] if chosen else None))
        while entries and entries[-1] is None:
            entries.pop()
        return PartitionSpec(*entries)

    def sharding(self, axes: Axes, shape: Sequence[int] | None = None) -> NamedSharding:
        """The same as a sharding on the mesh."""
        return NamedSharding(self.mesh, self.spec(axes, shape))

    def constrain(self, x: Array, axes: Axes) -> Array:
        """Asks the compiler to split `x` so; for `core.partition.constraints`."""
        return jax.lax.with_sharding_constraint(x, self.sharding(axes, x.shape))

    def _choose(self, name: str | None, used: set[str]) -> tuple[str, ...]:
        for logical, physical in self.rules:
            if logical != name:
                continue
            present = tuple(a for a in physical if self.mesh.shape.get(a, 1) > 1)
            if not used.intersection(present):
                return present
        return ()

    def _divisible(self, chosen: tuple[str, ...], size: int) -> tuple[str, ...]:
        kept: list[str] = []
        for axis in chosen:
            ways = self.mesh.shape[axis]
            if size % ways == 0:
                kept.append(axis)
                size //= ways
        return tuple(kept)
