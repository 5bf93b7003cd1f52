"""What can be seen in a tree's keys and types alone, gathered once for all layouts."""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from maxmig.converters import leaves, names
from maxmig.converters.leaves import DiskPath, DiskTree, Hole, Leaf

# Keys that are a program's, not a Linen collection's.
RESERVED = {"model", "optimizer", "model_params", "optimizer_state", "opt_state", "step"}
# ... and those that no module of a model has either.
LEVELS = RESERVED | {"params", "nnx_aux", "nnx", "batch_stats"}
AUTO_NAME = re.compile(r"[A-Z]\w*_\d+")  # as Linen's compact modules name themselves


def is_random(keys: DiskPath, leaf: "Leaf | Hole | None" = None) -> bool:
    """Whether a leaf is a random key or counter: by its type, else by its place below `rngs`."""
    if isinstance(leaf, Leaf) and leaf.is_key:
        return True
    inside = any(str(key) == "rngs" or str(key).endswith("__rngs") for key in keys[:-1])
    return inside and keys[-1] in ("key", "count")


@dataclass(frozen=True)
class Facts:
    """A tree's outward signs."""

    tree: DiskTree

    @cached_property
    def tops(self) -> set[str]:
        """The top-level keys."""
        return {str(path[0]) for path in self.tree if path}

    @cached_property
    def arrays(self) -> list[DiskPath]:
        """The paths of all arrays."""
        return [path for path, leaf in self.tree.items() if isinstance(leaf, Leaf)]

    @cached_property
    def children(self) -> dict[DiskPath, set[str]]:
        """The keys of each inner node."""
        found: dict[DiskPath, set[str]] = defaultdict(set)
        for path in self.tree:
            for level in range(len(path)):
                found[path[:level]].add(str(path[level]))
        return found

    def below(self, start: DiskPath) -> int:
        """How many leaves and holes lie below some keys."""
        return sum(len(p) > len(start) and p[: len(start)] == start for p in self.tree)

    def wrapped(self, start: DiskPath = ()) -> bool:
        """Whether every array below some keys sits under a further `value`.

        The scales of a WeightNorm are no variables before flax 0.12.12, and have none.
        """
        inside = [
            path for path in self.arrays if path[: len(start)] == start and not names.is_scale(path)
        ]
        if len(inside) > 1 and (*start, "value") in inside:
            return False  # a parameter called so; nothing can be beside a wrapper
        return bool(inside) and all(
            path[-1] == "value" and len(path) > max(1, len(start)) for path in inside
        )

    @cached_property
    def states(self) -> list[str]:
        """Subtrees that are training states: no module holds an `opt_state`."""
        nodes = (at for at, keys in self.children.items() if at and "opt_state" in keys)
        return sorted(leaves.spell(at) for at in nodes)

    @cached_property
    def auto_named(self) -> list[str]:
        """Names that only Linen gives: `Dense_0`."""
        return sorted({str(k) for path in self.arrays for k in path if AUTO_NAME.fullmatch(str(k))})

    @cached_property
    def random(self) -> list[DiskPath]:
        """The paths of random state."""
        return [
            path
            for path in self.arrays
            if is_random(path[:-1] if path[-1] == "value" else path, self.tree[path])
        ]

    @cached_property
    def listed(self) -> list[DiskPath]:
        """Paths with a numbered key inside, as NNX lists have them."""
        return [
            path
            for path in self.arrays
            if any(isinstance(key, str) and key.isdigit() for key in path[1:])
        ]
