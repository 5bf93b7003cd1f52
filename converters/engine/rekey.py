"""Operations on whole stored values: which of them make up a result, and under which keys.

A value can be used as it is where its bytes are the same in the result: an extent of 1 does not
change the order of the numbers, so layers are stacked and taken apart where a value holds one.
"""

from collections.abc import Sequence
from typing import Any

from maxmig.converters import ops, transfers
from maxmig.converters.storage import zarr

Index = tuple[int, ...]
Offsets = tuple[Any, ...]
"""Of `Concat` and `Slice` the values at which parts begin; of composed operations those of each."""
NONE: Offsets = ()
Rekeyed = tuple[zarr.Array | None, str, Offsets]


def rekeyed(op: transfers.Op, arrays: Sequence[zarr.Array]) -> Rekeyed:
    """The result's array if its values are those of the sources under other keys: with the offsets
    that `origin` needs; else None and the reason.
    """
    first = arrays[0]
    shape, stored, inner = first.shape, first.stored, first.inner
    match op:
        case ops.Stack(axis):
            if any((a.shape, a.stored, a.inner) != (shape, stored, inner) for a in arrays):
                return None, "the layers have different chunks", ()
            sizes = (_put(shape, axis, len(arrays)), _put(stored, axis, 1), _put(inner, axis, 1))
            return first.reshaped(*sizes), "", ()
        case ops.Take(axis, _):
            if stored[axis] != 1:
                return None, f"a chunk holds {stored[axis]} layers", ()
            return first.reshaped(*(_drop(s, axis) for s in (shape, stored, inner))), "", ()
        case ops.MoveAxis(source, target):
            low, high = sorted((source, target))
            between = [stored[axis] for axis in range(low, high + 1) if axis != source]
            if stored[source] != 1 and set(between) != {1}:
                return None, f"a chunk holds {stored[source]} layers", ()
            return (
                first.reshaped(*(_move(s, source, target) for s in (shape, stored, inner))),
                "",
                (),
            )
        case ops.Concat(axis):
            if any((a.stored, a.inner) != (stored, inner) for a in arrays):
                return None, "the parts have different chunks", ()
            if any(each.shape[axis] % stored[axis] for each in arrays[:-1]):
                return None, "the parts do not end where chunks end", ()
            starts = [0]
            for each in arrays:
                starts.append(starts[-1] + each.shape[axis])
            whole = (*shape[:axis], starts[-1], *shape[axis + 1 :])
            offsets = tuple(start // stored[axis] for start in starts[:-1])
            return first.reshaped(whole, stored, inner), "", offsets
        case ops.Slice(axis, start, stop):
            if start % stored[axis] or (stop % stored[axis] and stop != shape[axis]):
                return None, "the part does not begin and end where chunks do", ()
            part = (*shape[:axis], stop - start, *shape[axis + 1 :])
            return first.reshaped(part, stored, inner), "", (start // stored[axis],)
        case ops.Words() | ops.Keys() | ops.Same():
            return first, "", ()
        case ops.Then(one, other):
            array, why, inner = rekeyed(one, arrays)
            if array is None:
                return None, why, ()
            array, why, outer = rekeyed(other, [array])
            return array, why, (inner, outer)
        case ops.Join(firsts, _, second):
            found = [rekeyed(each, op.run(place, arrays)) for place, each in enumerate(firsts)]
            made = [array for array, _, _ in found if array is not None]
            if len(made) < len(found):
                return None, next(why for array, why, _ in found if array is None), ()
            array, why, outer = rekeyed(second, made)
            return array, why, (tuple(offsets for _, _, offsets in found), outer)
    return None, "the order of the numbers changes", ()


def origin(op: transfers.Op, index: Index, offsets: Offsets) -> tuple[int, Index]:
    """Where the value at a place of the result is: the number of the source, the place there."""
    match op:
        case ops.Stack(axis):
            return index[axis], _drop(index, axis)
        case ops.Take(axis, layer):
            return 0, _put(index, axis, layer)
        case ops.MoveAxis(source, target):
            return 0, _move(index, target, source)
        case ops.Concat(axis):
            part = max(place for place, start in enumerate(offsets) if start <= index[axis])
            at = index[axis] - offsets[part]
            return part, (*index[:axis], at, *index[axis + 1 :])
        case ops.Slice(axis, _, _):
            return 0, (*index[:axis], index[axis] + offsets[0], *index[axis + 1 :])
        case ops.Then(one, other):
            _, middle = origin(other, index, offsets[1])
            return origin(one, middle, offsets[0])
        case ops.Join(firsts, counts, second):
            place, middle = origin(second, index, offsets[1])
            number, found = origin(firsts[place], middle, offsets[0][place])
            return sum(counts[:place]) + number, found
    return 0, index


def image(op: transfers.Op, chunk: Index, number: int) -> Index | None:
    """What becomes of a chunk of one source in the result; None where that is no box."""
    match op:
        case ops.Same() | ops.Concat() | ops.Slice():
            return chunk
        case ops.Stack(axis):
            return _put(chunk, axis, 1)
        case ops.Take(axis, _):
            return _drop(chunk, axis)
        case ops.MoveAxis(source, target):
            return _move(chunk, source, target)
        case ops.Then(one, other):
            middle = image(one, chunk, number)
            return None if middle is None else image(other, middle, 0)
        case ops.Join(firsts, _, second):
            place, own = op.whose(number)
            middle = image(firsts[place], chunk, own)
            return None if middle is None else image(second, middle, place)
    return None


def _put(items: Index, axis: int, item: int) -> Index:
    return (*items[:axis], item, *items[axis:])


def _drop(items: Index, axis: int) -> Index:
    return (*items[:axis], *items[axis + 1 :])


def _move(items: Index, source: int, target: int) -> Index:
    rest = list(_drop(items, source))
    rest.insert(target, items[source])
    return tuple(rest)
