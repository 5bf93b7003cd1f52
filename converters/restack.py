"""Stacks layers and takes stacks apart, parameters and whatever follows them alike.

A plan is made from metadata alone and is the same for arrays of any size; every move has an exact
inverse. Random state of a layer always stacks on axis 0, and so do other collections, unless their
leaves have the shapes of the parameters.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from maxmig import errors, trees
from maxmig.converters import skeletons, stacks
from maxmig.converters.leaves import Leaf

Op = Literal["same", "stack", "take", "move"]
DEFAULT_AXIS = 1  # MaxText's param_scan_axis, which its checkpoints do not record


@dataclass(frozen=True)
class Move:
    """How one leaf of the result comes from leaves of the source.

    Attributes:
        target: its canonical path.
        sources: the canonical paths that it is made of: one, or all layers of a stack in order.
        leaf: its shape and type.
        op: `same`, `stack` layers, `take` layer `index` out of a stack, or `move` the layer axis.
        axis: the layer axis; for `move` that of the result.
        index: the layer that is taken.
        source_axis: for `move`, the layer axis of the source.
    """

    target: str
    sources: tuple[str, ...]
    leaf: Leaf
    op: Op = "same"
    axis: int = 0
    index: int = 0
    source_axis: int = 0


@dataclass(frozen=True)
class Plan:
    """A restacked state.

    Attributes:
        moves: how each leaf comes about, in natural order.
        skeleton: the optimizer's containers after it.
        axis: the layer axis of the result; of the source where the result is unscanned.
        notes: what was told from the shapes or left as it was.
    """

    moves: tuple[Move, ...]
    skeleton: skeletons.Skeleton
    axis: int | None = None
    notes: tuple[str, ...] = ()


def plan(
    leaves: Mapping[str, Leaf],
    skeleton: skeletons.Skeleton,
    *,
    scan: bool | None = None,
    axis: int | None = None,
    source_axis: int | None = None,
) -> Plan:
    """Plans the way to another scan layout.

    Args:
        leaves: the canonical leaves.
        skeleton: the optimizer's containers.
        scan: stack the layers, take them apart, or None: leave them.
        axis: the layer axis of the result; None keeps the source's, or takes the default.
        source_axis: the layer axis of the source, where it is known; None tells it from the shapes.

    Raises:
        ConvertError: layers are missing or differ, or a leaf does not follow its parameter.
    """
    if scan is None and axis is None:
        same = tuple(Move(path, (path,), leaves[path]) for path in trees.sort(leaves))
        return Plan(same, skeleton, source_axis)
    owners = _owners(leaves, skeleton)
    stacked = {path: owner for path, owner in owners.items() if stacks.scanned(owner) is not None}
    notes: list[str] = []
    if any(path.startswith("params/") for path in stacked):
        source_axis = told_axis(leaves, stacked, source_axis, notes)
    else:
        source_axis = (source_axis or 0) if stacked else None
    result_axis = axis if axis is not None else source_axis if stacked else DEFAULT_AXIS
    assert result_axis is not None
    problems: list[str] = []
    moves: list[Move] = []
    if scan is False:
        assert source_axis is not None or not stacked
        moves = _taken_apart(leaves, stacked, source_axis or 0, problems)
    elif scan:
        moves = _stacked(leaves, owners, result_axis, problems, notes)
    if scan is not False and stacked and result_axis != source_axis:
        moves += _moved(leaves, stacked, source_axis or 0, result_axis)
    touched = {source for move in moves for source in move.sources}
    moves += [Move(path, (path,), leaf) for path, leaf in leaves.items() if path not in touched]
    if problems:
        raise errors.ConvertError("the layers cannot be restacked:\n  " + "\n  ".join(problems))
    order = {path: place for place, path in enumerate(trees.sort(move.target for move in moves))}
    moves.sort(key=lambda move: order[move.target])
    masks = _mask_rename(scan, stacked, leaves, source_axis)
    final_axis = source_axis if scan is False else result_axis
    return Plan(tuple(moves), skeletons.map_masks(skeleton, masks), final_axis, tuple(notes))


def layer_axis(leaves: Mapping[str, Leaf], known: int | None = None) -> int | None:
    """The layer axis of a scanned state: as known, else as the shapes tell; None if unscanned.

    Raises:
        ConvertError: the shapes contradict what is known, or tell nothing.
    """
    owners = {path: path[7:] for path in leaves if path.startswith("params/")}
    stacked = {path: model for path, model in owners.items() if stacks.scanned(model) is not None}
    return told_axis(leaves, stacked, known, []) if stacked else None


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


def _owners(leaves: Mapping[str, Leaf], skeleton: skeletons.Skeleton) -> dict[str, str]:
    """The model path that each leaf follows: {canonical path: model path}."""
    params = skeletons.params_of(leaves)
    owners = {
        path: path.partition("/")[2]
        for path in leaves
        if path.partition("/")[0] not in ("step", skeletons.ROOT)
    }
    if skeleton is not None:
        owners |= skeletons.moments(skeleton, params)
    return owners


def _is_other(path: str) -> bool:
    """Whether a leaf is of a collection that is neither the parameters nor the optimizer's."""
    return path.partition("/")[0] not in ("params", skeletons.ROOT)


def _axis(path: str, owner: str, leaves: Mapping[str, Leaf], leaf_rank: int, axis: int) -> int:
    """The layer axis of one leaf of the source; `leaf_rank` is that of a single layer."""
    parameter = leaves.get(f"params/{owner}")
    if _is_other(path) and (parameter is None or parameter.shape != leaves[path].shape):
        return 0
    return 0 if path.startswith("aux/") else min(axis, leaf_rank)


