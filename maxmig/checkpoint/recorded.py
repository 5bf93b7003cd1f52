"""Saves a tree together with the checksums of its arrays, taken from memory before it is written.

The record is a part of the save: Orbax waits for it, in the background where it saves so, and then
renames the whole. Each of several processes records the chunks that it holds.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from maxmig.converters import disk, leaves
from maxmig.converters.compare import parts, record
from maxmig.converters.compare.parts import Part
from maxmig.converters.compare.record import Record
from maxmig.converters.leaves import DiskPath, Leaf
from maxmig.converters.transfers import Box

LIMIT = 1 << 30  # bytes of a state that is recorded unless something else is asked for


def handler(*, limit: int | None, **options: Any) -> Any:
    """Orbax's own handler, which also writes the record.

    It is of Orbax's own type, because the type's name is written into the checkpoint, and is how
    Orbax finds a handler for what is to be saved.

    Args:
        limit: a larger state, in bytes, is saved without a record; None: any is recorded.
        options: of Orbax's handler.
    """
    made = ocp.PyTreeCheckpointHandler(**options)
    save = made.async_save

    async def async_save(directory: Any, *more: Any, args: Any) -> Any:
        begun = await save(directory, *more, args=args)
        writing = _begun(directory, args.item, limit)
        return begun if writing is None else [*(begun or ()), writing]

    made.async_save = async_save
    return made


def _begun(directory: Any, tree: Any, limit: int | None) -> "_Writing | None":
    """The record of a tree whose arrays have just been taken; None where there is to be none."""
    held = {path: value for path, value in leaves.walk(tree) if _is_array(value)}
    size = sum(disk.describe(value).nbytes for value in held.values())
    if limit is not None and size > limit:
        return None
    first = not jax.process_index()
    taken = {
        path: (disk.describe(value), list(_shards(value)))
        for path, value in held.items()
        if first or isinstance(value, jax.Array)  # what all processes have, the first writes
    }
    return _Writing(directory, taken) if held else None


class _Writing:
    """The record under way, as Orbax waits for what a handler has begun.

    Args:
        directory: of the tree.
        taken: {path: (shape and type, the parts that this process holds)} of arrays.
    """

    def __init__(self, directory: Any, taken: dict[DiskPath, Any]):
        self._directory = directory
        self._taken = taken

    def result(self, timeout: float | None = None) -> None:
        """Writes the record beside the tree, which is in a temporary place still.

        One of several processes writes what it holds into a file of its own.
        """
        held = {path: _part(*taken) for path, taken in self._taken.items() if taken[1]}
        folder = str(Path(self._directory))
        if jax.process_count() > 1:
            parts.write(folder, jax.process_index(), jax.process_count(), held)
            return
        record.write(folder, Record(parts.whole(held)))

    def cancel(self) -> None:
        """Nothing is to be undone."""


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _part(leaf: Leaf, shards: list[tuple[Box, np.ndarray]]) -> Part:
    """The checksums of the parts of an array that one process holds."""
    rank = len(leaf.shape)  # the words of random keys ride in a last axis
    chunk = shards[0][1].shape[:rank]  # as Orbax cuts it, unless it is told otherwise
    found: dict[int, int] = {}
    for box, data in shards:
        found |= record.sums(leaf.shape, chunk, box, data)
    return Part(leaf, chunk, found)


def _shards(value: Any) -> Iterator[tuple[Box, np.ndarray]]:
    """The parts of an array in this process, each once in all processes: (place, numbers)."""
    if not isinstance(value, jax.Array):
        yield record.whole(value.shape), np.array(value)
        return
    is_key = jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    for shard in value.addressable_shards:
        if shard.replica_id == 0:
            spans = zip(shard.index, value.shape, strict=False)  # of keys: without their words
            box = tuple((i.start or 0, n if i.stop is None else i.stop) for i, n in spans)
            data = jax.random.key_data(shard.data) if is_key else shard.data
            yield box, np.asarray(data)  # a donated buffer stays while it is seen
