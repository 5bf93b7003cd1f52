"""Rules that take stacks apart, level by level: layers may hold stacks of their own."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from maxmig import errors
from maxmig.converters import axes, evidence
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import rules
from maxmig.converters.mapping.rules import Rule

_SCANNED = re.compile(r"(?!.*_\d+_\d+$)Scan\w+_\d+")  # ScanBlock_0_1 is one layer of ScanBlock_0


def apart(leaves: Mapping[str, Leaf], on: Mapping[str, int], *, known: bool) -> list[Rule]:
    """Rules that take stacks apart, and the stacks in their layers after them.

    Args:
        leaves: all leaves by canonical path.
        on: the stacks by model path, and the axes of their layers.
        known: only stacks with known names.

    Raises:
        ConvertError: on which axis stacks in the layers are cannot be told.
    """
    held = {path: leaf for path, leaf in leaves.items() if not path.startswith("opt_state/")}
    own = axes.maxtext(leaves)
    found: list[Rule] = []
    for at, axis in on.items():
        found += _apart(held, "", [at], axis, known, own)
    return found


def _apart(
    leaves: Mapping[str, Leaf],
    prefix: str,
    stacked: Sequence[str],
    axis: int,
    known: bool,
    maxtext: bool,
) -> list[Rule]:
    """The same of stacks below a prefix, which is that of the layer that they are in.

    MaxText's stacks are on one axis on all levels.
    """
    found: list[Rule] = [rules.Unstack(prefix + at, f"{prefix}{at}_{{}}", axis) for at in stacked]
    for at in stacked:
        layer, count = _layer(leaves, at, axis)
        inner = axes.roots(layer) or ([] if known else scan_named(_models(layer)))
        if not inner:
            continue
        own = axes.told_axis(
            layer,
            inner,
            None,
            [],
            around=axis,
            usual=axis if maxtext else None,
            advice=(
                "these are stacks in the layers of a stack, which --from-scan-axis does not name; "
                "say each level in a mapping file (start from `ckpt map`), "
                f"`- {{unstack: {prefix}{at}, to: '{prefix}{at}_{{}}', axis: {axis}}}` and then "
                f"`- {{unstack: {prefix}{at}_*/{inner[0]}, to: '{prefix}{at}_*/{inner[0]}_{{}}', "
                "axis: 0}`"
            ),
        )
        for index in range(count):
            found += _apart(layer, f"{prefix}{at}_{index}/", inner, own, known, maxtext)
    return found


def _layer(leaves: Mapping[str, Leaf], at: str, axis: int) -> tuple[dict[str, Leaf], int]:
    """The leaves of one layer by their paths in it, and how many layers there are."""
    held = evidence.inside(leaves, [at])[at]
    params = {path: leaf for path, leaf in held.get("params", {}).items() if leaf.shape}
    count = max((evidence.length(leaf, axis) for leaf in params.values()), default=0)
    layer: dict[str, Leaf] = {}
    for section, parts in held.items():
        for path, leaf in parts.items():
            same = path in params and params[path].shape == leaf.shape
            place = axis if same else 0  # what follows no parameter has its layers on axis 0
            if evidence.length(leaf, place) == count:
                layer[f"{section}/{path}"] = leaf.reshaped(evidence.without(leaf, place))
    return layer, count


def _models(leaves: Iterable[str]) -> list[str]:
    return [path[7:] for path in leaves if path.startswith("params/")]


def scan_named(owners: Iterable[str]) -> list[str]:
    """Stacks that Linen's nn.scan named by itself: `ScanBlock_0`."""
    found: dict[str, None] = {}
    for owner in owners:
        segments = owner.split("/")
        for place, segment in enumerate(segments[:-1]):
            if _SCANNED.fullmatch(segment):
                found["/".join(segments[: place + 1])] = None
                break
    return list(found)


def check_collections(
    leaves: Mapping[str, Leaf], at: str, axis: int, beside: int | None = None
) -> None:
    """Refuses statistics whose layers are not on axis 0, or may be on the parameters' own.

    A rule takes what follows no parameter from axis 0, where Flax stacks it unless it is told.

    Args:
        leaves: all leaves by canonical path.
        at: a stack.
        axis: that of its parameters' layers.
        beside: that of what follows no parameter, where it is known.

    Raises:
        ConvertError: there are such.
    """
    held = evidence.inside(leaves, [at])[at]
    params = held.get("params", {})
    layers = max((evidence.length(leaf, axis) for leaf in params.values()), default=0)
    for section, parts in held.items():
        if section in ("params", "opt_state", "aux") or axis == 0 or beside == 0:
            continue
        free = {
            path: leaf
            for path, leaf in parts.items()
            if path not in params or params[path].shape != leaf.shape
        }
        first = [path for path, leaf in free.items() if evidence.length(leaf, 0) != layers]
        other = [path for path, leaf in free.items() if evidence.length(leaf, axis) != layers]
        wide = [path for path, leaf in free.items() if len(leaf.shape) > 1]
        if not wide or other:
            continue  # on axis 0, or on none
        path = next((path for path in first if path in wide), wide[0])
        rank = len(free[path].shape)
        place = min(axis, rank - 1)
        turn = [place, *(each for each in range(rank) if each != place)]
        told = (
            f"{section}/{at}/{path}: {free[path]}: its {layers} layers are on axis {place}, as "
            "those of the parameters"
            if first
            else f"{section}/{at}/{path}: {free[path]}: the shape does not tell whether its "
            f"{layers} layers are on axis 0, as Flax stacks what is no parameter, or on axis "
            f"{axis}, as those of the parameters"
        )
        raise errors.ConvertError(
            f"{told}; rules take them from axis 0. Say it in a mapping file (start from `ckpt "
            f"map`): for each such leaf that is on axis {place}, `- {{transpose: {{collection: "
            f"{section}, path: {at}/{path}}}, axes: {turn}}}`, and then "
            f"`- {{unstack: {at}, to: '{at}_{{}}', axis: {axis}}}` or "
            f"`- {{move_axis: {at}, from: {axis}, to: 0}}`"
        )


def check_shared(leaves: Mapping[str, Leaf], at: str, axis: int) -> None:
    """Refuses statistics that all layers of a stack may share, which would be cut into numbers.

    Raises:
        ConvertError: there are such.
    """
    held = evidence.inside(leaves, [at])[at]
    params = held.get("params", {})
    layers = max((evidence.length(leaf, axis) for leaf in params.values()), default=0)
    shapes: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for path, leaf in params.items():
        shapes[path.rpartition("/")[0]].add(evidence.without(leaf, axis))
    for section, parts in held.items():
        for path, leaf in parts.items():
            if (
                section not in ("params", "opt_state", "aux")
                and leaf.shape == (layers,)
                and leaf.shape in shapes[path.rpartition("/")[0]]
            ):
                raise errors.ConvertError(
                    f"{section}/{at}/{path}: {leaf}: the shape does not tell whether it is one "
                    f"number for each of {layers} layers, or one array that they share, as the "
                    "parameter beside it has that shape in one layer; take the layers apart with "
                    f"a mapping file (start from `ckpt map`), `- {{unstack: {at}, to: "
                    f"'{at}_{{}}', axis: {axis}}}`, if it is a number for each, or drop it first"
                )
