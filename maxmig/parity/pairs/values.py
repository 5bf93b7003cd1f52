"""Outputs and trees as arrays by name."""

import zlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxmig import errors

Flat = dict[str, Any]


def named(out: Any) -> Flat:
    """The arrays of an output by name: `outputs`, or `outputs/0`, `outputs/logits`, ..."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(out)[0]:
        rest = jax.tree_util.keystr(path, simple=True, separator="/")
        if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | bool | complex):
            raise errors.ConfigError(
                f"outputs/{rest}: expected an array, got {type(leaf).__name__}; return arrays, or "
                "choose another method with Pair(method=...)"
            )
        found["/".join(part for part in ("outputs", rest) if part)] = jnp.asarray(leaf)
    return found


def positions(names: Iterable[str]) -> bool:
    """Whether outputs have no names, but places in a tuple or list."""
    return all(part.isdigit() for name in names for part in name.split("/")[1:])


def weighted(out: Any) -> jax.Array:
    """The sum of all outputs, each number weighted by a fixed random one.

    Raises:
        InconclusiveError: no output is a float, so that there is nothing to differentiate.
    """
    total = jnp.zeros((), jnp.float32)
    floats = 0
    for i, leaf in enumerate(jax.tree.leaves(out)):
        leaf = jnp.asarray(leaf)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        rng = np.random.default_rng([i, zlib.crc32(str(leaf.shape).encode())])
        weights = rng.standard_normal(leaf.shape).astype(np.float32)
        total = total + jnp.sum(leaf.astype(jnp.float32) * weights)
        floats += 1
    if not floats:
        raise errors.InconclusiveError("no output is a float: no gradients can be compared")
    return total


def same(one: Any, two: Any) -> bool:
    """Whether two arrays, or random keys, are the same bits."""
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
        one, two = jax.random.key_data(one), jax.random.key_data(two)
    return bool(np.asarray(one).tobytes() == np.asarray(two).tobytes())


def nested(flat: Flat) -> Flat:
    """`params/a/b` -> {'a': {'b': ...}}: the tree of the collection."""
    tree: Flat = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")[1:]
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def sorted_leaves(tree: Flat, params: Flat) -> list[Any]:
    """The leaves of a nested tree in the order of the sorted flat paths."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        found["params/" + jax.tree_util.keystr(path, simple=True, separator="/")] = leaf
    return [found[path] for path in sorted(params)]
