"""Checkpoint layouts: one small file each, and the registry that tells them apart.

A new layout is a new file and a line in `LAYOUTS`.
"""

from maxmig import errors
from maxmig.converters.layouts import linen, nnx
from maxmig.converters.layouts.base import Layout
from maxmig.converters.layouts.table import Evidence, Reading, Table, is_random
from maxmig.converters.leaves import DiskTree

__all__ = ["LAYOUTS", "Evidence", "Layout", "Reading", "Table", "detect", "get", "is_random"]

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (linen.LAYOUT, nnx.LAYOUT)}


def get(name: str) -> Layout:
    """The layout of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in LAYOUTS:
        raise errors.ConfigError(
            f"expected a checkpoint layout, one of {', '.join(LAYOUTS)}; got {name!r}"
        )
    return LAYOUTS[name]


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
        f"{what} this checkpoint (top-level keys: {tops}); nothing is guessed:\n{told}\n"
        "name the layout if you know it (`--from LAYOUT`)"
    )