def told_axis(
    leaves: Mapping[str, Leaf],
    stacked: Mapping[str, str],
    known: int | None,
    notes: list[str],
) -> int:
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


def _follows(path: str, owner: str, leaves: Mapping[str, Leaf], problems: list[str]) -> bool:
    """Whether a leaf has its parameter's shape, so that restacking it has a meaning."""
    parameter = leaves.get(f"params/{owner}")
    if _is_other(path) or parameter is None or parameter.shape == leaves[path].shape:
        return True
    problems.append(
        f"{path}: {leaves[path]} follows params/{owner} {parameter} but has another shape "
        "(factored statistics?); its layer axis is not known. Convert without "
        "restacking, or --params-only"
    )
    return False


def _taken_apart(
    leaves: Mapping[str, Leaf], stacked: Mapping[str, str], axis: int, problems: list[str]
) -> list[Move]:
    moves = []
    counts = {
        _stack_of(owner): leaves[path].shape[min(axis, len(leaves[path].shape) - 1)]
        for path, owner in stacked.items()
        if path.startswith("params/")
    }
    for path, owner in stacked.items():
        leaf = leaves[path]
        if not _follows(path, owner, leaves, problems):
            continue
        at = _axis(path, owner, leaves, len(leaf.shape) - 1, axis)
        layers = counts.get(_stack_of(owner))
        if _is_other(path) and (not leaf.shape or layers not in (None, leaf.shape[at])):
            continue  # shared between layers
        shape = leaf.shape[:at] + leaf.shape[at + 1 :]
        prefix = path[: len(path) - len(owner)]
        for index in range(leaf.shape[at]):
            target = prefix + _layer(owner, index)
            moves.append(Move(target, (path,), leaf.reshaped(shape), "take", at, index))
    return moves


def _stacked(
    leaves: Mapping[str, Leaf],
    owners: Mapping[str, str],
    axis: int,
    problems: list[str],
    notes: list[str],
) -> list[Move]:
    groups: dict[str, dict[int, str]] = defaultdict(dict)
    stack_of: dict[str, str] = {}
    depth: dict[str, int] = defaultdict(int)
    for path, owner in owners.items():
        found = stacks.unscanned(owner)
        if found and _follows(path, owner, leaves, problems):
            whole, index = found
            target = path[: len(path) - len(owner)] + whole
            groups[target][index] = path
            stack_of[target] = _stack_of(whole)
            if not path.startswith("aux/"):  # random state may be shared by all layers
                depth[stack_of[target]] = max(depth[stack_of[target]], index + 1)
    moves = []
    for target, layers in groups.items():
        count = depth[stack_of[target]]
        missing = [index for index in range(count) if index not in layers]
        if target.startswith("aux/") and (missing or not count):
            notes.append(f"{target}: shared between layers: left as it is")
            continue
        kinds = {leaves[path] for path in layers.values()}
        if missing:
            problems.append(f"{target}: layers {missing} of {count} have no such leaf")
        elif len(kinds) > 1:
            problems.append(f"{target}: the layers differ: {', '.join(sorted(map(str, kinds)))}")
        else:
            leaf = kinds.pop()
            at = _axis(layers[0], owners[layers[0]], leaves, len(leaf.shape), axis)
            shape = (*leaf.shape[:at], count, *leaf.shape[at:])
            sources = tuple(layers[index] for index in range(count))
            moves.append(Move(target, sources, leaf.reshaped(shape), "stack", at))
    return moves


def _moved(
    leaves: Mapping[str, Leaf], stacked: Mapping[str, str], source: int, axis: int
) -> list[Move]:
    moves = []
    for path, owner in stacked.items():
        leaf = leaves[path]
        rank = len(leaf.shape) - 1
        start, at = (_axis(path, owner, leaves, rank, each) for each in (source, axis))
        if start != at:
            rest = leaf.shape[:start] + leaf.shape[start + 1 :]
            shape = (*rest[:at], leaf.shape[start], *rest[at:])
            moves.append(Move(path, (path,), leaf.reshaped(shape), "move", at, source_axis=start))
    return moves


def _layer(owner: str, index: int) -> str:
    segments = owner.split("/")
    place = stacks.scanned(owner)
    assert place is not None
    segments[place] += f"_{index}"
    return "/".join(segments)


def _stack_of(model_path: str) -> str:
    """The stack that a scanned model path lies in: `decoder/layers`."""
    place = stacks.scanned(model_path)
    assert place is not None
    return "/".join(model_path.split("/")[: place + 1])


def _mask_rename(
    scan: bool | None, stacked: Mapping[str, str], leaves: Mapping[str, Leaf], axis: int | None
) -> Callable[[list[str]], list[str]]:
    """How the masked-out paths of a skeleton change."""
    if scan is None:
        return list

    def apart(masked: list[str]) -> list[str]:
        names: list[str] = []
        for name in masked:
            if stacks.scanned(name) is None:
                names.append(name)
                continue
            shape = leaves[f"params/{name}"].shape
            at = min(axis or 0, len(shape) - 1)
            names += [_layer(name, index) for index in range(shape[at])]
        return trees.sort(names)

    def together(masked: list[str]) -> list[str]:
        names = {(stacks.unscanned(name) or (name, 0))[0] for name in masked}
        return trees.sort(names)

    return together if scan else apart
