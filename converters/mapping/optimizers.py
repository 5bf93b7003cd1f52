"""The containers of an optimizer's state, from the optimizer itself where it is known.

An NNX tree has no trace of empty states at the end of a chain; `tx.init` tells them.
"""

import dataclasses
import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from maxmig import errors, trees
from maxmig.converters import skeletons
from maxmig.converters.layouts import Form, Layout
from maxmig.converters.leaves import Hole
from maxmig.converters.mapping.state import State


def skeleton(told: Any, state: State) -> skeletons.Skeleton:
    """The skeleton of an optimizer's state, held against the leaves that there are.

    Args:
        told: a skeleton, an optax optimizer, or `module:name` of one or of what makes one.
        state: whose parameters and optimizer state.

    Raises:
        ConfigError: it is none of these.
        ConvertError: it is another optimizer than the one that wrote the state.
    """
    if isinstance(told, str) and told != "array":
        told = _imported(told)
    if callable(getattr(told, "init", None)):
        told = _walked(told, state)
    params = state.params
    wanted = skeletons.paths(told, params)
    held = {path for path in state.items if path.split("/")[0] == skeletons.ROOT}
    if wanted != held:
        lines = [f"missing in the checkpoint: {path}" for path in trees.sort(wanted - held)[:8]]
        lines += [f"not of this optimizer: {path}" for path in trees.sort(held - wanted)[:8]]
        raise errors.ConvertError(
            "the optimizer that was named does not fit the state that is stored:\n  "
            + "\n  ".join(lines)
            + _no_parameter(wanted - held, held, params)
        )
    return told


def _no_parameter(missing: set[str], held: set[str], params: Iterable[str]) -> str:
    """What to say where all that is missing is of parameters that have nothing in the state."""
    bare = set(params) - {end for path in held for end in _ends(path)}
    named = [
        next((end for end in _ends(path) if end in bare), None) for path in trees.sort(missing)
    ]
    if not held or None in named or not named:
        return ""
    return (
        f"\nIf a variable such as {named[0]} is no parameter, say so in a mapping file: "
        f"`collections: {{{named[0]}: cache}}`"
    )


def _ends(path: str) -> Iterator[str]:
    """What follows each slash of a path."""
    return (path[at + 1 :] for at, letter in enumerate(path) if letter == "/")


def empty(form: Form | None, target: Layout, state: State) -> Form | None:
    """The form, in which an optimizer that keeps nothing at all is None, as Orbax writes it."""
    place, style = getattr(target, "opt_state", None), getattr(target, "style", None)
    if state.skeleton is not None or not place or style is None or not style.holes:
        return form
    form = form or Form()
    return dataclasses.replace(form, empty={**form.empty, place: Hole.NONE})


def _imported(name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise errors.ConfigError(f"optimizer: expected module:name, got {name!r}")
    if (here := str(Path.cwd())) not in sys.path:  # a module of the user's own project
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), attribute)
        found = found if hasattr(found, "init") else found()
    except Exception as error:
        raise errors.ConfigError(
            f"optimizer: {name}: expected an optax optimizer, or a function without arguments that "
            f"makes one, but getting it failed: {type(error).__name__}: {error}"
        ) from error
    if not callable(getattr(found, "init", None)):
        raise errors.ConfigError(
            f"optimizer: {name}: expected an optax optimizer, or a function without arguments that "
            f"makes one; got {type(found).__name__}"
        )
    return found


def _walked(tx: Any, state: State) -> skeletons.Skeleton:
    import jax

    from maxmig import optim

    params = {
        path.partition("/")[2]: jax.ShapeDtypeStruct(item.leaf.shape, item.leaf.dtype)
        for path, item in state.items.items()
        if path.startswith("params/")
    }
    try:
        return optim.skeleton(tx, params)
    except Exception as error:
        raise errors.ConfigError(
            f"optimizer: expected an optax optimizer for these parameters, but its init failed: "
            f"{type(error).__name__}: {error}"
        ) from error
