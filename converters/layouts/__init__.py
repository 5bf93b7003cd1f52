"""Checkpoint layouts: one small file each, and the registry that tells them apart.

A new layout is a new file and a line in `LAYOUTS`.
"""

from typing import Any

from maxmig import errors
from maxmig.converters.layouts import (
    linen,
    linen_params,
    linen_state,
    linen_variables,
    maxtext_nnx,
    nnx,
    nnx_optimizer,
    nnx_pair,
    nnx_state,
    to_linen,
    to_nnx,
    tunix,
)
from maxmig.converters.layouts.base import Evidence, Form, Hints, Layout, Reading, Written
from maxmig.converters.layouts.facts import LEVELS, is_random
from maxmig.converters.layouts.table import Table
from maxmig.converters.leaves import DiskPath, DiskTree

__all__ = [
    "ALIASES",
    "BARE",
    "LAYOUTS",
    "Evidence",
    "Form",
    "Hints",
    "Layout",
    "Reading",
    "Table",
    "Written",
    "detect",
    "get",
    "is_random",
    "twin",
    "unsaid",
]

_MODULES = (
    *(linen, nnx, maxtext_nnx, linen_state, linen_variables, linen_params),
    *(nnx_state, nnx_optimizer, nnx_pair, to_nnx, to_linen, tunix),
)
LAYOUTS: dict[str, Layout] = {module.LAYOUT.name: module.LAYOUT for module in _MODULES}
ALIASES = {"maxtext-linen": "linen"}
BARE = ("linen-params", "nnx-state", "to-nnx")  # they have no level above the model
_MAXTEXT = ("linen", "nnx", "maxtext-nnx")
_LINEN_STATES = ("linen", "linen-state")
_NNX_STATES = ("nnx", "nnx-optimizer", "nnx-pair", "tunix")

# Which layout is meant by `--to linen` and `--to nnx`, for a source of each layout.
_LINEN_OF = {
    "nnx-optimizer": "linen-state",
    "nnx-pair": "linen-state",
    "tunix": "linen-state",
    "nnx-state": "linen-variables",
    "to-nnx": "linen-variables",
    "to-linen": "linen-variables",
}
_NNX_OF = {
    "linen-state": "nnx-optimizer",
    "linen-variables": "nnx-state",
    "linen-params": "nnx-state",
    "to-linen": "nnx-state",
    "to-nnx": "nnx-state",
}


def get(name: str) -> Layout:
    """The layout of that name.

    Raises:
        ConfigError: there is none.
    """
    name = ALIASES.get(name, name)
    if name not in LAYOUTS:
        raise errors.ConfigError(
            f"expected a checkpoint layout, one of {', '.join(LAYOUTS)}; got {name!r}"
        )
    return LAYOUTS[name]


def twin(source: Layout, to: str, origin: object = None) -> Layout:
    """What `--to` means for a source: `linen` and `nnx` are the twins in the source's own family.

    Args:
        source: its layout.
        to: what was said.
        origin: the layout of the checkpoint that the source was made of, if it remembers one: what
            went from whole states in one framework to the other comes back in the same layout.

    Raises:
        ConfigError: there is no such layout.
    """
    ways = {"linen": (_LINEN_STATES, _NNX_STATES), "nnx": (_NNX_STATES, _LINEN_STATES)}
    there, here = ways.get(to, ((), ()))
    if origin in there and source.name in here:
        return LAYOUTS[str(origin)]
    if to == "linen":
        if source.name in _MAXTEXT:
            return LAYOUTS["linen"]
        own = source if source.name.startswith("linen") else None
        return own or LAYOUTS[_LINEN_OF[source.name]]
    if to == "nnx":
        if source.name in _MAXTEXT:
            return LAYOUTS["nnx"]
        own = source if source.name in ("nnx-state", *_NNX_STATES) else None
        return own or LAYOUTS[_NNX_OF[source.name]]
    return get(to)


def unsaid(source: Layout, to: str | None, found: Layout, origin: object) -> tuple[str, ...]:
    """A note where `--to nnx` takes one of two layouts that NNX's optimizer has."""
    if (to, source.name, found.name) != ("nnx", "linen-state", "nnx-optimizer") or origin:
        return ()
    return (
        "nnx is nnx-optimizer here, as nnx.ModelAndOptimizer has it; for nnx.Optimizer beside the "
        "model (flax 0.11 and later) say --to nnx-pair",
    )


def detect(tree: DiskTree) -> tuple[Layout, Evidence]:
    """The one layout that takes the tree for its own, with its reasons.

    Raises:
        ConvertError: no layout fits, or several do; the evidence of each is told.
    """
    evidence = [layout.evidence(tree) for layout in LAYOUTS.values()]
    fitting = [found for found in evidence if found.fits]
    if len(fitting) == 1:
        return LAYOUTS[fitting[0].layout], fitting[0]
    told = "\n".join(f"  {found.layout}: {'; '.join(found.reasons)}" for found in evidence)
    tops = ", ".join(sorted({str(path[0]) for path in tree if path})) or "none"
    what = "more than one layout fits" if fitting else "no known layout fits"
    advice = (
        "--from LAYOUT (of convert, diff, hash, ...) takes it for the layout that you know it to be"
    )
    if inner := _inside(tree):
        states = ", ".join(f"{key!r} ({name})" for key, name in inner.items())
        advice = (
            f"several states are in one tree: {states}; each is converted by itself: give the key "
            f"behind the checkpoint's path, CHECKPOINT/{next(iter(inner))}"
        )
    raise errors.ConvertError(
        f"{what} this checkpoint (top-level keys: {tops}); nothing is guessed\n{told}\n{advice}"
    )


def _inside(tree: DiskTree) -> dict[str, str]:
    """{top-level key: layout} of subtrees that are states by themselves."""
    inner: dict[str, dict[DiskPath, Any]] = {}
    for path, leaf in tree.items():
        if len(path) > 1 and path[0] not in LEVELS:
            inner.setdefault(str(path[0]), {})[path[1:]] = leaf
    found = {}
    for key, held in inner.items():
        sure = [e for kind in LAYOUTS.values() if (e := kind.evidence(held)).confidence >= 0.9]
        if len(sure) == 1 and sure[0].layout not in BARE:
            found[key] = sure[0].layout
    return found
