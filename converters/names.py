"""Model paths as strings: how the keys of a tree become one, and come back.

A key with a slash in it (SpectralNorm has such) is spelt with `%2F`, so that a path still tells its
segments; a numbered place in a list joins its container: `layers/3` is `layers_3`.
"""

import ast
from collections.abc import Collection, Sequence
from functools import cache

from maxmig.converters import stacks
from maxmig.converters.leaves import DiskPath, Key


def canonical(keys: DiskPath, lists: set[str] | None = None) -> str:
    """The canonical path of keys in a tree; adds the containers of numbered places to `lists`."""
    parts: list[str] = []
    for key in keys:
        if parts and (isinstance(key, int) or key.isdecimal()):
            if lists is not None:
                lists.add("/".join(parts))
            parts[-1] += f"_{key}"
        else:
            parts.append(escape(key))
    return "/".join(parts)


def keys(path: str, lists: Collection[str] | None) -> tuple[str, ...]:
    """The inverse of `canonical`, given the containers that are lists; None: the known stacks."""
    if lists is None:
        return tuple(unescape(key) for key in stacks.split(path))
    if not lists:
        return tuple(unescape(key) for key in path.split("/"))
    found: list[str] = []
    prefix = ""
    for segment in path.split("/"):
        head = segment
        numbers: list[str] = []
        while head.rpartition("_")[2].isdecimal() and head.rpartition("_")[0]:
            shorter, _, number = head.rpartition("_")
            if prefix + shorter not in lists:
                break
            head, numbers = shorter, [number, *numbers]
        found.extend([unescape(head), *numbers])
        prefix += f"{segment}/"
    return tuple(found)


@cache
def escape(key: Key) -> str:
    """A key as one segment of a path."""
    return str(key).replace("%", "%25").replace("/", "%2F")


@cache
def unescape(segment: str) -> str:
    """The inverse of `escape`."""
    return segment.replace("%2F", "/").replace("%25", "%")


def strings(key: str) -> tuple[str, ...] | None:
    """The tuple of names that a key spells, as Orbax writes NNX's tuples; None: it is none."""
    if not (key.startswith("(") and key.endswith(")")):
        return None
    try:
        found = ast.literal_eval(key)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    whole = isinstance(found, tuple) and found and all(isinstance(part, str) for part in found)
    return found if whole else None


def is_scale(keys: Sequence[Key]) -> bool:
    """Whether keys are those of a scale of NNX's WeightNorm: `scales/('kernel',)`."""
    return len(keys) > 1 and keys[-2] == "scales" and strings(str(keys[-1])) is not None
