"""Canonical paths: the one spelling of a leaf's place that every subsystem uses.

A tree of either framework is seen as a flat mapping from a path such as
`decoder/layers/mlp/wi_0/kernel` to an array. Divergent spellings of the same place (`.value`
suffixes, integer list keys, `params` levels) are the commonest cause of silent migration bugs, so
they are removed here and nowhere else.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_DIGITS = re.compile(r"(\d+)")

Flat = dict[str, Any]


def natural_key(path: str) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """A sort key that orders digits by value, so that `layers_10` follows `layers_9`.

    Segments compare first, so that a subtree stays together whatever characters its siblings have.
    """
    return tuple(map(_segment_key, path.split("/")))


@functools.lru_cache(maxsize=4096)  # a hundred thousand paths are made of a few names
def _segment_key(segment: str) -> tuple[tuple[int, int, str], ...]:
    return tuple(
        (0, int(part), part) if part.isdecimal() else (1, 0, part)
        for part in _DIGITS.split(segment)
        if part
    )


def sort(paths: Iterable[str]) -> list[str]:
    """The paths in natural order."""
    return sorted(paths, key=natural_key)


def walk(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (path, leaf) of a nested mapping, depth first, keys joined with `/`."""
    for key, value in nested.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from walk(value, path)
        else:
            yield path, value


def flatten(nested: Mapping[str, Any]) -> Flat:
    """A nested mapping as {path: leaf}."""
    return dict(walk(nested))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`.

    Raises:
        ValueError: a path is both a leaf and the parent of another path.
    """
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = nested
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path}: the parent {part!r} is a leaf already")
        if last in node:
            raise ValueError(f"{path}: appears twice, as a leaf and as a parent or a leaf")
        node[last] = value
    return nested


def subtree(flat: Mapping[str, Any], prefix: str) -> Flat:
    """The leaves below `prefix`, their paths relative to it."""
    start = prefix + "/"
    return {path[len(start) :]: leaf for path, leaf in flat.items() if path.startswith(start)}
