"""Files of `flax.serialization`: nested maps in MessagePack, with arrays as they are.

The file is walked without being loaded, so that only the places of its arrays are kept.
"""

import math
import mmap
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters import casts
from maxmig.converters import leaves as trees
from maxmig.converters.leaves import DiskPath, Hole, Leaf, spell
from maxmig.converters.storage import files, zarr
from maxmig.converters.storage.mapped import Extent, Mapped

CHUNKED = "__msgpack_chunked_array__"
LARGEST = 2**30  # bytes of one array: flax cuts larger ones into flat chunks
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_NATIVE = {bool: "bool", int: "int64", float: "float64", complex: "complex128"}
_SIGNED = 2**63  # integers from here on are unsigned
_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_LENGTHS = {1: ">B", 2: ">H", 4: ">I"}


class _Native:
    """A plain number in the file: no array of it lies there, so it is kept."""

    def __init__(self, value: Any):
        self.value = value


class _Found:
    """An array: its type, shape and contiguous pieces."""

    def __init__(
        self,
        dtype: str,
        shape: tuple[int, ...],
        pieces: tuple[tuple[int, int], ...],
        *,
        scalar: bool = False,
    ):
        self.dtype, self.shape, self.pieces, self.scalar = dtype, shape, pieces, scalar


class Msgpack(Mapped):
    """One file."""

    container = "msgpack"

    def __init__(
        self,
        url: str,
        arrays: dict[DiskPath, tuple[Leaf, Extent]],
        holes: dict[DiskPath, Hole],
        numbers: dict[DiskPath, Any],
        order: list[list[Any]],
    ):
        super().__init__(url, arrays, holes, {})
        self._numbers = numbers
        self.strings = {path: text for path, text in numbers.items() if isinstance(text, str)}
        self._order = order
        named = re.fullmatch(r"checkpoint_([0-9]+)", Path(url).name)
        self.step = int(named[1]) if named else None  # as flax.training.checkpoints calls its files

    @property
    def spelling(self) -> dict[str, Any]:
        """What a layout does not tell of the file: the order in it, and which are NumPy scalars."""
        return {"order": self._order}

    def read(self, path: DiskPath, box: Any = None) -> Any:
        """One box of a leaf, or all of it."""
        import numpy as np

        if path in self.strings:
            return casts.letters(self.strings[path], box)
        if path in self._numbers:
            return np.asarray(self._numbers[path], self._arrays[path][0].dtype)
        return super().read(path, box)

    def metadata(self) -> dict[str, Any]:
        """The custom metadata; a conversion keeps them beside the file, with its checksums."""
        from maxmig.converters import remembered
        from maxmig.converters.compare import metadata

        return remembered.custom({"custom_metadata": metadata.kept(self)}, self.url)


def begins(path: Path) -> bool:
    """Whether a file of any name begins as a nested state does: with a map of few or many keys.

    `flax.training.checkpoints` names its files `checkpoint_3`.
    """
    with files.reading(str(path)), path.open("rb") as stream:
        first = stream.read(2)
    if first[:1] in (b"\xde", b"\xdf"):
        return True
    text = len(first) == 2 and (0xA0 <= first[1] <= 0xBF or first[1] in (0xD9, 0xDA, 0xDB))
    return text and 0x81 <= first[0] <= 0x8F


