"""Chooses for each array how its bytes get into the result: by reference, by chunk, or by stream.

A stored value can be used as it is wherever its bytes are the same in the result: always when only
the name changes; and when layers are stacked or taken apart if a value holds one layer only,
because an extent of 1 does not change the order of the numbers.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from maxmig.converters import ops
from maxmig.converters.engine import flat, rekey
from maxmig.converters.engine.options import Options
from maxmig.converters.leaves import DiskPath, Leaf
from maxmig.converters.storage import orbax, orbax_tree, zarr
from maxmig.converters.transfers import Conversion, Transfer

REFERENCE, CHUNK, STREAM = "reference", "chunk", "stream"
KINDS = (REFERENCE, CHUNK, STREAM)
_FEW = 128  # chunks of an array: so many layers it may well have, each in a chunk of its own
_SMALL = 1 << 20  # bytes: a chunk of less costs as much as this


@dataclass(frozen=True)
class Route:
    """The way of one array.

    Attributes:
        transfer: what it is made of.
        kind: `reference`, `chunk` or `stream`.
        array: how it is stored in the result.
        why: why it is not by reference; empty if it is.
        offsets: where parts that are joined or cut begin, in values; see `rekey`.
    """

    transfer: Transfer
    kind: str
    array: zarr.Array
    why: str = ""
    offsets: rekey.Offsets = ()

    @property
    def name(self) -> str:
        """The array's name in the result."""
        return orbax_tree.name_of(self.transfer.target)

    def values(self) -> "Iterator[tuple[DiskPath, tuple[int, ...], tuple[int, ...]]]":
        """The stored values: the source's path, its place there, its place in the result."""
        for index in self.array.indices():
            number, place = rekey.origin(self.transfer.op, index, self.offsets)
            yield self.transfer.sources[number], place, index


def choose(conversion: Conversion, options: Options, linkable: str) -> list[Route]:
    """A route for every transfer.

    Args:
        conversion: what is to be done.
        options: how.
        linkable: why hard links are impossible; empty if they are possible.
    """
    source = conversion.storage
    orbax_source = source if isinstance(source, orbax.Orbax) else None
    if conversion.container != "orbax":
        why = f"the result is a {conversion.container} file"
        return [_streamed(each, conversion, 3, options, why) for each in conversion.transfers]
    version = target_zarr(conversion, options)
    ocdbt = target_ocdbt(conversion, options)
    if orbax_source and orbax_source.told.ocdbt != ocdbt:
        linkable = linkable or "OCDBT on one side only"
    found = []
    for transfer in conversion.transfers:
        reason = "the source is no Orbax checkpoint"
        route = None
        if orbax_source is not None:
            route, reason = _keep(transfer, orbax_source, version, linkable)
        found.append(route or _streamed(transfer, conversion, version, options, reason))
    return found


def target_ocdbt(conversion: Conversion, options: Options) -> bool:
    """Whether the result is one OCDBT database."""
    if options.ocdbt is not None:
        return options.ocdbt
    source = conversion.storage
    return source.told.ocdbt if isinstance(source, orbax.Orbax) else True


def target_zarr(conversion: Conversion, options: Options) -> int:
    """The Zarr version of the result."""
    source = conversion.storage
    return options.zarr or (source.told.zarr if isinstance(source, orbax.Orbax) else 3)


def _keep(
    transfer: Transfer, source: orbax.Orbax, version: int, linkable: str
) -> tuple[Route | None, str]:
    """A route that uses stored values as they are; else the reason why there is none."""
    arrays = [source.arrays[path] for path in transfer.sources]
    first = arrays[0]
    if version != source.told.zarr:
        return None, f"Zarr {source.told.zarr} becomes {version}"
    if transfer.cast:
        return None, f"cast to {transfer.leaf.dtype}"
    array: zarr.Array | None = first
    reason, offsets = "", rekey.NONE
    if isinstance(transfer.op, ops.Same):
        pass
    elif not first.plain:
        return None, "values are not row-major"
    elif any(each.codec != first.codec for each in arrays[1:]):
        return None, "the sources are encoded differently"
    else:
        array, reason, offsets = rekey.rekeyed(transfer.op, arrays)
    if array is None:
        return None, reason
    kind = CHUNK if linkable else REFERENCE
    return Route(transfer, kind, array, linkable, offsets), ""


