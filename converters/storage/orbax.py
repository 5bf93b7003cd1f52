"""Orbax checkpoints, read by TensorStore directly: Zarr 2 and 3, OCDBT or plain directories.

Nothing is loaded but what is asked for, and nothing is ever written. JAX and Orbax are not needed.
"""

import contextlib
import functools
import hashlib
import math
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.converters import casts, places, remembered, transfers
from maxmig.converters.leaves import KEY_WORDS, DiskPath, Hole, Leaf, encoded, spell
from maxmig.converters.storage import decode, files, forms, kv, ocdbt, orbax_tree, zarr
from maxmig.converters.storage.base import Grid
from maxmig.converters.transfers import Box

if TYPE_CHECKING:
    import numpy as np

_BATCH = 4096  # requests under way at once


class Orbax:
    """One Orbax tree.

    Args:
        items: the directory that holds the tree, local or as a URL.
        step_dir: the directory of its step; None when the tree stands alone.
        step: its number, if it has one.

    Attributes:
        url: the step's directory, or the tree's.
    """

    container = "orbax"

    def __init__(self, items: str, *, step_dir: str | None = None, step: int | None = None):
        self.items = items
        self.step_dir = step_dir
        self.step = step
        self.url = step_dir or items

    @functools.cached_property
    def _files(self) -> files.Files:
        """The files of the tree."""
        return files.Files(self.items)

    @functools.cached_property
    def told(self) -> orbax_tree.Tree:
        """What Orbax's own metadata tell."""
        tree = self._files.read(orbax_tree.TREE)
        if tree is None:
            raise errors.CheckpointError(
                f"{self.items}: expected an Orbax tree, but there is no {orbax_tree.TREE}"
            )
        names = self._files.names(f"{orbax_tree.ARRAYS}/")
        arrays = [self._json(name) for name in sorted(names) if "/process_" in name]
        shardings = self._files.read(orbax_tree.SHARDING)
        described = places.load_json(tree, kv.join(self.items, orbax_tree.TREE))
        if "use_ocdbt" not in described:  # older versions of Orbax do not say
            described["use_ocdbt"] = self._files.read("manifest.ocdbt") is not None
        return orbax_tree.parse(
            described,
            arrays,
            places.load_json(shardings, kv.join(self.items, orbax_tree.SHARDING))
            if shardings
            else {},
            self.url,
        )

    @functools.cached_property
    def store(self) -> Any:
        """The store that holds arrays: the OCDBT database, or the directory."""
        with self._reading():
            return kv.ocdbt(self.items) if self.told.ocdbt else kv.directory(self.items)

    @functools.cached_property
    def arrays(self) -> dict[DiskPath, zarr.Array]:
        """The metadata of all arrays."""
        found: dict[DiskPath, zarr.Array] = {}
        wanted = []
        for path, entry in self.told.entries.items():
            if not entry.stored:
                continue
            if not self.told.ocdbt:
                files.check_name(orbax_tree.name_of(path), self.url)
            wanted.append(path)
        file = zarr.METADATA[self.told.zarr]
        for path, data in self._metadata_of(wanted, file):
            if data is None:
                raise errors.CheckpointError(
                    f"{self._where(path)}: missing: the tree's metadata list it, but its "
                    f"{file} is not there; the checkpoint is damaged or half-written"
                )
            found[path] = zarr.parse(self.told.zarr, data, self._where(path))
        return found

    @functools.cached_property
    def strings(self) -> dict[DiskPath, str]:
        """The texts of the leaves that are strings."""
        paths = [path for path, e in self.told.entries.items() if e.kind == orbax_tree.TEXT]
        if not paths:
            return {}
        document = self._json(orbax_tree.STRINGS)
        try:
            return {path: orbax_tree.text(document, path) for path in paths}
        except ValueError as error:
            raise errors.CheckpointError(
                f"{self.url}: {error}; the checkpoint is damaged or half-written"
            ) from error

    def _metadata_of(
        self, wanted: list[DiskPath], file: str
    ) -> Iterator[tuple[DiskPath, bytes | None]]:
        """The metadata of arrays, unread: out of the index where they are in it."""
        inline = self.index.inline if self.told.ocdbt else {}
        for start in range(0, len(wanted), _BATCH):
            group = wanted[start : start + _BATCH]
            names = [f"{orbax_tree.name_of(path)}/{file}" for path in group]
            futures = {name: self.store.read(name) for name in names if name not in inline}
            for path, name in zip(group, names, strict=True):
                if name in inline:
                    yield path, inline[name]
                    continue
                with self._reading(path):
                    result = futures[name].result()
                yield path, result.value if result.state == "value" else None

    @functools.cached_property
    def index(self) -> ocdbt.Index:
        """What the database refers to; of an OCDBT tree only, and without arrays there is none."""
        if not any(entry.stored for entry in self.told.entries.values()):
            return ocdbt.Index({}, frozenset(), {})
        return ocdbt.index(self.items)

    @functools.cached_property
    def held(self) -> Container[str]:
        """The names of all values that are stored."""
        return self.index.values if self.told.ocdbt else self.names

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The names of all files of the tree."""
        return frozenset(self._files.names(""))

    @property
    def spelling(self) -> dict[str, Any]:
        """What a layout does not tell of the tree: which holes are tuples."""
        told = self.told.entries.items()
        found = [[list(path), entry.kind] for path, entry in told if entry.kind in orbax_tree.TOLD]
        return {"holes": found} if found else {}

    @property
    def item_names(self) -> tuple[str, ...]:
        """The items of the step that hold the tree; none where it stands alone."""
        alone = self.step_dir in (None, self.items)
        return () if alone else (self.items.rstrip("/").rpartition("/")[2],)

    def part(self, path: DiskPath) -> "Orbax":
        """The tree of the item that a leaf is in."""
        return self

    def apart(self, name: str) -> tuple[str, "Orbax", str]:
        """Where a value is, by its name: the prefix of its item, the item's tree, the rest."""
        return "", self, name

    def tree(self) -> dict[DiskPath, Leaf | Hole]:
        """All leaves and holes with shapes and types."""
        return self._tree

    @functools.cached_property
    def _tree(self) -> dict[DiskPath, Leaf | Hole]:
        arrays = self.arrays
        found: dict[DiskPath, Leaf | Hole] = {}
        for path, entry in self.told.entries.items():
            if entry.kind == orbax_tree.TEXT:
                found[path] = Leaf.of_text(self.strings[path])
            else:
                found[path] = entry.hole or self._leaf(path, entry, arrays[path])
        return found

    def _leaf(self, path: DiskPath, entry: orbax_tree.Entry, array: zarr.Array) -> Leaf:
        size = zarr.nbytes(array.shape, array.dtype)
        if entry.key_impl is None:
            return Leaf(array.shape, array.dtype, size)
        words = KEY_WORDS.get(entry.key_impl)
        if words is None or array.shape[-1:] != (words,) or array.dtype != "uint32":
            raise errors.CheckpointError(
                f"{self._where(path)}: expected random keys of JAX's own kinds "
                f"({', '.join(KEY_WORDS)}), got {entry.key_impl} as "
                f"{array.dtype}{list(array.shape)}"
            )
        return Leaf(array.shape[:-1], f"key<{entry.key_impl}>", size)

    def metadata(self) -> dict[str, Any]:
        """The custom metadata of the step."""
        tree = str(self.items).rstrip("/").rpartition("/")[2]
        for directory in (self.step_dir, self.items):
            if directory is not None:
                data = files.Files(directory).read(places.STEP_METADATA)
                if data is not None:
                    where = kv.join(directory, places.STEP_METADATA)
                    return remembered.custom(places.load_json(data, where), where, tree)
        return {}

    def rank(self, path: DiskPath) -> int:
        """The number of logical axes, without the words of random keys."""
        entry = self.told.entries[path]
        return len(self.arrays[path].shape) - (entry.key_impl is not None)

    def grid(self, path: DiskPath) -> Grid:
        """How a leaf is cut into chunks."""
        if path in self.strings:
            size = len(encoded(self.strings[path]))
            return Grid((size,), (max(1, size),), (max(1, size),), None, size)
        array, rank = self.arrays[path], self.rank(path)
        bounded = [min(c, max(1, s)) for c, s in zip(array.inner, array.shape, strict=True)]
        return Grid(
            array.shape[:rank],
            array.inner[:rank],
            array.stored[:rank],
            array.codec,
            math.prod(bounded) * zarr.itemsize(array.dtype),
            kv.is_url(self.items) or forms.of(array) is None,
        )

    def read(self, path: DiskPath, box: Box | None = None) -> "np.ndarray":
        """One box of a leaf, or all of it."""
        if path in self.strings:
            return casts.letters(self.strings[path], box)
        box = transfers.whole(self._logical(path)) if box is None else box
        if (found := self._decoded(path, box)) is not None:
            return found
        opened = self._opened(path)
        index = tuple(slice(start, stop) for start, stop in box)
        try:
            return opened[index].read().result()
        except Exception as error:
            raise self._damaged(path, box, error) from error

    def read_narrowed(self, path: DiskPath, box: Box) -> "np.ndarray":
        """One box of a float32 leaf as bfloat16, cast while it is decoded where that can be.

        Raises:
            OverflowError: a number would become infinite.
        """
        found = self._decoded(path, box, narrowed=True)
        return casts.narrowed(self.read(path, box)) if found is None else found

    def _decoded(self, path: DiskPath, box: Box, *, narrowed: bool = False) -> "np.ndarray | None":
        """A box that lies in one stored value of a usual form; None: TensorStore reads it."""
        array = self.arrays[path]
        if (place := forms.only_value(array, box)) is None:
            return None
        try:
            with self._value(path, place) as value:
                return decode.box(array, box, value, narrowed=narrowed)
        except OverflowError:
            raise
        except Exception:  # TensorStore tells what is wrong
            return None

    def blocks(self, path: DiskPath, box: Box) -> "Iterator[np.ndarray]":
        """The numbers of a box that is one stored value (`forms.fills`), as they are decoded.

        They come in row-major order; each block is overwritten by the next.

        Raises:
            Unknown: it is not decoded here, which may be told after some blocks: use `read`.
        """
        array = self.arrays[path]
        place = forms.only_value(array, box) if forms.fills(array, box) else None
        if place is None:
            raise decode.Unknown
        try:
            with self._value(path, place) as value:
                if value is None:
                    raise decode.Unknown
                yield from decode.blocks(array, value, math.prod(transfers.shape_of(box)))
        except Exception as error:  # TensorStore tells what is wrong
            raise decode.Unknown from error

    @contextlib.contextmanager
    def _value(
        self, path: DiskPath, place: tuple[int, ...]
    ) -> "Iterator[bytes | files.Part | None]":
        """A stored value; None where there is none, or it is not for us."""
        name = f"{orbax_tree.name_of(path)}/{self.arrays[path].key(place)}"
        if kv.is_url(self.items):
            result = self.store.read(name).result()
            yield result.value if result.state == "value" else None
            return
        file, start, size = self.index.values[name] if self.told.ocdbt else (name, 0, None)
        if not file:
            yield self.index.inline[name]
        elif ".." in file.split("/"):
            yield None
        else:
            with (Path(self.items) / file).open("rb", 0) as opened:
                yield files.Part(opened, start, size)

    def _logical(self, path: DiskPath) -> Leaf:
        leaf = self.tree()[path]
        assert isinstance(leaf, Leaf)
        return leaf

    @functools.lru_cache(maxsize=256)  # noqa: B019  (a storage lives as long as its conversion)
    def _opened(self, path: DiskPath) -> Any:
        with self._reading(path):
            return open_array(
                self.store,
                orbax_tree.name_of(path),
                self.arrays[path],
                fill_missing_data_reads=not self.part(path).told.stored_fill,
            )

    def _damaged(self, path: DiskPath, box: Box, error: Exception) -> errors.CheckpointError:
        """Finds the chunk that cannot be read."""
        grid, opened = self.grid(path), self._opened(path)
        for part in grid.boxes(box):
            try:
                opened[tuple(slice(start, stop) for start, stop in part)].read().result()
            except Exception as cause:
                if told := places.denied(cause):
                    return errors.CheckpointError(f"{self._where(path)}: {told}")
                index = tuple(
                    start // size for (start, _), size in zip(part, grid.chunk, strict=True)
                )
                return errors.CheckpointError(
                    f"{self._where(path)}: chunk {list(index)} of {self._logical(path)} is damaged "
                    f"or missing: {_short(cause)}; take another step or another copy"
                )
        return errors.CheckpointError(f"{self._where(path)}: cannot be read: {_short(error)}")

    def fingerprint(self) -> str:
        """Names, sizes and times of all files of the step."""
        told = hashlib.sha256()
        for directory in dict.fromkeys((self.step_dir or self.items, self.items)):
            for line in files.Files(directory).stats():
                told.update(line.encode())
        return told.hexdigest()

    def _where(self, path: DiskPath) -> str:
        return f"{self.url}: {spell(path)}"

    def _json(self, name: str) -> dict[str, Any]:
        return places.load_json(self._files.read(name) or b"", kv.join(self.items, name))

    def _reading(self, path: DiskPath | None = None) -> files.reading:
        return files.reading(self.url if path is None else self._where(path))


def open_array(store: Any, name: str, array: zarr.Array, **options: Any) -> Any:
    """Opens an array whose metadata are known, without reading them again."""
    import tensorstore as ts

    driver = {"driver": f"zarr{array.version}" if array.version == 3 else "zarr"}
    spec = {**driver, "metadata": array.document, **options}
    return ts.open(
        spec,
        kvstore=store / f"{name}/",
        context=kv.context(),
        open=True,
        assume_metadata=True,
        recheck_cached_data=False,
    ).result()


def local(storage: Any) -> Path | None:
    """The directory of an Orbax tree on a local disk; None of any other storage."""
    if isinstance(storage, Orbax) and not kv.is_url(storage.items):
        return Path(storage.items)
    return None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
