"""The bijection between a framework's own tree and the canonical flat form."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import tree_util

from maxmig import trees

PathOf = Callable[[tuple[Any, ...]], str]


def parts(keys: tuple[Any, ...]) -> list[str | int]:
    """A JAX key path as names and integers, without the `.value` of a wrapped leaf."""
    if keys and isinstance(keys[-1], tree_util.GetAttrKey) and keys[-1].name == "value":
        keys = keys[:-1]
    return [_part(key) for key in keys]


def path(keys: tuple[Any, ...]) -> str:
    """A JAX key path as `a/b/0/c`."""
    return "/".join(str(part) for part in parts(keys))


def model_path(names: list[str | int]) -> str:
    """The canonical path of a weight: `layers`, 0 (an item of a list of modules) is `layers_0`."""
    joined: list[str] = []
    for name in names:
        if isinstance(name, int) and joined:
            joined[-1] = f"{joined[-1]}_{name}"
        else:
            joined.append(str(name))
    return "/".join(joined)


class View:
    """Sees one kind of native tree as {canonical path: leaf}, in natural order, and back."""

    def __init__(self, native: Any, path_of: PathOf):
        """
        Args:
            native: a tree, or an abstract one, of the kind to be seen.
            path_of: the canonical path of a JAX key path.

        Raises:
            ValueError: two leaves have the same canonical path.
        """
        treedef: Any
        leaves, treedef = tree_util.tree_flatten_with_path(native)
        self._treedef = treedef
        places = [path_of(keys) for keys, _ in leaves]
        order = sorted(range(len(places)), key=lambda i: trees.natural_key(places[i]))
        self.paths = tuple(places[i] for i in order)
        twice = {p for a, p in zip(self.paths, self.paths[1:], strict=False) if a == p}
        if twice:
            raise ValueError(f"two leaves share the canonical path {', '.join(sorted(twice))}")
        self._order = tuple(order)
        self._slot = {places[i]: i for i in order}
        self.abstract = {
            p: jax.ShapeDtypeStruct(leaves[i][1].shape, leaves[i][1].dtype)
            for p, i in zip(self.paths, order, strict=True)
        }

    def flat(self, native: Any) -> dict[str, Any]:
        """{canonical path: leaf}."""
        leaves = self._treedef.flatten_up_to(native)
        return {p: leaves[i] for p, i in zip(self.paths, self._order, strict=True)}

    def native(self, flat: Mapping[str, Any]) -> Any:
        """The native tree of the leaves.

        Raises:
            KeyError: a leaf is missing; ValueError: there are leaves that have no place.
        """
        if len(flat) != len(self.paths):
            extra = trees.sort(set(flat) - set(self.paths))
            missing = trees.sort(set(self.paths) - set(flat))
            raise ValueError(f"leaves without a place: {extra}; places without a leaf: {missing}")
        leaves: list[Any] = [None] * len(flat)
        for place, leaf in flat.items():
            leaves[self._slot[place]] = leaf
        return self._treedef.unflatten(leaves)


def _part(key: Any) -> str | int:
    if isinstance(key, tree_util.SequenceKey):
        return key.idx
    if isinstance(key, tree_util.GetAttrKey):
        return key.name
    if isinstance(key, tree_util.DictKey | tree_util.FlattenedIndexKey):
        return key.key
    return str(key)
