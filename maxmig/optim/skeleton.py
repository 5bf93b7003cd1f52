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
    if node is None or isinstance(node, optax.EmptyState | optax.MaskedNode):
        return None
    if isinstance(node, Mapping) and set(node) == roots:
        flat = trees.flatten(node)
        return {"params": trees.sort(p for p in paths if isinstance(flat[p], optax.MaskedNode))}
    if isinstance(node, Mapping):
        return {"dict": {str(k): _describe(v, paths, roots) for k, v in node.items()}}
    if names := getattr(node, "_fields", ()):  # a named tuple
        fields = zip(names, node, strict=True)
        return {"dict": {name: _describe(value, paths, roots) for name, value in fields}}
    if isinstance(node, tuple | list):
        return {"tuple": [_describe(v, paths, roots) for v in node]}
    return "array"
