"""The operations are NumPy's, box by box, and their inverses lead back."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxmig import errors
from maxmig.converters import boxes, inverses, ops
from maxmig.converters.engine import tasks
from maxmig.converters.leaves import Leaf
from maxmig.converters.ops import Concat, MoveAxis, Reshape, Same, Slice, Stack, Take, Then
from maxmig.converters.transfers import Transfer, shape_of, whole


def leaf_of(array):
    return Leaf(array.shape, array.dtype.name, array.nbytes)


def whole_of(op, arrays):
    """What NumPy makes of whole arrays."""
    match op:
        case Same():
            return arrays[0]
        case Stack(axis):
            return np.stack(arrays, axis)
        case Take(axis, index):
            return np.take(arrays[0], index, axis)
        case MoveAxis(source, target):
            return np.moveaxis(arrays[0], source, target)
        case Concat(axis):
            return np.concatenate(arrays, axis)
        case Slice(axis, start, stop):
            return arrays[0][(slice(None),) * axis + (slice(start, stop),)]
        case Reshape(shape):
            return arrays[0].reshape(shape)
        case Then(first, second):
            return whole_of(second, [whole_of(first, arrays)])
    raise AssertionError(op)


def made(op, arrays, box):
    sources = [leaf_of(array) for array in arrays]
    parts = [
        arrays[place][tuple(slice(*span) for span in part)]
        for place, part in op.parts(box, sources)
    ]
    return op.apply(parts, box, sources)


@st.composite
def cases(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    axis = draw(st.integers(0, len(shape) - 1))
    count = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["same", "stack", "take", "move", "concat", "slice", "reshape"]))
    size = int(np.prod(shape))
    factors = [n for n in range(1, size + 1) if size % n == 0]
    split = draw(st.sampled_from(factors))
    start = draw(st.integers(0, shape[axis] - 1))
    op = {
        "same": Same(),
        "stack": Stack(draw(st.integers(0, len(shape)))),
        "take": Take(axis, start),
        "move": MoveAxis(axis, draw(st.integers(0, len(shape) - 1))),
        "concat": Concat(axis),
        "slice": Slice(axis, start, draw(st.integers(start + 1, shape[axis]))),
        "reshape": Reshape((split, size // split)),
    }[kind]
    number = count if kind in ("stack", "concat") else 1
    if draw(st.booleans()) and kind not in ("reshape",):
        rank = len(whole_of(op, [np.empty(shape)] * number).shape)
        if rank:
            op = Then(op, MoveAxis(0, rank - 1))
    arrays = [np.arange(size).reshape(shape) + 1000 * i for i in range(number)]
    result = whole_of(op, arrays)
    box = []
    for extent in result.shape:
        begin = draw(st.integers(0, extent - 1))
        box.append((begin, draw(st.integers(begin + 1, extent))))
    return op, arrays, result, tuple(box)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_any_box_of_any_operation(case):
    op, arrays, result, box = case
    assert op.result([leaf_of(array) for array in arrays]) == leaf_of(result)
    found = made(op, arrays, box)
    assert found.shape == shape_of(box)
    assert np.array_equal(found, result[tuple(slice(*span) for span in box)])


@settings(max_examples=100, deadline=None)
@given(cases())
def test_inverses_lead_back(case):
    op, arrays, result, _ = case
    inner = op.first if isinstance(op, Then) else op
    if isinstance(inner, Take | Slice):
        return  # one part alone has no way back; the groups below have
    leaves = {(str(i),): leaf_of(array) for i, array in enumerate(arrays)}
    group = [Transfer(("made",), leaf_of(result), tuple(leaves), op)]
    for back in inverses.inverse(group, leaves):
        found = made(back.op, [result], whole(back.leaf))
        assert np.array_equal(found, arrays[int(back.target[0])])


def test_groups_of_parts_lead_back_and_holes_are_refused():
    leaf = Leaf((3, 4), "float32", 48)
    takes = [
        Transfer((f"t{i}",), Take(0, i).result([leaf]), (("a",),), Take(0, i)) for i in range(3)
    ]
    (back,) = inverses.inverse(takes, {("a",): leaf})
    assert back.op == Stack(0) and back.sources == (("t0",), ("t1",), ("t2",))
    edges = [0, 1, 4]
    slices = [
        Transfer((f"s{a}",), Slice(1, a, b).result([leaf]), (("a",),), Slice(1, a, b))
        for a, b in itertools.pairwise(edges)
    ]
    (back,) = inverses.inverse(slices, {("a",): leaf})
    assert back.op == Concat(1) and back.sources == (("s0",), ("s1",))
    for missing in (takes[:2], slices[1:]):
        with pytest.raises(errors.ConvertError, match="there is no way back"):
            inverses.inverse(missing, {("a",): leaf})


@pytest.mark.parametrize(
    ("op", "leaves", "told"),
    [
        (Stack(0), [Leaf((2,), "int32", 8), Leaf((3,), "int32", 12)], "one shape and type"),
        (Stack(3), [Leaf((2,), "int32", 8)], "expected an axis from 0 to 1"),
        (Take(0, 5), [Leaf((2,), "int32", 8)], "expected an index"),
        (Concat(0), [Leaf((2, 2), "int32", 16), Leaf((2, 3), "int32", 24)], "differ in axis 0"),
        (Slice(0, 1, 5), [Leaf((2,), "int32", 8)], "expected a range"),
        (Reshape((3,)), [Leaf((2,), "int32", 8)], "expected 3 elements"),
        (Same(), [], "expected one source"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(op, leaves, told):
    with pytest.raises(errors.ConvertError, match=told):
        op.result(leaves)


def test_empty_parts_join_the_others():
    """An empty one tells no bytes, wherever it stands."""
    empty, full = Leaf((4, 0), "float32", 0), Leaf((4, 10), "float32", 160)
    assert Concat(1).result([empty, full]) == Concat(1).result([full, empty]) == full


@settings(max_examples=300, deadline=None)
@given(cases(), st.data())
def test_what_keeps_the_order(case, told):
    """A box of a source that becomes as large a box of the result is the same run of numbers."""
    op, arrays, result, _ = case
    place = told.draw(st.integers(0, len(arrays) - 1))
    box = tuple(
        (begin, told.draw(st.integers(begin + 1, extent)))
        for extent in arrays[place].shape
        for begin in [told.draw(st.integers(0, extent - 1))]
    )
    image = tasks._image(op, place, box, [leaf_of(array) for array in arrays])
    if not ops.in_order(op) or not image:
        return
    if np.prod(shape_of(image[0])) == np.prod(shape_of(box)):
        before, after = (
            array[tuple(slice(*span) for span in part)].ravel()
            for array, part in ((arrays[place], box), (result, image[0]))
        )
        assert np.array_equal(before, after)


def test_a_moved_axis_does_not_keep_the_order():
    assert ops.in_order(Then(Take(0, 1), Stack(1)))
    assert not ops.in_order(MoveAxis(0, 1))
    assert not ops.in_order(Then(Same(), MoveAxis(0, 1)))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_consecutive(told):
    """Parts follow one another exactly where their numbers, joined, are the box's."""
    shape = tuple(told.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    low = [told.draw(st.integers(0, 5)) for _ in shape]
    box = tuple((a, a + size) for a, size in zip(low, shape, strict=True))
    parts = list(boxes.chunks(box, [told.draw(st.integers(1, 4)) for _ in shape]))
    if told.draw(st.booleans()):
        parts = told.draw(st.permutations(parts))
    numbers = np.arange(np.prod(shape)).reshape(shape)
    found = [
        numbers[tuple(slice(a - at, b - at) for (a, b), at in zip(part, low, strict=True))].ravel()
        for part in parts
    ]
    wanted = np.array_equal(np.concatenate(found), numbers.ravel())
    assert boxes.consecutive(box, parts) is wanted


def test_parts_in_another_order_are_not_consecutive():
    parts = [((0, 1),), ((1, 2),), ((2, 3),), ((3, 4),)]
    assert boxes.consecutive(((0, 4),), parts)
    assert not boxes.consecutive(((0, 4),), [parts[0], parts[2], parts[1], parts[3]])
    assert not boxes.consecutive(((0, 4),), parts[:3])
