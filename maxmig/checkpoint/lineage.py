"""What the checkpoints of a run remember of the conversion that made the one it began with.

A run saves its own tree in its own layout, so most of what a conversion records does not hold any
more; what leads back to the first checkpoint's names, shapes and layout does, for leaves that only
got other numbers.
"""

from collections.abc import Mapping
from typing import Any

from maxmig import errors
from maxmig.checkpoint.store import Restored
from maxmig.converters import disk, skeletons
from maxmig.converters.mapping import back, carry, files, state

_KEYS = ("origin", "stacks", "converted_from", back.WAY)


def inherited(
    restored: Restored, flat: Mapping[str, Any], skeleton: skeletons.Skeleton
) -> tuple[dict[str, Any], str]:
    """The metadata for what a run saves after it has restored a checkpoint.

    Args:
        restored: what came out of that checkpoint: all of it, or its parameters.
        flat: the run's state by canonical path: arrays, or their shapes and types.
        skeleton: the containers of its optimizer.

    Returns:
        What the run's own metadata are to be added to, and a note: why nothing is kept though there
        was something, or empty.
    """
    kept = {key: value for key in _KEYS if (value := restored.metadata.get(key))}
    leaves = {path: disk.describe(leaf) for path, leaf in flat.items()}
    try:
        if kept and _shapes(restored.flat) != _shapes(flat):
            raise errors.ConvertError("its parameters are others")
        for key in ("origin", back.WAY):
            rules = (kept.get(key) or {}).get("rules") or []
            here = state.start(leaves, skeleton)
            carry.out(here, files.parse({"rules": rules}, key).rules)
    except (errors.ConfigError, errors.ConvertError) as error:
        why = " ".join(str(error).split())
        return {}, (
            "the way back to the checkpoint that it was converted from does not fit this run's "
            f"state, so what it saves does not remember it ({why})"
        )
    if "converted_from" in kept:
        kept["converted_from"] = {**kept["converted_from"], "trained": True}
    return kept, ""


def _shapes(flat: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in flat.items() if path.startswith("params/")}
