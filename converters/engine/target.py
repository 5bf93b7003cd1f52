"""The result while it is written: an Orbax tree in a directory that nobody looks at yet."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig.converters.engine import durable
from maxmig.converters.storage import decode, files, forms, items, kv, ocdbt, orbax, zarr
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np

_BATCH = 4096
_LARGE = 1 << 20  # bytes: smaller files are forced to the disk together, at the end


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

    @functools.cached_property
    def _arrivals(self) -> durable.Arrivals:
        return durable.Arrivals(Path(self._database) / "d")

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

    def changed(self) -> None:
        """Lets go of what was seen, because more has been written."""
        self.__dict__.pop("seen", None)

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

    def verified(self, name: str, array: zarr.Array, box: Box, nbytes: int) -> None:
        """Takes note that a box is read back: its file, if it is local, can go to the disk."""
        _, other, rest = self.apart(name)
        if kv.is_url(other.url):
            return
        if not other.ocdbt:
            place = forms.only_value(array, box)
            if place is not None and nbytes >= _LARGE:
                durable.hasten(Path(other.url) / rest / array.key(place))
            return
        other._arrivals.verified(nbytes)

    def write(
        self, name: str, array: zarr.Array, box: Box, data: "np.ndarray", transaction: Any = None
    ) -> "Written":
        """Begins to write one box of whole chunks, which must not be changed before it is there."""
        opened = self.opened(name, array)
        if transaction is not None:
            opened = opened.with_transaction(transaction)
        future = opened[_index(box)].write(data, can_reference_source_data_indefinitely=True)
        return Written(self, name, array, box, future)


@dataclasses.dataclass(frozen=True)
class Written:
    """A box that is being written.

    Attributes:
        target: where.
        name: of the array.
        array: its metadata.
        box: the box.
        future: of TensorStore.
    """

    target: Target
    name: str
    array: zarr.Array
    box: Box
    future: Any

    def result(self) -> None:
        """Waits until it is there, or will be when the transaction ends."""
        self.future.result()

    def holds(self, data: "np.ndarray") -> bool:
        """Whether what is there has the bits of an array, when it is read back.

        Raises:
            CheckpointError: it cannot be read.
        """
        with files.reading(f"{self.target.url}: {self.name}, which was just written"):
            value = self._value()
            if value and forms.fills(self.array, self.box):
                told = decode.holds(self.array, value, data)
                if told is not None:
                    return told
            found = decode.box(self.array, self.box, value)  # padded, at an edge
            if found is None:
                found = self.target.opened(self.name, self.array)[_index(self.box)].read().result()
            return alike(found, data)

    def _value(self) -> bytes | None:
        """The stored value that holds all of it, if it is one that is decoded here."""
        place = forms.only_value(self.array, self.box)
        if place is None or forms.of(self.array) is None:
            return None
        key = f"{self.name}/{self.array.key(place)}"
        return self.target.store.read(key).result().value or None


def _index(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def alike(found: "np.ndarray", data: "np.ndarray") -> bool:
    """Whether two arrays have the same bits."""
    import numpy as np

    def bits(array: "np.ndarray") -> "np.ndarray":
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return flat if flat.size % 8 else flat.view(np.uint64)

    kin = found.shape == data.shape and found.dtype == data.dtype
    return kin and np.array_equal(bits(found), bits(data))


def _options() -> dict[str, Any]:
    return {"store_data_equal_to_fill_value": True, "fill_missing_data_reads": False}