def _streamed(
    transfer: Transfer, conversion: Conversion, version: int, options: Options, why: str
) -> Route:
    if conversion.container == "orbax":
        chunk = _chunk(transfer, conversion, options)
    else:
        chunk = flat.slabs(conversion, transfer.target, min(options.chunk, options.max_memory // 4))
    array = new_array(transfer.leaf, version, chunk)
    return Route(transfer, STREAM, array, why)


def new_array(leaf: Leaf, version: int, chunk: Iterable[int]) -> zarr.Array:
    """The stored form of a leaf that is written anew."""
    chunk = tuple(chunk)
    words = leaf.stored[len(leaf.shape) :]
    dtype = "uint32" if leaf.is_key else leaf.dtype
    return zarr.new(version, leaf.stored, dtype, (*chunk, *words))


def _chunk(transfer: Transfer, conversion: Conversion, options: Options) -> tuple[int, ...]:
    """The chunks of a streamed array: each a part of one chunk of the source, one layer thick."""
    leaf = transfer.leaf
    bases = image_chunks(transfer, conversion)
    shape = leaf.shape
    if any(base is None for base in bases) or len(set(bases)) != 1:
        base = tuple(max(1, size) for size in shape)
    else:
        assert bases[0] is not None
        base = bases[0]
    chunk = [min(size, max(1, full)) for size, full in zip(base, shape, strict=True)]
    held: set[int] = set()
    match transfer.op:
        case ops.Stack(axis) | ops.MoveAxis(_, axis):
            chunk[axis] = 1
            held = {axis}
        case ops.Then() | ops.Join():
            held = {axis for axis, size in enumerate(chunk) if size == 1}
    each = max(1, leaf.nbytes // max(1, math.prod(shape)))
    limit = max(1, min(options.chunk, options.max_memory // 4) // each)
    if all(conversion.storage.grid(path).nbytes < _SMALL for path in transfer.sources):
        _grow(chunk, shape, min(limit, _SMALL // each), held)
    for axis in range(len(chunk)):  # from the front: rows stay whole, and values contiguous
        over = -(-math.prod(chunk) // limit)
        if over > 1 and chunk[axis] > 1:
            chunk[axis] = _divisor(chunk[axis], over, whole=chunk[axis] >= shape[axis])
    return tuple(chunk)


def _grow(chunk: list[int], shape: tuple[int, ...], limit: int, held: set[int]) -> None:
    """Makes small chunks multiples of themselves, from the back, where there are very many.

    Chunks of the source that are as small are then decoded for several chunks of the result at
    most, which costs less than a chunk more.

    Args:
        chunk: is changed.
        shape: of the array.
        limit: the numbers in a chunk.
        held: axes that stay as they are: those of layers.
    """
    for axis in reversed(range(len(chunk))):
        parts = [-(-max(1, size) // part) for size, part in zip(shape, chunk, strict=True)]
        room = min(limit // math.prod(chunk), parts[axis])
        if axis in held or room < 2 or math.prod(parts) <= _FEW:
            continue
        even = -(-parts[axis] // -(-parts[axis] // room))
        chunk[axis] = min(even * chunk[axis], shape[axis])


def _divisor(size: int, parts: int, *, whole: bool) -> int:
    """An extent at least `parts` times smaller; a divisor, unless the axis is in one chunk."""
    wanted = max(1, size // parts)
    if whole:
        return wanted
    return next(extent for extent in range(wanted, 0, -1) if size % extent == 0)


def image_chunks(transfer: Transfer, conversion: Conversion) -> list[tuple[int, ...] | None]:
    """What becomes of a chunk of each source in the result; None where that is no box."""
    chunks = [conversion.storage.grid(path).chunk for path in transfer.sources]
    return [rekey.image(transfer.op, each, place) for place, each in enumerate(chunks)]
