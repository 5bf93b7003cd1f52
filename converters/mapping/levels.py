"""Rules that take stacks apart, level by level: layers may hold stacks of their own."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from maxmig import errors
from maxmig.converters import axes, evidence
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import rules, strictly
from maxmig.converters.mapping.rules import Rule, Where

_SCANNED = re.compile(r"(?!.*_\d+_\d+$)Scan\w+_\d+")  # ScanBlock_0_1 is one layer of ScanBlock_0
_COUNTERS = ("cache_index",)  # Flax's own: one number in a layer


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


def turned(
    leaves: Mapping[str, Leaf], at: str, axis: int, beside: int | None = None
) -> list[rules.Transpose]:
    """Rules that bring statistics to axis 0, whose layers are on the axis of the parameters'.

    A rule takes what follows no parameter from axis 0, where Flax stacks it unless it is told.

    Args:
        leaves: all leaves by canonical path.
        at: a stack.
        axis: that of its parameters' layers.
        beside: that of what follows no parameter, where it is known.

    Raises:
        ConvertError: the shapes do not tell on which of the two axes statistics are.
    """
    held = evidence.inside(leaves, [at])[at]
    params = held.get("params", {})
    layers = max((evidence.length(leaf, axis) for leaf in params.values()), default=0)
    found: list[rules.Transpose] = []
    for section, parts in held.items():
        if section in ("params", "opt_state", "aux") or axis == 0 or beside == 0:
            continue
        free = {
            path: leaf
            for path, leaf in parts.items()
            if path not in params or params[path].shape != leaf.shape
        }
        wide = {path: leaf for path, leaf in free.items() if len(leaf.shape) > 1}
        if not wide or any(evidence.length(leaf, axis) != layers for leaf in free.values()):
            continue  # on axis 0, or on none
        turns = {
            path: rules.Transpose(Where(f"{at}/{path}", collection=section), _first(leaf, axis))
            for path, leaf in wide.items()
        }
        # Flax stacks all leaves of a collection on one axis, so one of them tells it: one that is
        # not as long on axis 0, and in one layer is like a parameter beside it.
        beside_it = {path: _beside(params, path, axis) for path in wide}
        told = any(
            evidence.length(leaf, 0) != layers and evidence.without(leaf, axis) in beside_it[path]
            for path, leaf in wide.items()
        )
        shared = [path for path, leaf in wide.items() if leaf.shape in beside_it[path]]
        if shared or not told:
            path = shared[0] if shared else next(iter(wide))
            _refuse_statistics(f"{section}/{at}/{path}", wide[path], turns[path], at, axis, layers)
        found += turns.values()
    return found


def after(leaves: Mapping[str, Leaf], turns: Iterable[rules.Transpose]) -> dict[str, Leaf]:
    """The leaves with their axes in the order of rules."""
    found = dict(leaves)
    for rule in turns:
        path = f"{rule.where.collection}/{rule.where.path}"
        shape = found[path].shape
        found[path] = found[path].reshaped(tuple(shape[axis] for axis in rule.axes))
    return found


def _first(leaf: Leaf, axis: int) -> tuple[int, ...]:
    """The axes of a leaf with that of its layers before the others."""
    place = min(axis, len(leaf.shape) - 1)
    return (place, *(each for each in range(len(leaf.shape)) if each != place))


def _beside(params: Mapping[str, Leaf], path: str, axis: int) -> set[tuple[int, ...]]:
    """The shapes that the parameters beside a leaf have in one layer."""
    module = path.rpartition("/")[0]
    return {
        evidence.without(leaf, axis)
        for name, leaf in params.items()
        if name.rpartition("/")[0] == module
    }


def _refuse_statistics(
    name: str, leaf: Leaf, turn: rules.Transpose, at: str, axis: int, layers: int
) -> NoReturn:
    raise errors.ConvertError(
        f"{name}: {leaf}: the shape does not tell whether its {layers} layers are on axis 0, as "
        f"Flax stacks what is no parameter, or on axis {axis}, as those of the parameters, or "
        "whether all layers share it; rules take them from axis 0. Say it in a mapping file "
        f"(start from `ckpt map`): for each such leaf that is on axis {turn.axes[0]}, "
        f"`- {strictly.spelt(turn)}`, and then "
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
    wide = {size for leaf in params.values() for size in evidence.without(leaf, axis)}
    for section, parts in held.items():
        for path, leaf in parts.items():
            if (
                section not in ("params", "opt_state", "aux")
                and leaf.shape == (layers,)
                and layers in wide
                and path.rpartition("/")[2] not in _COUNTERS
            ):
                raise errors.ConvertError(
                    f"{section}/{at}/{path}: {leaf}: the shape does not tell whether it is one "
                    f"number for each of {layers} layers, or one array that they share, as "
                    "parameters have an axis of that length in one layer; take the layers apart "
                    f"with a mapping file (start from `ckpt map`), `- {{unstack: {at}, to: "
                    f"'{at}_{{}}', axis: {axis}}}`, if it is a number for each, or drop it first"
                )
