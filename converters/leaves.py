"""What a checkpoint holds, as its metadata tell it: leaves, holes and the paths to them.

A *disk tree* is a flat mapping from a path of keys to a leaf or a hole. Keys keep their type: an
`int` is a place in a list, a `str` a key of a dict, so that `opt_state[0]` and `opt_state["0"]`
stay apart. Nothing here imports JAX: layouts work on metadata alone.
"""

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Key = str | int
DiskPath = tuple[Key, ...]
DEEPEST = 200  # keys in a path: what is nested deeper, in any container, is no training state
STRING = "string"  # the type of a leaf that is a text; its elements are the bytes of its UTF-8
KEY_WORDS = {"threefry2x32": 2, "rbg": 4, "unsafe_rbg": 4}  # of JAX's kinds of random keys


@dataclass(frozen=True)
class Leaf:
    """Shape and type of one stored array.

    Attributes:
        shape: the logical shape; that of a random key is without the key's own words.
        dtype: a NumPy name such as `float32`, or `key<threefry2x32>` for typed random keys, or
            `string`.
        nbytes: the size of the decoded array.
    """

    shape: tuple[int, ...]
    dtype: str
    nbytes: int

    @property
    def is_key(self) -> bool:
        """Whether the leaf holds typed random keys."""
        return self.dtype.startswith("key<")

    @property
    def impl(self) -> str | None:
        """The kind of random keys; None for other arrays."""
        return self.dtype[4:-1] if self.is_key else None

    @property
    def stored(self) -> tuple[int, ...]:
        """The shape as it is stored: that of random keys ends with their uint32 words."""
        return self.shape if self.impl is None else (*self.shape, KEY_WORDS[self.impl])

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @classmethod
    def of_text(cls, text: str) -> "Leaf":
        """A string, which is stored in metadata."""
        size = len(encoded(text))
        return cls((size,), STRING, size)

    def reshaped(self, shape: tuple[int, ...]) -> "Leaf":
        """The same type in another shape."""
        each = self.nbytes // max(1, math.prod(self.shape))
        return Leaf(shape, self.dtype, each * math.prod(shape))


def encoded(text: str) -> bytes:
    """The elements of a string."""
    return text.encode("utf-8", "surrogatepass")


class Hole(enum.Enum):
    """A place in the tree that holds no array."""

    NONE = "None"
    EMPTY_DICT = "{}"
    EMPTY_LIST = "[]"
    EMPTY_TUPLE = "()"


DiskTree = Mapping[DiskPath, Leaf | Hole]


def walk(nested: Any, path: DiskPath = ()) -> Iterator[tuple[DiskPath, Any]]:
    """Yields (path, leaf or hole) of nested dicts and lists, depth first."""
    if nested is None:
        yield path, Hole.NONE
    elif isinstance(nested, Mapping):
        if not nested:
            yield path, Hole.EMPTY_DICT
        for key, value in nested.items():
            yield from walk(value, (*path, str(key)))
    elif isinstance(nested, list | tuple):
        if not nested:
            yield path, Hole.EMPTY_TUPLE if isinstance(nested, tuple) else Hole.EMPTY_LIST
        for index, value in enumerate(nested):
            yield from walk(value, (*path, index))
    else:
        yield path, nested


def nest(flat: Mapping[DiskPath, Any]) -> Any:
    """The inverse of `walk`: nested dicts and lists; holes become None, `{}` and `[]`.

    Raises:
        ValueError: a container has both list and dict keys, a list has a gap, or a path is both
            a leaf and a parent.
    """
    root: dict[Key, Any] = {}
    for path, value in flat.items():
        node = root
        for key in path[:-1]:
            node = node.setdefault(key, _Node())
            if not isinstance(node, _Node):
                raise ValueError(f"{spell(path)}: {key!r} is a leaf and a parent")
        if path[-1] in node:
            raise ValueError(f"{spell(path)}: appears twice")
        node[path[-1]] = value
    return _closed(root, ())


def check_depth(path: DiskPath) -> None:
    """Refuses a path that no reader of nested trees gets to the end of.

    Raises:
        ValueError: it has too many keys.
    """
    if len(path) > DEEPEST:
        raise ValueError(
            f"{spell(path[:4])}/... is nested {len(path)} deep: expected {DEEPEST} levels or fewer"
        )


def spell(path: DiskPath) -> str:
    """A disk path for messages: `opt_state/0/count`."""
    return "/".join(str(key) for key in path)


class _Node(dict[Key, Any]):
    """A container under construction, told apart from leaves that are dicts."""


_EMPTY: dict[Hole, Any] = {
    Hole.NONE: None,
    Hole.EMPTY_DICT: {},
    Hole.EMPTY_LIST: [],
    Hole.EMPTY_TUPLE: [],
}


def _closed(node: Any, path: DiskPath) -> Any:
    if isinstance(node, Hole):
        empty = _EMPTY[node]
        return empty if empty is None else type(empty)()
    if not isinstance(node, _Node) and path:
        return node
    kinds = {type(key) for key in node}
    if len(kinds) > 1:
        raise ValueError(f"{spell(path)}: keys of a list and of a dict in one container")
    if kinds == {int}:
        if sorted(node) != list(range(len(node))):
            raise ValueError(f"{spell(path)}: a list with gaps: {sorted(node)}")
        return [_closed(node[index], (*path, index)) for index in range(len(node))]
    return {key: _closed(value, (*path, key)) for key, value in node.items()}