def read(path: Path) -> Msgpack:
    """Opens a file.

    Raises:
        CheckpointError: it is not what `flax.serialization` writes.
    """
    with files.reading(str(path)), path.open("rb") as stream:
        if not path.stat().st_size:
            raise errors.CheckpointError(f"{path}: expected a msgpack file, but it is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                walker = _Walker(data)
                nested = walker.value(0)
                if walker.at != len(data):
                    raise ValueError(f"{len(data) - walker.at} bytes are left at the end")
            except (ValueError, struct.error, IndexError, TypeError, KeyError) as error:
                raise errors.CheckpointError(
                    f"{path}: expected what flax.serialization writes, but reading it failed: "
                    f"{type(error).__name__}: {error}; the file is cut off or something else"
                ) from error
    arrays: dict[DiskPath, tuple[Leaf, Extent]] = {}
    holes: dict[DiskPath, Hole] = {}
    numbers: dict[DiskPath, Any] = {}
    order: list[list[Any]] = []
    for at, found in trees.walk(_joined(nested)):
        order.append([list(at), isinstance(found, _Found) and found.scalar])
        if isinstance(found, Hole):
            holes[at] = found
        elif isinstance(found, _Native) and isinstance(found.value, str):
            numbers[at] = found.value
            arrays[at] = (Leaf.of_text(found.value), Extent(path, ()))
        elif isinstance(found, _Native):
            dtype = _NATIVE.get(type(found.value))
            if dtype == "int64" and found.value >= _SIGNED:
                dtype = "uint64"
            if dtype is None:
                raise errors.CheckpointError(
                    f"{path}: {spell(at)}: expected an array or a number, got "
                    f"{type(found.value).__name__}; a training state holds arrays and scalars only"
                )
            numbers[at] = found.value
            arrays[at] = (Leaf((), dtype, zarr.itemsize(dtype)), Extent(path, ()))
        else:
            leaf = Leaf(found.shape, found.dtype, zarr.nbytes(found.shape, found.dtype))
            arrays[at] = (leaf, Extent(path, found.pieces))
    return Msgpack(str(path), arrays, holes, numbers, order)


def _joined(nested: Any) -> Any:
    """Arrays that flax has cut into chunks, as one; other numbers stay what they are."""
    if isinstance(nested, list):
        return [_joined(item) for item in nested]
    if not isinstance(nested, dict):
        return nested
    if CHUNKED not in nested:
        return {key: _joined(value) for key, value in nested.items()}
    shape = tuple(nested["shape"][str(i)].value for i in range(len(nested["shape"])))
    chunks = [nested["chunks"][str(i)] for i in range(len(nested["chunks"]))]
    return _Found(chunks[0].dtype, shape, tuple(piece for each in chunks for piece in each.pieces))


class _Walker:
    """Reads values one after another; arrays are skipped, and their places noted."""

    def __init__(self, data: Any):
        self.data, self.at = data, 0

    def value(self, depth: int) -> Any:
        if depth > trees.DEEPEST:
            raise ValueError(f"nested deeper than {trees.DEEPEST} levels")
        kind = self._take(1)[0]
        if kind <= 0x7F or kind >= 0xE0:
            return _Native(kind if kind <= 0x7F else kind - 256)
        if kind <= 0x8F or kind in (0xDE, 0xDF):
            count = kind & 0x0F if kind <= 0x8F else self._number(2 if kind == 0xDE else 4)
            return {self._key(): self.value(depth + 1) for _ in range(self._possible(count))}
        if kind <= 0x9F or kind in (0xDC, 0xDD):
            count = kind & 0x0F if kind <= 0x9F else self._number(2 if kind == 0xDC else 4)
            return [self.value(depth + 1) for _ in range(self._possible(count))]
        if kind in _NUMBERS:
            code = _NUMBERS[kind]
            return _Native(struct.unpack(code, self._take(struct.calcsize(code)))[0])
        if kind in (0xC2, 0xC3):
            return _Native(kind == 0xC3)
        if kind == 0xC0:
            return None
        return self._blob(kind)

    def _blob(self, kind: int) -> Any:
        if kind <= 0xBF:
            return _Native(self._text(kind & 0x1F))
        if 0xD9 <= kind <= 0xDB:
            return _Native(self._text(self._number(1 << (kind - 0xD9))))
        if 0xC4 <= kind <= 0xC6:
            return _Native(self._take(self._number(1 << (kind - 0xC4))))
        if 0xD4 <= kind <= 0xD8:
            length = 1 << (kind - 0xD4)
        elif 0xC7 <= kind <= 0xC9:
            length = self._number(1 << (kind - 0xC7))
        else:
            raise ValueError(f"the byte {kind:#x} begins no value")
        return self._extension(length)

    def _extension(self, length: int) -> Any:
        code = struct.unpack(">b", self._take(1))[0]
        end = self.at + self._possible(length)
        if code == _COMPLEX:
            parts = [float(part.value) for part in self.value(0)]
            if self.at != end or len(parts) != 2:
                raise ValueError("a complex number that is no pair")
            return _Native(complex(*parts))
        if code not in (_ARRAY, _SCALAR):
            raise ValueError(f"a value of the kind {code}, which Flax does not write")
        if self._take(1)[0] != 0x93:
            raise ValueError("an array that is no (shape, type, bytes)")
        shape = tuple(item.value for item in self.value(0))
        told = self.value(trees.DEEPEST).value
        dtype = told.decode() if isinstance(told, bytes) else str(told)
        kind = self._take(1)[0]
        if 0xC4 <= kind <= 0xC6:
            size = self._number(1 << (kind - 0xC4))
        elif 0xD9 <= kind <= 0xDB:
            size = self._number(1 << (kind - 0xD9))
        elif 0xA0 <= kind <= 0xBF:
            size = kind & 0x1F
        else:
            raise ValueError("an array without bytes")
        start, self.at = self.at, self.at + self._possible(size)
        if self.at != end or size != zarr.nbytes(shape, dtype):
            raise ValueError(f"{dtype}{list(shape)} in {size} bytes")
        return _Found(dtype, shape, ((start, math.prod(shape)),), scalar=code == _SCALAR)

    def _key(self) -> str:
        found = self.value(trees.DEEPEST)
        if not isinstance(found, _Native):
            raise ValueError("a key that is no string")
        return found.value.decode() if isinstance(found.value, bytes) else str(found.value)

    def _text(self, length: int) -> str:
        return self._take(length).decode()

    def _number(self, size: int) -> int:
        return struct.unpack(_LENGTHS[size], self._take(size))[0]

    def _take(self, length: int) -> bytes:
        found = self.data[self.at : self.at + self._possible(length)]
        self.at += length
        return found

    def _possible(self, count: int) -> int:
        if count > len(self.data) - self.at:
            raise ValueError("the file ends in the middle of a value")
        return count


def header_of(
    leaves: Mapping[DiskPath, Leaf],
    holes: Mapping[DiskPath, Hole],
    spelling: Mapping[str, Any] | None = None,
    strings: Mapping[DiskPath, str] | None = None,
) -> tuple[list[tuple[int, bytes]], dict[DiskPath, tuple[tuple[int, int], ...]], int]:
    """All bytes of a new file but the arrays' (place, bytes), where arrays go, and its size.

    Raises:
        ConvertError: a type has no place in the format.
    """
    flat = {**{path: (path, leaf) for path, leaf in leaves.items()}, **holes, **(strings or {})}
    told = (spelling or {}).get("order", ())
    place = {tuple(map(str, path)): number for number, (path, _) in enumerate(told)}
    ordered = sorted(flat, key=lambda path: place.get(tuple(map(str, path)), len(place)))
    nested = trees.nest({path: flat[path] for path in ordered})
    writer = _Writer({tuple(map(str, path)) for path, scalar in told if scalar})
    writer.value(nested)
    return writer.parts, writer.places, writer.at


class _Writer:
    """Writes values one after another, each in the shortest way, as msgpack's own packer does."""

    def __init__(self, scalars: set[tuple[str, ...]]) -> None:
        self._scalars = scalars
        self.parts: list[tuple[int, bytes]] = []
        self.places: dict[DiskPath, tuple[tuple[int, int], ...]] = {}
        self.at = 0

    def value(self, value: Any) -> None:
        if value is None:
            self._put(b"\xc0")
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, dict):
            self._put(_counts(len(value), 0x80, 0xDE))
            for key, item in value.items():
                self._text(str(key))
                self.value(item)
        elif isinstance(value, list):
            self._put(_counts(len(value), 0x90, 0xDC))
            for item in value:
                self.value(item)
        else:
            self._array(*value)

    def _array(self, path: DiskPath, leaf: Leaf) -> None:
        if leaf.is_key:
            raise errors.ConvertError(
                f"{spell(path)}: a msgpack file cannot hold {leaf.dtype}; leave it out, or choose "
                "another container"
            )
        count, each = math.prod(leaf.shape), zarr.itemsize(leaf.dtype)
        if leaf.nbytes <= LARGEST:
            code = _SCALAR if path in self._scalars and not leaf.shape else _ARRAY
            self.places[path] = (self._block(leaf.shape, leaf.dtype, code),)
            return
        step = LARGEST // each
        sizes = [min(step, count - start) for start in range(0, count, step)]
        self._put(b"\x83")
        self._text(CHUNKED)
        self._put(b"\xc3")
        self._text("shape")
        self._counted(leaf.shape, lambda size: self._put(_whole(size)))
        self._text("chunks")
        pieces: list[tuple[int, int]] = []
        self._counted(sizes, lambda size: pieces.append(self._block((size,), leaf.dtype)))
        self.places[path] = tuple(pieces)

    def _counted(self, items: Any, put: Any) -> None:
        self._put(_counts(len(items), 0x80, 0xDE))
        for index, item in enumerate(items):
            self._text(str(index))
            put(item)

    def _block(self, shape: tuple[int, ...], dtype: str, code: int = _ARRAY) -> tuple[int, int]:
        nbytes = zarr.nbytes(shape, dtype)
        head = b"\x93" + _counts(len(shape), 0x90, 0xDC) + b"".join(map(_whole, shape))
        head += _string(dtype) + _sized(nbytes, 0xC4)
        length = len(head) + nbytes
        fixed = {1: b"\xd4", 2: b"\xd5", 4: b"\xd6", 8: b"\xd7", 16: b"\xd8"}
        begin = fixed.get(length) or _sized(length, 0xC7)
        self._put(begin + struct.pack(">b", code) + head)
        place = self.at
        self.at += nbytes
        return place, math.prod(shape)

    def _text(self, text: str) -> None:
        self._put(_string(text))

    def _put(self, data: bytes) -> None:
        self.parts.append((self.at, data))
        self.at += len(data)


def _string(text: str) -> bytes:
    data = text.encode()
    begin = bytes([0xA0 | len(data)]) if len(data) < 32 else _sized(len(data), 0xD9)
    return begin + data


def _sized(size: int, first: int) -> bytes:
    """A length in 1, 2 or 4 bytes; `first` is the sign of the shortest."""
    place = 0 if size < 1 << 8 else 1 if size < 1 << 16 else 2
    return bytes([first + place]) + struct.pack((">B", ">H", ">I")[place], size)


def _counts(size: int, few: int, first: int) -> bytes:
    """The number of items of a map or a list."""
    if size < 16:
        return bytes([few | size])
    return (
        bytes([first]) + struct.pack(">H", size)
        if size < 1 << 16
        else bytes([first + 1]) + struct.pack(">I", size)
    )


def _whole(number: int) -> bytes:
    """A whole number of 0 or more."""
    if number < 1 << 7:
        return bytes([number])
    if number < 1 << 32:
        return _sized(number, 0xCC)
    return b"\xcf" + struct.pack(">Q", number)
