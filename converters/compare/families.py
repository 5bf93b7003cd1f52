"""Finds stacks of layers by structure: numbered subtrees on one side, one stacked on the other.

Names tell nothing here but that they are numbered; whether layers are those of a stack is told by
their bits.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from maxmig.converters import evidence
from maxmig.converters.compare import pairs
from maxmig.converters.compare.verdicts import Line, Tolerance
from maxmig.converters.compare.views import View
from maxmig.converters.ops import Same, Stack

_MEMBER = re.compile(r"(.+)_(\d+)")

Views = dict[str, View]


@dataclass(frozen=True)
class _Leaf:
    """A stacked leaf, the layers that may make it up, and the axes on which they may lie."""

    path: str
    layers: tuple[str, ...]
    rank: int  # of one layer
    axes: tuple[int, ...]


def paired(left: Views, right: Views, tolerance: Tolerance, limit: int) -> Iterator[Line]:
    """Compares stacks with their layers, and removes what was compared from both sides.

    A family of layers `name_0`, `name_1`, ... with the same leaves is taken for the stack beside it
    that has the same leaves with one axis more, if one of them is equal. Where the shapes of the
    stack alone leave more than one axis, it is taken for nothing: layers that were cut on any of
    them would be equal.

    Args:
        left: the leaves that are only in A.
        right: the leaves that are only in B.
        tolerance: what is near enough.
        limit: bytes; see `pairs.compare`.
    """
    for apart, whole in ((left, right), (right, left)):
        told: dict[tuple[str, str], int] = {}
        found = sorted(_families(apart, whole), key=lambda each: each[0][:6] != "params")
        for before, name, each in found:
            if any(leaf.path not in whole or leaf.layers[0] not in apart for leaf in each):
                continue  # it was compared as another family
            family = _on_its_axis(before, name, each, whole, told)
            if not all(leaf.axes for leaf in family):
                continue
            lines = [
                _compared(leaf, apart, whole, apart is left, limit, tolerance) for leaf in family
            ]
            if not any(line.sign in "=~" for line in lines):
                continue
            yield from lines
            for leaf in family:
                del whole[leaf.path]
                for path in leaf.layers:
                    del apart[path]


def _compared(
    leaf: _Leaf, apart: Views, whole: Views, first: bool, limit: int, tolerance: Tolerance
) -> Line:
    """The verdict on the axis on which the bits agree, or on the first that is possible."""
    found: Line | None = None
    stack = whole[leaf.path]
    layers = [apart[path] for path in leaf.layers]
    paths = tuple(view.paths[0] for view in layers)
    for axis in leaf.axes:
        made = View(stack.leaf, layers[0].reader, paths, Stack(axis))
        pair = pairs.Pair(leaf.path, *((made, stack) if first else (stack, made)))
        line = next(iter(pairs.compare([pair], tolerance, limit=limit)))
        side = "A" if first else "B"
        told = f"{side} has its {len(paths)} layers apart, as {leaf.layers[0]}, ... (axis {axis})"
        line = dataclasses.replace(line, detail=f"{line.detail}; {told}" if line.detail else told)
        if found is None or line.sign == "=":
            found = line
        if line.sign == "=":
            break
    assert found is not None  # a leaf without a possible axis is in no family
    return found


def _on_its_axis(
    before: str, name: str, family: list[_Leaf], whole: Views, told: dict[tuple[str, str], int]
) -> list[_Leaf]:
    """A family with the axis of its stack alone, which that of the parameters tells; else none.

    Args:
        before: where the stack is.
        name: its own.
        family: its leaves.
        whole: all leaves that are stacked, or may be.
        told: the axes of the parameters' stacks, by model path and name; is added to.
    """
    section, _, model = before.partition("/")
    axis = next(
        (axis for (at, of), axis in told.items() if of == name and f"/{before}".endswith(at)), None
    )
    if axis is None:
        begin = f"{before}/{name}/" if before else f"{name}/"
        held = {path[len(begin) :]: whole[path].leaf for path in whole if path.startswith(begin)}
        left = list(evidence.axes(held).left)
        if len(left) != 1 or left[0] < 0:
            return [dataclasses.replace(leaf, axes=()) for leaf in family]
        axis = left[0]
    if section == "params":
        told[f"/{model}" if model else "", name] = axis
    return [
        dataclasses.replace(
            leaf,
            axes=tuple(
                each
                for each in leaf.axes
                if each == min(axis, leaf.rank)
                or (each == 0 and section not in ("params", "opt_state"))
            ),
        )
        for leaf in family
    ]


def _families(apart: Views, whole: Views) -> Iterator[tuple[str, str, list[_Leaf]]]:
    """Every family of layers with every subtree beside it that could be its stack.

    It comes with where the stack is, and its name.
    """
    numbered: dict[tuple[str, str], dict[str, dict[int, str]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for path, view in apart.items():
        if not isinstance(view.op, Same) or view.cast:
            continue
        for before, segment, after in _cuts(path):
            if match := _MEMBER.fullmatch(segment):
                numbered[before, match[1]][after][int(match[2])] = path
    beside: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in whole:
        for before, segment, after in _cuts(path):
            beside[before, after].add(segment)
    for (before, _), leaves in numbered.items():
        layers = {after: _in_order(each) for after, each in leaves.items()}
        if len({len(each) for each in layers.values()}) != 1 or not all(layers.values()):
            continue
        for name in sorted(set.intersection(*(beside[before, after] for after in leaves))):
            family = []
            for after, paths in layers.items():
                stacked = "/".join(part for part in (before, name, after) if part)
                parts = [apart[path] for path in paths]
                axes = _axes(parts, whole[stacked])
                family.append(_Leaf(stacked, paths, len(parts[0].leaf.shape), axes))
            if all(leaf.axes for leaf in family):
                yield before, name, family


def _cuts(path: str) -> Iterator[tuple[str, str, str]]:
    """A path cut around each of its segments."""
    segments = path.split("/")
    for place, segment in enumerate(segments):
        yield "/".join(segments[:place]), segment, "/".join(segments[place + 1 :])


def _in_order(layers: dict[int, str]) -> tuple[str, ...]:
    """The layers 0, 1, ...; none where one of them is missing."""
    complete = len(layers) > 1 and all(index in layers for index in range(len(layers)))
    return tuple(layers[index] for index in range(len(layers))) if complete else ()


def _axes(layers: list[View], stack: View) -> tuple[int, ...]:
    """The axes on which layers of one kind may lie in a stack."""
    leaf, count = layers[0].leaf, len(layers)
    if any(each.leaf != leaf for each in layers) or leaf.dtype != stack.leaf.dtype:
        return ()
    return tuple(
        axis
        for axis in range(len(leaf.shape) + 1)
        if stack.leaf.shape == (*leaf.shape[:axis], count, *leaf.shape[axis:])
    )
