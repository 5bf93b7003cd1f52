"""A chunk whose numbers become boxes of the result one after another, in the order they lie in.

They are cast and put in their places as they are decoded: the chunk itself is never held.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from maxmig.converters import casts, transfers
from maxmig.converters.engine import tasks
from maxmig.converters.leaves import spell
from maxmig.converters.storage import decode

if TYPE_CHECKING:
    import numpy as np


def writes(
    task: tasks.Piece, source: Any
) -> "Iterator[tuple[str, Any, transfers.Box, np.ndarray]]":
    """(name, stored form, box, array) of all that a piece that `passes` writes.

    Args:
        task: the piece.
        source: an Orbax tree, which may hold what it reads against a record.

    Raises:
        Unknown: the piece is to be made as others are, from its beginning.
        CheckpointError: the source is not what was recorded of it.
        ConvertError: a number does not fit the type of the result.
    """
    import numpy as np

    assert task.read is not None
    numbers = _Numbers(source.blocks(*task.read))
    for left, (route, box) in zip(range(len(task.writes))[::-1], task.writes, strict=True):
        leaf, where = route.transfer.leaf, spell(route.transfer.target)
        shape = transfers.shape_of(box)
        made = np.empty(math.prod(shape), casts.numpy_dtype(leaf.dtype))
        at = 0
        for block in numbers.take(made.size):
            casts.put(made[at : at + block.size], block, leaf, where)
            at += block.size
        if not left:
            numbers.end()
        yield route.name, route.array, box, made.reshape(shape)


class _Numbers:
    """Numbers that come in blocks, and go in others."""

    def __init__(self, blocks: "Iterator[np.ndarray]"):
        self._blocks = blocks
        self._rest: np.ndarray | None = None

    def take(self, count: int) -> "Iterator[np.ndarray]":
        """The next numbers, good until the next are asked for."""
        while count:
            block = next(self._blocks, None) if self._rest is None else self._rest
            if block is None:
                raise decode.Unknown
            yield block[:count]
            self._rest = block[count:] if count < block.size else None
            count -= min(count, block.size)

    def end(self) -> None:
        """Makes sure that there are no more: only then all of them are known to be good."""
        if self._rest is not None or next(self._blocks, None) is not None:
            raise decode.Unknown
