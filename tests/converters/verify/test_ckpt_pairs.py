"""Pairs of arrays: every difference is found and measured, every chunk decoded once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_storage import Memory

from maxmig.converters.compare import pairs, views
from maxmig.converters.compare.gaps import Gap
from maxmig.converters.compare.pairs import Pair
from maxmig.converters.compare.verdicts import Tolerance
from maxmig.converters.compare.views import Reader, View
from maxmig.converters.leaves import Leaf
from maxmig.converters.ops import Concat, MoveAxis, Reshape, Same, Slice, Stack, Take, Then

RNG = np.random.default_rng(11)


def view(storage, op, *names, budget=views.BUDGET):
    reader = storage if isinstance(storage, Reader) else Reader(storage, budget)
    paths = tuple((name,) for name in names)
    return View(op.result([reader.leaf(path) for path in paths]), reader, paths, op)


def one(a, b, **options):
    (line,) = pairs.compare([Pair("x", a, b)], **options)
    return line


@given(data=st.data())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_any_two_chunkings_are_compared_completely(data):
    """Against NumPy on the whole arrays, with and without changes, by boxes or fingerprints."""
    shape = tuple(data.draw(st.lists(st.integers(0, 7), max_size=3)))
    a = RNG.integers(0, 3, size=shape).astype(np.float32)
    b = a.copy()
    for _ in range(data.draw(st.integers(0, 3)) if a.size else 0):
        b[np.unravel_index(data.draw(st.integers(0, a.size - 1)), shape)] += 1
    chunks = [tuple(data.draw(st.integers(1, max(1, n))) for n in shape) for _ in "ab"]
    left, right = (Memory({"x": x}, {"x": c}) for x, c in zip((a, b), chunks, strict=True))
    limit = data.draw(st.sampled_from([0, 64, views.BUDGET]))
    line = one(view(left, Same(), "x"), view(right, Same(), "x"), limit=limit)
    wrong = np.argwhere(a != b)
    assert line.sign == ("*" if len(wrong) else "=")
    assert (line.elements, line.differing) == (a.size, len(wrong))
    if len(wrong):
        assert line.first == tuple(wrong[0]) and line.max_abs == np.abs(a - b).max()


OPS = {
    "same": (Same(), 1, lambda xs: xs[0]),
    "stack": (Stack(1), 3, lambda xs: np.stack(xs, 1)),
    "move": (MoveAxis(0, 2), 1, lambda xs: np.moveaxis(xs[0], 0, 2)),
    "concat": (Concat(1), 3, lambda xs: np.concatenate(xs, 1)),
    "slice": (Slice(1, 2, 4), 1, lambda xs: xs[0][:, 2:4]),
    "take": (Take(1, 2), 1, lambda xs: xs[0][:, 2]),
    "reshape": (Reshape((8, 15)), 1, lambda xs: xs[0].reshape(8, 15)),
    "take, move": (
        Then(Take(0, 3), MoveAxis(0, 1)),
        1,
        lambda xs: np.moveaxis(xs[0][3], 0, 1),
    ),
}


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("chunk", [(4, 5, 6), (1, 5, 2), (3, 2, 4), (1, 1, 1)])
def test_every_operation(kind, chunk):
    op, count, numpy = OPS[kind]
    arrays = [RNG.normal(size=(4, 5, 6)).astype(np.float32) for _ in range(count)]
    made = numpy(arrays)
    source = Memory(dict(zip("abc", arrays, strict=False)), dict.fromkeys("abc"[:count], chunk))
    for at in (None, 0, made.size // 2, made.size - 1):
        other = made.copy()
        if at is not None:
            other.flat[at] += 1
        line = one(view(source, op, *"abc"[:count]), view(Memory({"x": other}), Same(), "x"))
        assert line.elements == made.size
        first = None if at is None else tuple(map(int, np.unravel_index(at, made.shape)))
        assert (line.sign, line.first) == ("=" if at is None else "*", first)


def layers(left, right):
    """A stack of 8 layers against its layers apart."""
    return [
        Pair(str(i), view(left, Take(1, i), "w"), view(right, Same(), str(i))) for i in range(8)
    ]


def layered(chunk, target_chunk, budget=views.BUDGET, **options):
    """What is found, and what is decoded on both sides."""
    whole = RNG.normal(size=(16, 8, 12)).astype(np.float32)
    a = Memory({"w": whole}, {"w": chunk})
    b = Memory(
        {str(i): whole[:, i].copy() for i in range(8)}, {str(i): target_chunk for i in range(8)}
    )
    if "change" in options:
        b.arrays["5",][7, 3] += 1
    left, right = Reader(a, budget), Reader(b, budget)
    todo = [
        Pair(str(i), view(left, Take(1, i), "w"), view(right, Same(), str(i))) for i in range(8)
    ]
    lines = list(pairs.compare(todo, limit=options.get("limit", budget)))
    return {line.path: line for line in lines}, a, b


@pytest.mark.parametrize(
    ("chunk", "target"),
    [((16, 8, 12), (16, 12)), ((4, 8, 12), (16, 12)), ((4, 1, 12), (2, 12)), ((16, 2, 3), (4, 12))],
)
def test_parts_of_one_array_are_walked_together(chunk, target):
    lines, a, b = layered(chunk, target)
    assert [line.sign for line in lines.values()] == ["="] * 8
    assert set(a.decoded.values()) == {1}
    assert set(b.decoded.values()) == {1}


def test_chunks_that_cross_are_compared_by_fingerprint():
    """With a budget below one crossing box, both sides are still decoded once."""
    lines, a, b = layered((4, 8, 12), (16, 3), budget=2048, limit=2048)
    assert [line.sign for line in lines.values()] == ["="] * 8
    assert set(a.decoded.values()) == {1} and set(b.decoded.values()) == {1}
    lines, _, _ = layered((4, 8, 12), (16, 3), budget=2048, limit=2048, change=True)
    assert {path for path, line in lines.items() if line.sign == "*"} == {"5"}
    assert lines["5"].first == (7, 3) and lines["5"].differing == 1


def test_memory_is_bounded_by_the_budget():
    array = RNG.normal(size=(512, 4096)).astype(np.float32)
    a = Memory({"x": array}, {"x": (8, 4096)})
    b = Memory({"x": array}, {"x": (16, 1024)})
    left, right = Reader(a, 1 << 20), Reader(b, 1 << 20)
    line = one(view(left, Same(), "x"), view(right, Same(), "x"), limit=1 << 20)
    assert line.sign == "=" and max(a.largest, b.largest) <= views.PIECE
    assert left._size <= 1 << 20 and right._size <= 1 << 20


def test_a_damaged_chunk_is_named_and_the_rest_compared():
    lines, *_ = layered((16, 1, 12), (16, 12))
    whole = RNG.normal(size=(16, 8, 12)).astype(np.float32)
    a = Memory({"w": whole}, {"w": (16, 1, 12)}, damaged={(("w",), (0, 3, 0))})
    b = Memory({str(i): whole[:, i] for i in range(8)})
    left, right = Reader(a), Reader(b)
    todo = [
        Pair(str(i), view(left, Take(1, i), "w"), view(right, Same(), str(i))) for i in range(8)
    ]
    lines = {line.path: line for line in pairs.compare(todo)}
    assert lines["3"].sign == "!" and "chunk [0, 3, 0] is damaged" in lines["3"].detail
    assert all(line.sign == "=" for path, line in lines.items() if path != "3")


def test_a_sample_says_how_much_was_looked_at():
    array = RNG.normal(size=(4096, 1024)).astype(np.float32)
    other = array.copy()
    other[-1, -1] += 1
    a, b = (Memory({"x": x}, {"x": (64, 1024)}) for x in (array, other))
    line = one(view(a, Same(), "x"), view(b, Same(), "x"), sample=3)
    assert line.sign == "*" and line.first == (4095, 1023)
    assert len(a.decoded) < 64
    same = one(view(a, Same(), "x"), view(a, Same(), "x"), sample=3)
    assert same.sign == "=" and "of 4,194,304 numbers looked at" in same.detail


def test_tolerances_hold_over_boxes():
    a = np.ones((64, 64), np.float32)
    b = a.copy()
    b[3, 3] = np.nextafter(np.float32(1), np.float32(2))
    b[60, 1] = 1 + 4e-7
    sides = [Memory({"x": x}, {"x": (8, 64)}) for x in (a, b)]
    both = [view(side, Same(), "x") for side in sides]
    assert one(*both, tolerance=Tolerance(ulp=3)).sign == "~"
    assert one(*both, tolerance=Tolerance(ulp=2)).sign == "*"
    line = one(*both)
    assert (line.differing, line.max_ulp, line.first) == (2, 3, (3, 3))


def test_the_first_difference_is_that_of_the_whole_array():
    """Though another box with a difference is walked earlier."""
    a = np.zeros((4, 4, 8), np.float32)
    b = a.copy()
    b[2, 0, 0] = b[0, 3, 7] = 1
    stored = Memory({"x": a}, {"x": (4, 1, 8)})
    apart = Memory({str(i): b[:, i].copy() for i in range(4)})
    small = {"budget": 256}  # a layer of 128 bytes at a time
    line = one(view(stored, Same(), "x", **small), view(apart, Stack(1), *"0123", **small))
    assert (line.first, line.differing) == ((0, 3, 7), 2)
    assert Gap(first=(0, 3)) + Gap(first=(0, 2)) == Gap(first=(0, 2))


def test_random_keys_are_counted_by_words():
    words = RNG.integers(0, 2**32, size=(3, 2), dtype=np.uint32)

    class Keys(Memory):
        def tree(self):
            return {("k",): Leaf((3,), "key<threefry2x32>", 24)}

        def grid(self, path):
            import dataclasses

            return dataclasses.replace(super().grid(path), shape=(3,), chunk=(3,), stored=(3,))

        def read(self, path, box=None):
            return self.arrays[path][slice(*(box or ((0, 3),))[0])]

    other = words.copy()
    other[2, 1] ^= 1
    same = one(view(Keys({"k": words}), Same(), "k"), view(Keys({"k": words}), Same(), "k"))
    assert (same.sign, same.elements) == ("=", 6)
    line = one(view(Keys({"k": words}), Same(), "k"), view(Keys({"k": other}), Same(), "k"))
    assert (line.sign, line.first) == ("*", (2, 1))
