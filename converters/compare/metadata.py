"""The metadata of a file that has no place for them: in the record of checksums beside it.

What a conversion remembers of its source is of use only with the very file that it made, and so are
the checksums; the record's seal holds for both.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from maxmig.converters.compare import record
from maxmig.converters.leaves import Leaf
from maxmig.converters.storage.base import Storage


def keep(storage: Storage, metadata: Mapping[str, Any]) -> None:
    """Adds metadata to the record beside a file."""
    place = record.home(storage)
    assert place is not None  # a file has one
    known = record.of(storage) or record.Record({})
    record.write(place[0], dataclasses.replace(known, metadata=metadata), place[1])


def kept(storage: Storage) -> Mapping[str, Any]:
    """What is in the record; empty where the file holds other arrays: it was written anew since.

    Raises:
        CheckpointError: the record is damaged.
    """
    known = record.of(storage)
    if known is None or known.metadata is None:
        return {}
    here = {
        path: (leaf.shape, leaf.dtype)
        for path, leaf in storage.tree().items()
        if isinstance(leaf, Leaf)
    }
    then = {path: (sums.leaf.shape, sums.leaf.dtype) for path, sums in known.arrays.items()}
    return known.metadata if here == then else {}
