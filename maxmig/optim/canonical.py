"""Lets an optimizer see plain nested dicts with canonical names, whatever the framework.

Masks, partitions and Muon's table look at paths. Linen and NNX spell paths differently (NNX even
differently at init and at update), so that masks silently stop matching. Behind this wrapper there
is one spelling, and one structure of the optimizer's state, on every rung.
"""

import functools
from typing import Any

import optax

from maxmig import trees
from maxmig.view import PathOf, View


@functools.cache  # one wrapper an optimizer: Flax compares states by the identity of theirs
def on_canonical_trees(
    tx: optax.GradientTransformation, path_of: PathOf
) -> optax.GradientTransformationExtraArgs:
    """`tx` for native trees of parameters.

    Args:
        tx: an optimizer for nested dicts with canonical names.
        path_of: the canonical path of a JAX key path in a native tree.
    """
    inner = optax.with_extra_args_support(tx)

    def nested(native: Any) -> dict[str, Any]:
        return trees.unflatten(View(native, path_of).flat(native))

    def init(native: Any) -> Any:
        return inner.init(nested(native))

    def update(grads: Any, state: Any, native: Any = None, **kwargs: Any) -> tuple[Any, Any]:
        weights = None if native is None else nested(native)
        updates, state = inner.update(nested(grads), state, weights, **kwargs)
        # NNX gives wrapped leaves to init and bare ones to update: answer in the form of the call.
        return View(grads, path_of).native(trees.flatten(updates)), state

    return optax.GradientTransformationExtraArgs(init, update)
