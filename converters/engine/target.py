"""The result while it is written: an Orbax tree in a directory that nobody looks at yet."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig.converters.storage import items, kv, ocdbt, orbax, zarr
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np

_BATCH = 4096


class Target:
    """Where arrays are written.

    Args:
        url: the directory of the tree.
        use_ocdbt: one database, or a directory for each array.
        folder: of the database below that, where another process writes at the same time.
        parts: the items that hold the tree, each named by the first key of its paths; none: the
            directory itself does.
    """

    def __init__(
        self, url: str, *, use_ocdbt: bool, folder: str | None = None, parts: Sequence[str] = ()
    ):
        self.url = url
        self.compared: set[Path] = set()  # files that are known to be copies, byte for byte
        self.ocdbt = use_ocdbt
        self._folder = folder
        self.parts = {
            item: Target(kv.join(url, item), use_ocdbt=use_ocdbt, folder=folder) for item in parts
        }

    @functools.cached_property
    def store(self) -> Any:
        """The store that arrays are written to."""
        if self.parts:
            return kv.joined({f"{item}.": part.spec for item, part in self.parts.items()})
        if self.ocdbt:
            return kv.ocdbt(self._database, config=ocdbt.CONFIG)
        return kv.directory(self.url)

    @property
    def spec(self) -> dict[str, Any]:
        """The TensorStore spec of the store."""
        if self.ocdbt:
            return kv.ocdbt_spec(self._database) | {"config": ocdbt.CONFIG}
        return kv.spec(self.url)

    @property
    def _database(self) -> str:
        return self.url if self._folder is None else kv.join(self.url, self._folder)

    @property
    def trees(self) -> "tuple[Target, ...]":
        """Where each Orbax tree of the result is written."""
        return tuple(self.parts.values()) or (self,)

    def apart(self, name: str) -> "tuple[str, Target, str]":
        """Where a value is, by its name: the prefix of its item, the item's target, the rest."""
        item, _, rest = name.partition(".")
        return (f"{item}.", self.parts[item], rest) if self.parts else ("", self, name)

    @functools.cached_property
    def seen(self) -> orbax.Orbax:
        """The result as a reader sees it, who comes when all is written."""
        return items.Items(self.url, tuple(self.parts)) if self.parts else orbax.Orbax(self.url)

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
    ) -> Any:
        """Writes one box of whole chunks; it is there when the future is, or the transaction ends.

        The array must not be changed before.
        """
        opened = self.opened(name, array)
        if transaction is not None:
            opened = opened.with_transaction(transaction)
        index = tuple(slice(start, stop) for start, stop in box)
        return opened[index].write(data, can_reference_source_data_indefinitely=True)

    def read(self, name: str, array: zarr.Array, box: Box) -> Any:
        """Reads one box back: the future of an array."""
        index = tuple(slice(start, stop) for start, stop in box)
        return self.opened(name, array)[index].read()


def _options() -> dict[str, Any]:
    return {"store_data_equal_to_fill_value": True, "fill_missing_data_reads": False}
