"""The containers of an optimizer's state, as data that a checkpoint's metadata can hold."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from maxmig import trees


def skeleton(tx: optax.GradientTransformation, params: Mapping[str, Any]) -> Any:
    """What `tx` keeps for parameters of these canonical paths, without arrays.

    Returns:
        {"tuple": [...]}, {"dict": {...}} (named tuples too), {"params": [paths without an array]}
        for a subtree shaped like the parameters, "array", or None where nothing is kept.
    """
    nested = trees.unflatten(params)
    abstract = jax.eval_shape(tx.init, nested)
    return _describe(abstract, set(trees.flatten(nested)), set(nested))


def _describe(node: Any, paths: set[str], roots: set[str]) -> Any:
    if isinstance(node, Mapping) and set(node) == roots:
        flat = trees.flatten(node)
        return {"params": trees.sort(p for p in paths if isinstance(flat[p], optax.MaskedNode))}
    if isinstance(node, Mapping):
        return {"dict": {str(k): _describe(v, paths, roots) for k, v in node.items()}}
    if isinstance(node, tuple | list) and not hasattr(node, "_fields"):
        return {"tuple": [_describe(v, paths, roots) for v in node]}
    children = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda other: other is not node)
    if not children:
        return None  # None, or a node without fields: Orbax writes both so
    if not children[0][0]:
        return "array"
    # A named tuple, a dataclass, or a node of a user's own: by the names of its fields.
    return {"dict": {_name(key): _describe(value, paths, roots) for (key,), value in children}}


def _name(key: Any) -> str:
    for kind in ("name", "key", "idx"):
        if hasattr(key, kind):
            return str(getattr(key, kind))
    return str(key)
