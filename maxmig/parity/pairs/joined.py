"""Layers that one side has in parts and the other as a whole: attention, joined projections."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from maxmig.parity.pairs import kinds
from maxmig.parity.pairs.tracing import Unit

Shape = tuple[int, ...]


def apart(units: Sequence[Unit], others: Sequence[Unit]) -> list[Unit]:
    """Attention in its parts, where the other side has it written by hand."""
    found: list[Unit] = []
    kinds_there = {unit.kind for unit in others}
    for unit in units:
        names = kinds.PARTS.get(unit.kind, ())
        if not names or unit.kind in kinds_there:
            found.append(unit)
            continue
        for name in names:
            head = {leaf: f"/{name}/" for leaf in unit.leaves if f"/{name}/" in leaf}
            own = {leaf.replace(part, "/"): unit.leaves[leaf] for leaf, part in head.items()}
            if own:
                kind = kinds.PART_KINDS.get(name, "LinearGeneral")
                path = "/".join(filter(None, (unit.path, name)))
                found.append(
                    dataclasses.replace(unit, path=path, module=kind, kind=kind, leaves=own)
                )
    return found


def runs(items: Sequence[Any], key: Callable[[Any], Hashable]) -> list[list[Any]]:
    """Layers of one parent and shape, two or more."""
    groups: dict[Hashable, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    found = []
    for group in groups.values():
        for size in range(len(group), 1, -1):
            found += [group[at : at + size] for at in range(len(group) - size + 1)]
    return found


def left(
    part: Hashable,
    whole: Hashable,
    size: int,
    counts: tuple[Counter[Hashable], Counter[Hashable]],
) -> bool:
    """Whether one side has just those layers more that make up the joined ones of the other."""
    some, joined = counts
    return not some[whole] and some[part] - joined[part] == size * joined[whole]


def join(
    parts: Sequence[tuple[tuple[str, Shape], ...]], whole: tuple[tuple[str, Shape], ...]
) -> list[tuple[str, str, int]] | None:
    """How layers of one shape make up another: of each leaf its name, `concat` or `stack`, axis."""
    count = len(parts)
    if [name for name, _ in parts[0]] != [name for name, _ in whole]:
        return None
    pairs = [(name, s, w) for (name, s), (_, w) in zip(parts[0], whole, strict=True)]
    if any(not s for _, s, _ in pairs):
        return None
    # Counted from the end, since a bias has the last axes of its kernel.
    for back in range(1, max(len(s) for _, s, _ in pairs) + 1):
        if all(
            len(s) >= back and w == (*s[:-back], s[-back] * count, *s[len(s) - back + 1 :])
            for _, s, w in pairs
        ):
            return [(name, "concat", len(s) - back) for name, s, _ in pairs]
    for back in range(max(len(s) for _, s, _ in pairs) + 1):
        if all(
            len(s) >= back and w == (*s[: len(s) - back], count, *s[len(s) - back :])
            for _, s, w in pairs
        ):
            return [(name, "stack", len(s) - back) for name, s, _ in pairs]
    return None
