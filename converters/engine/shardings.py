"""How arrays were sharded, told of the arrays that are made of them: one entry an axis."""

import json
import math
from collections.abc import Sequence
from typing import Any

from maxmig.converters import ops, transfers

# On the first device, of whatever kind: Orbax restores random keys, without a target, only so.
ALONE = json.dumps(
    {
        "sharding_type": "NamedSharding",
        "shape": [1],
        "axis_names": ["device"],
        "partition_spec": [],
        "device_mesh": {"mesh": [{"id": 0}]},
    }
)


def of(op: transfers.Op, told: Sequence[str | None], rank: int, shape: Sequence[int]) -> str | None:
    """The sharding of a result, as Orbax writes it, from those of its sources.

    An axis that the mesh does not divide (a part of one that it did) is replicated: else neither
    JAX nor Orbax would place the array.

    Args:
        op: how it is made.
        told: the sharding of each source.
        rank: the number of axes of the first source.
        shape: that of the result.
    """
    first = told[0] if told else None
    if first is None:
        return None
    try:
        document = json.loads(first)
    except (ValueError, RecursionError):
        return None
    spec = document.get("partition_spec")
    if document.get("sharding_type") != "NamedSharding" or not isinstance(spec, list):
        return first
    if isinstance(op, ops.Same):
        return first
    axes = _axes(op, [*spec, *[None] * (rank - len(spec))])
    axes = [
        named if size % _ways(document, named) == 0 else None
        for named, size in zip(axes, shape, strict=False)
    ]
    while axes and axes[-1] is None:
        axes.pop()
    document["partition_spec"] = axes
    return json.dumps(document)


def _ways(document: dict[str, Any], named: Any) -> int:
    """Into how many parts an axis is cut by the axes of the mesh that it names."""
    sizes = dict(zip(document.get("axis_names") or (), document.get("shape") or (), strict=False))
    names = named if isinstance(named, list) else [named]
    return math.prod(sizes.get(name, 1) for name in names if name is not None)


def _axes(op: transfers.Op, axes: list[Any]) -> list[Any]:
    """The entries of a result's axes; none where they cannot be told: it is replicated."""
    match op:
        case ops.Same() | ops.Slice() | ops.Concat():
            return axes
        case ops.Stack(axis):
            return [*axes[:axis], None, *axes[axis:]]
        case ops.Take(axis, _):
            return axes[:axis] + axes[axis + 1 :]
        case ops.MoveAxis(source, target):
            rest = axes[:source] + axes[source + 1 :]
            return [*rest[:target], axes[source], *rest[target:]]
        case ops.Then(one, other):
            return _axes(other, _axes(one, axes))
        case ops.Join(firsts, _, second):
            return _axes(second, _axes(firsts[0], axes))
    return []


def replicated(told: Sequence[str | None]) -> str | None:
    """A sharding for an array that has no source: that of the others' mesh, on no axis of it."""
    for each in told:
        if each is None:
            continue
        try:
            document = json.loads(each)
        except (ValueError, RecursionError):
            continue
        if document.get("sharding_type") == "NamedSharding":
            document["partition_spec"] = []
            return json.dumps(document)
        return each
    return None
