"""What a checkpoint's custom metadata remember, held against the form in which maxmig wrote it."""

from collections.abc import Mapping
from typing import Any

from maxmig import errors

TREES = "maxmig_trees"  # {item: its own}, where several trees of a step came one after another
_AXIS = {"param_scan_axis": int}
_KINDS: dict[str, Any] = {  # a type, or the fields of an object; None is no fault
    "layout": str,
    "form": dict,
    "scan_layers": bool,
    "seed": int,
    **_AXIS,
    "versions": dict,
    "stacks": list,
    "way_back": {"rules": list, "unclear": bool, **_AXIS},
    "converted_from": {"layout": str, "options": dict, "versions": dict, "trained": bool},
    "origin": {
        "layout": str,
        "form": dict,
        "rules": list,
        "numbers": list,
        "spelling": dict,
        "random": dict,
    },
}


def custom(step: Mapping[str, Any], where: str, tree: str = "") -> dict[str, Any]:
    """The custom metadata among a step's metadata; empty when there are none.

    Args:
        step: the step's metadata.
        where: their file.
        tree: the item that holds the tree, in a step that may hold several.

    Raises:
        CheckpointError: they are no JSON object, or maxmig's own are not as it writes them.
    """
    found = step.get("custom_metadata") or {}
    if isinstance(found, Mapping) and isinstance(apart := found.get(TREES), Mapping):
        found = apart.get(tree, {key: value for key, value in found.items() if key != TREES})
    own = found.get("maxmig") if isinstance(found, Mapping) else None
    faults = _faults(found, {"maxmig": _KINDS}, "custom_metadata")
    if isinstance(own, Mapping) and not _is_skeleton(own.get("skeleton")):
        faults.append("custom_metadata/maxmig/skeleton: no containers of an optimizer")
    if faults:
        raise errors.CheckpointError(
            f"{where}: the metadata of what wrote the checkpoint are damaged: {'; '.join(faults)}; "
            "take another step or another copy"
        )
    return dict(found)


def _faults(found: Any, kind: Any, at: str) -> list[str]:
    wanted = dict if isinstance(kind, Mapping) else kind
    if found is None:
        return []
    if not isinstance(found, wanted) or (wanted is int and isinstance(found, bool)):
        return [f"{at}: expected {wanted.__name__}, got {type(found).__name__}"]
    if not isinstance(kind, Mapping):
        return []
    return [text for key in kind for text in _faults(found.get(key), kind[key], f"{at}/{key}")]


def _is_skeleton(found: Any) -> bool:
    match found:
        case None | "array":
            return True
        case {"apart": list(paths)} | {"params": list(paths)}:
            return all(isinstance(path, str) for path in paths)
        case {"tuple": list(items)}:
            return all(map(_is_skeleton, items))
        case {"dict": dict(fields)}:
            return all(map(_is_skeleton, fields.values()))
    return False
