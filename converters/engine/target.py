"""The result while it is written: an Orbax tree in a directory that nobody looks at yet."""

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from maxmig.converters.storage import kv, ocdbt, orbax, zarr
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np

_BATCH = 4096


class Target:
    """Where arrays are written.

    Args:
        url: the directory of the tree.
        use_ocdbt: one database, or a directory for each array.
        database: the directory of the database, where another process writes at the same time.
    """

    def __init__(self, url: str, *, use_ocdbt: bool, database: str | None = None):
        self.url = url
        self.ocdbt = use_ocdbt
        self._database = database or url

    @functools.cached_property
    def store(self) -> Any:
        """The store that arrays are written to."""
        if self.ocdbt:
            return kv.ocdbt(self._database, config=ocdbt.CONFIG)
        return kv.directory(self.url)

    def describe(self, arrays: Iterable[tuple[str, zarr.Array]]) -> None:
        """Writes the metadata of arrays, by their names."""
        import itertools

        import tensorstore as ts

        pending = iter(arrays)
        while group := list(itertools.islice(pending, _BATCH)):
            with ts.Transaction() as transaction:
                store = self.store.with_transaction(transaction)
                for name, array in group:
                    store[f"{name}/{zarr.METADATA[array.version]}"] = array.encoded()

    def opened(self, name: str, array: zarr.Array) -> Any:
        """One array, ready for reading and writing."""
        return orbax.open_array(self.store, name, array, **_options())

    def write(
        self, name: str, array: zarr.Array, box: Box, data: "np.ndarray", transaction: Any = None
    ) -> None:
        """Writes one box of whole chunks; it is there when this returns or the transaction ends."""
        opened = self.opened(name, array)
        if transaction is not None:
            opened = opened.with_transaction(transaction)
        index = tuple(slice(start, stop) for start, stop in box)
        opened[index].write(data, can_reference_source_data_indefinitely=True).result()

    def read(self, name: str, array: zarr.Array, box: Box) -> "np.ndarray":
        """Reads one box back."""
        index = tuple(slice(start, stop) for start, stop in box)
        return self.opened(name, array)[index].read().result()


def _options() -> dict[str, Any]:
    return {"store_data_equal_to_fill_value": True, "fill_missing_data_reads": False}
