"""Saves a tree together with the checksums of its arrays, taken from memory before it is written.

The record is a part of the save: Orbax waits for it, in the background where it saves so, and then
renames the whole.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from maxmig.converters import disk, leaves
from maxmig.converters.compare import record
from maxmig.converters.compare.record import Record, Sums
from maxmig.converters.leaves import DiskPath
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
    if jax.process_index() or (limit is not None and size > limit):
        return None
    taken = {
        path: (disk.describe(value), list(_shards(value)))
        for path, value in held.items()
        if not isinstance(value, jax.Array) or _is_whole(value)
    }
    return _Writing(directory, taken) if taken else None


class _Writing:
    """The record under way, as Orbax waits for what a handler has begun."""

    def __init__(self, directory: Any, taken: dict[DiskPath, Any]):
        self._directory = directory
        self._taken = taken

    def result(self, timeout: float | None = None) -> None:
        """Writes the record beside the tree, which is in a temporary place still."""
        arrays = {}
        for path, (leaf, shards) in self._taken.items():
            if not shards:  # of a replicated array, where another process has the first copy
                continue
            rank = len(leaf.shape)  # the words of random keys ride in a last axis
            chunk = shards[0][1].shape[:rank]  # as Orbax cuts it, unless it is told otherwise
            total = record.count(leaf.shape, chunk)
            found: dict[int, int] = {}
            for box, data in shards:
                found |= record.sums(leaf.shape, chunk, box[:rank], data)
            if len(found) == total:
                arrays[path] = Sums(leaf, chunk, tuple(found[at] for at in range(total)))
        record.write(str(Path(self._directory)), Record(arrays))

    def cancel(self) -> None:
        """Nothing is to be undone."""


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _is_whole(value: jax.Array) -> bool:
    """Whether this process, the first, holds all of an array and reads it without the others."""
    is_key = jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return value.is_fully_addressable or (value.is_fully_replicated and not is_key)


def _shards(value: Any) -> Iterator[tuple[Box, np.ndarray]]:
    """The parts of an array on the host, each once: (place, numbers)."""
    if not isinstance(value, jax.Array):
        yield record.whole(value.shape), np.array(value)
        return
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    for shard in value.addressable_shards:
        if shard.replica_id == 0:
            box = tuple(
                (index.start or 0, size if index.stop is None else index.stop)
                for index, size in zip(shard.index, value.shape, strict=True)
            )
            yield box, np.asarray(shard.data)  # a donated buffer stays while it is seen
