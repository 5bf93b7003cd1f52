"""The way back of operations: from the arrays of a result to those that they were made of."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

from maxmig import errors
from maxmig.converters.leaves import DiskPath, Leaf, spell
from maxmig.converters.ops import (
    Concat,
    Join,
    Keys,
    MoveAxis,
    Reshape,
    Same,
    Slice,
    Stack,
    Take,
    Then,
    Words,
)
from maxmig.converters.transfers import Op, Transfer


def inverse(group: Iterable[Transfer], leaves: Mapping[DiskPath, Leaf]) -> tuple[Transfer, ...]:
    """The transfers that lead back: from the results of a group to its sources.

    Args:
        group: transfers; all that take parts of one source must be among them.
        leaves: the sources' leaves, by path.

    Raises:
        ConvertError: some part of a source is in no result, so that there is no way back.
    """
    back: dict[DiskPath, Transfer] = {}
    pieces: dict[DiskPath, list[Transfer]] = {}
    for transfer in group:
        if _is_part(transfer.op):
            pieces.setdefault(transfer.sources[0], []).append(transfer)
            continue
        stored = [leaves[path] for path in transfer.sources]
        for path, op in zip(transfer.sources, _undo(transfer, stored), strict=True):
            made = Transfer(path, leaves[path], (transfer.target,), op, transfer.cast)
            back.setdefault(path, made)
    for path, parts in pieces.items():
        if path not in back:
            back[path] = _together(path, leaves[path], parts)
    return tuple(back.values())


def _undo(transfer: Transfer, sources: Sequence[Leaf]) -> list[Op]:
    """For each source, the operation that gets it back from the result."""
    match transfer.op:
        case Same():
            return [Same()]
        case MoveAxis(source, target):
            return [MoveAxis(target, source)]
        case Reshape():
            return [Reshape(sources[0].shape)]
        case Words():
            return [Keys(str(sources[0].impl))]
        case Keys():
            return [Words()]
        case Stack(axis):
            return [Take(axis, index) for index in range(len(sources))]
        case Concat(axis):
            ends = [0]
            for each in sources:
                ends.append(ends[-1] + each.shape[axis])
            return [Slice(axis, a, b) for a, b in itertools.pairwise(ends)]
        case Then(first, second):
            middle = first.result(sources)
            (undone,) = _undo(_with(transfer, second), [middle])
            return [_then(undone, op) for op in _undo(_with(transfer, first), sources)]
        case Join(firsts, _, second):
            middles = [
                op.result(transfer.op.run(place, sources)) for place, op in enumerate(firsts)
            ]
            found: list[Op] = []
            for place, undone in enumerate(_undo(_with(transfer, second), middles)):
                run = transfer.op.run(place, sources)
                found += [_then(undone, op) for op in _undo(_with(transfer, firsts[place]), run)]
            return found
    raise errors.ConvertError(
        f"{spell(transfer.target)}: {transfer.op} has no inverse of its own: it drops a part"
    )


def _with(transfer: Transfer, op: Op) -> Transfer:
    """The same by another operation, for messages."""
    return Transfer(transfer.target, transfer.leaf, transfer.sources, op)


def _then(first: Op, second: Op) -> Op:
    if isinstance(first, Same) or isinstance(second, Same):
        return second if isinstance(first, Same) else first
    return Then(first, second)


def _is_part(op: Op) -> bool:
    """Whether an operation leaves some of its source to others."""
    return isinstance(op, Take | Slice) or (isinstance(op, Then) and _is_part(op.first))


def _together(path: DiskPath, leaf: Leaf, parts: Sequence[Transfer]) -> Transfer:
    """The source of some takes or slices, put together again, on any number of levels."""
    cast = any(part.cast for part in parts)
    first: dict[Op, list[Transfer]] = {}
    for part in parts:
        op, rest = (part.op.first, part.op.second) if isinstance(part.op, Then) else (part.op, None)
        first.setdefault(op, []).append(_with(part, rest or Same()))
    made: dict[Op, Transfer] = {}
    for op, group in first.items():
        middle = op.result([leaf])
        if _is_part(group[0].op):
            made[op] = _together(path, middle, group)
        else:
            (undone,) = _undo(group[0], [middle])
            made[op] = Transfer(path, middle, (group[0].target,), undone)
    return Transfer(path, leaf, *_joined(path, leaf, made, len(parts)), cast)


def _joined(
    path: DiskPath, leaf: Leaf, made: Mapping[Op, Transfer], count: int
) -> tuple[tuple[DiskPath, ...], Op]:
    axes = {op.axis for op in made if isinstance(op, Take | Slice)}
    takes = {op.index: each for op, each in made.items() if isinstance(op, Take)}
    slices = {op.start: (op, each) for op, each in made.items() if isinstance(op, Slice)}
    axis, end, order = next(iter(axes)), 0, []
    if len(axes) == 1 and len(takes) == len(made) == leaf.shape[axis]:
        return _over([takes[index] for index in range(len(takes))], Stack(axis))
    while (found := slices.get(end)) is not None:
        order.append(found[1])
        end = found[0].stop
        if found[0].start == end:
            break
    if len(axes) == 1 and not takes and order and end == leaf.shape[axis]:
        return _over(order, Concat(axis))
    raise errors.ConvertError(
        f"{spell(path)}: its {count} parts do not make up {leaf}: there is no way back"
    )


def _over(parts: Sequence[Transfer], op: Op) -> tuple[tuple[DiskPath, ...], Op]:
    """An operation on the results of others."""
    sources = tuple(itertools.chain.from_iterable(part.sources for part in parts))
    if all(isinstance(part.op, Same) for part in parts):
        return sources, op
    counts = tuple(len(part.sources) for part in parts)
    return sources, Join(tuple(part.op for part in parts), counts, op)
