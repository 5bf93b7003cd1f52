"""Checkpoint layouts: one small file each, and the registry that tells them apart.

A new layout is a new file and a line in `LAYOUTS`.
"""

from maxmig import errors
from maxmig.converters.layouts import (
    linen,
    linen_params,
    linen_state,
    linen_variables,
    nnx,
    nnx_optimizer,
    nnx_state,
    to_linen,
    to_nnx,
    tunix,
)
from maxmig.converters.layouts.base import Evidence, Form, Hints, Layout, Reading, Written
from maxmig.converters.layouts.facts import is_random
from maxmig.converters.layouts.table import Table
from maxmig.converters.leaves import DiskTree

__all__ = [
    "ALIASES",
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
]

_MODULES = (
    *(linen, nnx, linen_state, linen_variables, linen_params),
    *(nnx_state, nnx_optimizer, to_nnx, to_linen, tunix),
)
LAYOUTS: dict[str, Layout] = {module.LAYOUT.name: module.LAYOUT for module in _MODULES}
ALIASES = {"maxtext-linen": "linen", "maxtext-nnx": "nnx"}

# Which layout is meant by `--to linen` and `--to nnx`, for a source of each layout.
_LINEN_OF = {
    "nnx-optimizer": "linen-state",
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


def twin(source: Layout, to: str) -> Layout:
    """What `--to` means for a source: `linen` and `nnx` are the twins in the source's own family.

    Raises:
        ConfigError: there is no such layout.
    """
    if to == "linen":
        if source.name in ("linen", "nnx"):
            return LAYOUTS["linen"]
        own = source if source.name.startswith("linen") else None
        return own or LAYOUTS[_LINEN_OF[source.name]]
    if to == "nnx":
        if source.name in ("linen", "nnx"):
            return LAYOUTS["nnx"]
        own = source if source.name in ("nnx-state", "nnx-optimizer", "tunix") else None
        return own or LAYOUTS[_NNX_OF[source.name]]
    return get(to)


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
    raise errors.ConvertError(
        f"{what} this checkpoint (top-level keys: {tops}); nothing is guessed\n{told}\n"
        "`ckpt convert --from LAYOUT` takes it for the layout that you know it to be"
    )
