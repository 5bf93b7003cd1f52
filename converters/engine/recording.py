"""The record of checksums of a result: from what is written, carried over, or decoded.

What goes by stream is recorded as it is in memory, before it is written. What goes by reference or
by chunk keeps the checksums of the source's own record, chunk by chunk, or gets those of what was
decoded for verification; else it has none.
"""

from typing import TYPE_CHECKING, Any

from maxmig.converters import casts
from maxmig.converters.compare import record
from maxmig.converters.compare.record import Record, Sums
from maxmig.converters.engine import documents, routes
from maxmig.converters.engine.flat import FlatTarget
from maxmig.converters.engine.options import MIB
from maxmig.converters.engine.plan import Plan
from maxmig.converters.engine.routes import Route
from maxmig.converters.engine.target import Target
from maxmig.converters.leaves import Leaf
from maxmig.converters.storage import orbax_tree, zarr
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np

SMALL = 64 * MIB  # a result of so many bytes is decoded and recorded completely

Found = dict[str, dict[int, int]]
"""{array: {place of a chunk: checksum}}"""


class Recording:
    """The checksums of one conversion.

    Args:
        todo: the plan.

    Attributes:
        source: the source; what is read is held against its own record, where it has one.
    """

    def __init__(self, todo: Plan):
        conversion = todo.conversion
        self._todo = todo
        self._known = record.of(conversion.storage)
        self.source = conversion.storage
        if self._known is not None:
            self.source = record.Checked(conversion.storage, self._known)
        self._arrays = {
            route.name: (route.transfer.target, route.transfer.leaf, route.array)
            for route in todo.routes
        }
        made = documents.made_arrays(conversion, todo.zarr)
        for item in conversion.made:
            name = orbax_tree.name_of(item.target)
            self._arrays[name] = (item.target, item.leaf, made[item.target])
        self._flat = conversion.container == "safetensors"  # its names are whole paths
        self._found: Found = {}

    def written(
        self,
        target: "Target | FlatTarget",
        writes: "list[tuple[str, zarr.Array, Box, np.ndarray]]",
    ) -> Found:
        """The checksums of boxes that one piece writes."""
        found: Found = {}
        for name, _, box, data in writes:
            leaf, chunk = self._kind(name)
            found.setdefault(name, {}).update(record.sums(leaf.shape, chunk, box, data))
        return found

    def add(self, found: Found) -> None:
        """Takes the checksums of a piece; not for several threads at once."""
        for name, each in found.items():
            self._found.setdefault(name, {}).update(each)

    def carry(self) -> None:
        """Takes over the checksums of what is moved as it is."""
        if self._known is None:
            return
        for route in self._todo.routes:
            if route.kind != routes.STREAM:
                self._found.setdefault(route.name, {}).update(self._carried(route))

    def decoded(self, route: Route, box: Box, data: "np.ndarray") -> None:
        """Takes a chunk that was decoded for verification, and holds it against the record.

        Raises:
            CheckpointError: the source's record says that these were other bits.
        """
        leaf, chunk = self._kind(route.name)
        found = self._found.setdefault(route.name, {})
        for at, value in record.sums(leaf.shape, chunk, box, data).items():
            if found.setdefault(at, value) != value:
                source = self._todo.conversion.storage
                sums = Sums(leaf, chunk, ())
                raise record.damaged(source, route.transfer.target, sums, box)

    def record(self) -> Record:
        """What is known of all chunks of an array, for each array of which that is so."""
        arrays = {}
        for name, (path, _, _) in self._arrays.items():
            leaf, chunk = self._kind(name)
            found = self._found.get(name, {})
            total = record.count(leaf.shape, chunk)
            if len(found) == total:
                arrays[(name,) if self._flat else path] = Sums(
                    leaf, chunk, tuple(found[at] for at in range(total))
                )
        for path, text in self._todo.conversion.strings.items():
            leaf = Leaf.of_text(text)
            told = (record.checksum(casts.letters(text)),) if text else ()
            arrays[path] = Sums(leaf, tuple(max(1, size) for size in leaf.shape), told)
        return Record(arrays)

    def write(self, items: str, *name: str) -> None:
        """Writes the record beside the result's metadata, if there is anything in it."""
        told = self.record()
        if told.arrays:
            record.write(items, told, *name)

    def _kind(self, name: str) -> tuple[Leaf, tuple[int, ...]]:
        _, leaf, array = self._arrays[name]
        inner = zip(array.inner, leaf.shape, strict=False)  # random keys: their words ride along
        return leaf, tuple(max(1, min(chunk, size)) for chunk, size in inner)

    def _carried(self, route: Route) -> dict[int, int]:
        assert self._known is not None
        transfer = route.transfer
        tree = self._todo.conversion.storage.tree()
        kinds: list[Any] = [tree[path] for path in transfer.sources]
        known = [self._known.arrays.get(path) for path in transfer.sources]
        for path, leaf, sums in zip(transfer.sources, kinds, known, strict=True):
            if sums is not None:
                record.refuse_other(self._todo.conversion.storage, path, leaf, sums)
        leaf, chunk = self._kind(route.name)
        found = {}
        for box in record.boxes(leaf.shape, chunk):
            parts = transfer.op.parts(box, kinds)
            if len(parts) != 1:
                continue
            place, part = parts[0]
            sums = known[place]
            at = None if sums is None else sums.find(part)
            if sums is not None and at is not None:
                found[record.place(leaf.shape, chunk, box)] = sums.values[at]
        return found
