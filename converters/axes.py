"""On which axis the layers of stacks are: as known, or as the shapes tell."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from maxmig import errors
from maxmig.converters import stacks
from maxmig.converters.leaves import Leaf

DEFAULT_AXIS = 1  # MaxText's param_scan_axis, which its checkpoints do not record


def layer_axis(leaves: Mapping[str, Leaf], known: int | None = None) -> int | None:
    """The layer axis of a scanned state: as known, else as the shapes tell; None if unscanned.

    Raises:
        ConvertError: the shapes contradict what is known, or tell nothing.
    """
    owners = {path: path[7:] for path in leaves if path.startswith("params/")}
    stacked = {path: model for path, model in owners.items() if stacks.scanned(model) is not None}
    return told_axis(leaves, stacked, known, []) if stacked else None


def nested(leaves: Mapping[str, Leaf]) -> bool:
    """Whether there are stacks in the layers of stacks."""
    for path in leaves:
        place = stacks.scanned(path)
        if place is not None and stacks.scanned("/".join(path.split("/")[place + 1 :])) is not None:
            return True
    return False


def evident_axes(
    leaves: Mapping[str, Leaf], stacked: Iterable[str], axes: Iterable[int] = (0, 1)
) -> dict[int, int]:
    """The axes on which the leaves of each stack agree: {axis: layers of the first stack}.

    A leaf with fewer axes has its layers on its last one.
    """
    lengths: dict[int, dict[str, set[int]]] = {axis: defaultdict(set) for axis in axes}
    for path in stacked:
        shape = leaves[path].shape
        name = _stack_of(path.partition("/")[2])
        for axis, found in lengths.items():
            found[name].add(shape[min(axis, len(shape) - 1)] if shape else -1)
    return {
        axis: next(iter(next(iter(found.values()))))
        for axis, found in lengths.items()
        if found and all(len(each) == 1 and -1 not in each for each in found.values())
    }


def told_axis(
    leaves: Mapping[str, Leaf],
    stacked: Mapping[str, str],
    known: int | None,
    notes: list[str],
) -> int:
    """The layer axis of stacks; takes what the shapes told to `notes`.

    Args:
        leaves: all leaves by canonical path.
        stacked: {canonical path: model path} of those that are stacked.
        known: the axis, where it is known.
        notes: are added to.

    Raises:
        ConvertError: the shapes contradict what is known, or tell nothing.
    """
    params = [path for path in stacked if path.startswith("params/")]
    if known is not None and known in evident_axes(leaves, params, (known,)):
        return known
    last = max((len(leaves[path].shape) for path in params), default=0) - 1
    # Axes beyond 1 are rare, and a weight's own last axis has often one length in all: they count
    # only where 0 and 1 are impossible.
    higher = evident_axes(leaves, params, range(2, last + 1))
    evident = evident_axes(leaves, params) or higher
    if known is not None:
        raise errors.ConvertError(
            f"the layers cannot be on axis {known}: the stacked parameters have different lengths "
            f"there (axes on which they agree: {sorted(evident) or 'none'})"
        )
    if len(evident) == 1:
        axis = next(iter(evident))
        if others := [str(other) for other in higher if other != axis]:
            notes.append(
                f"layer axis {axis}: the shapes do not tell it from axis {', '.join(others)}, "
                "which is rare (name it with --from-scan-axis)"
            )
        else:
            notes.append(f"layer axis {axis}: the only one on which all stacked parameters agree")
        return axis
    if DEFAULT_AXIS in evident:
        notes.append(
            f"layer axis {DEFAULT_AXIS}: MaxText's default; the shapes do not tell it from axis 0 "
            "(name it with --from-scan-axis)"
        )
        return DEFAULT_AXIS
    raise errors.ConvertError(
        "the layer axis is neither in the metadata nor evident: no axis has one length in all "
        f"stacked parameters, such as {params[0]} {leaves[params[0]]}"
    )


def _stack_of(model_path: str) -> str:
    """The stack that a scanned model path lies in: `decoder/layers`."""
    place = stacks.scanned(model_path)
    assert place is not None
    return "/".join(model_path.split("/")[: place + 1])
