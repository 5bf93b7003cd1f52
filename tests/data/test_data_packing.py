"""Properties of packed and unpacked rows, for documents of any length."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxmig import data
from maxmig.data import packing

LENGTHS = st.lists(st.integers(0, 70), min_size=0, max_size=40)
ROOM = st.integers(1, 24)


def corpus(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Documents whose tokens are all different: a token tells its document and place."""
    ends = np.cumsum([0, *lengths])
    return np.arange(1, ends[-1] + 1), np.stack([ends[:-1], ends[1:]], axis=1)


def all_rows(lengths: list[int], room: int, *, packed: bool) -> tuple[packing.Rows, packing.Batch]:
    rows = packing.Rows(*corpus(lengths), room, packed=packed)
    return rows, rows.batch(range(rows.num_rows))


@given(LENGTHS, ROOM, st.booleans())
def test_each_token_is_a_target_once(lengths: list[int], room: int, packed: bool) -> None:
    rows, batch = all_rows(lengths, room, packed=packed)
    counted = batch["targets"][batch["targets_segmentation"] != 0]
    _, spans = corpus(lengths)
    # Token number i (from 1) is at place i - 1; a document's first token has nothing before it.
    expected = [i + 1 for start, end in spans.tolist() for i in range(start + 1, end)]
    assert Counter(counted.tolist()) == Counter(expected)
    assert rows.num_targets == len(expected)


@given(LENGTHS, ROOM, st.booleans())
def test_target_follows_input_in_the_same_document(
    lengths: list[int], room: int, packed: bool
) -> None:
    _, batch = all_rows(lengths, room, packed=packed)
    real = batch["inputs_segmentation"] != 0
    assert (batch["targets"][real] == batch["inputs"][real] + 1).all()
    _, spans = corpus(lengths)
    last = {end for start, end in spans.tolist() if end > start}
    assert not last & set(batch["inputs"][real].tolist())


@given(LENGTHS, ROOM, st.booleans())
def test_a_segment_is_one_run_of_one_document(lengths: list[int], room: int, packed: bool) -> None:
    _, batch = all_rows(lengths, room, packed=packed)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    for row in range(len(batch["inputs"])):
        segments = batch["inputs_segmentation"][row]
        used = segments[segments != 0]
        # From 1, without a hole, in order, padding at the end only.
        assert (np.diff(used) >= 0).all() and set(used) == set(range(1, used.max() + 1))
        assert (segments[len(used) :] == 0).all()
        for segment in set(used.tolist()):
            here = segments == segment
            tokens = batch["inputs"][row, here]
            assert (np.diff(tokens) == 1).all()
            assert len({owner[token - 1] for token in tokens}) == 1
            assert (batch["inputs_position"][row, here] == np.arange(here.sum())).all()
        if not packed:
            assert set(used) == {1}


@given(LENGTHS, ROOM, st.booleans())
def test_padding_is_zero_and_shapes_are_fixed(lengths: list[int], room: int, packed: bool) -> None:
    rows, batch = all_rows(lengths, room, packed=packed)
    assert tuple(batch) == data.KEYS
    empty = batch["inputs_segmentation"] == 0
    assert (batch["targets_segmentation"] == batch["inputs_segmentation"]).all()
    for array in batch.values():
        assert array.dtype == np.int32
        assert array.shape == (rows.num_rows, room)
        assert not array[empty].any()
    assert (batch["targets_position"][~empty] == batch["inputs_position"][~empty] + 1).all()


@given(LENGTHS, ROOM)
def test_packing_wastes_less_than_half(lengths: list[int], room: int) -> None:
    rows, batch = all_rows(lengths, room, packed=True)
    filled = (batch["inputs_segmentation"] != 0).sum(axis=1)
    # Best fit leaves no two rows whose content would fit in one.
    assert rows.num_rows < 2 or sum(sorted(filled)[:2]) > room
    apart, _ = all_rows(lengths, room, packed=False)
    assert rows.num_rows <= apart.num_rows


def test_best_fit_takes_the_tightest_row() -> None:
    # 6 leaves 4 and 7 leaves 3: 3 goes to the 7, 4 to the 6.
    assert packing.plan(np.array([3, 6, 7, 4]), 10, packed=True) == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("tokens", "pieces"),
    [
        (0, []),
        (1, []),
        (2, [(0, 1)]),
        (9, [(0, 8)]),
        (10, [(0, 8), (8, 1)]),
        (17, [(0, 8), (8, 8)]),
    ],
)
def test_pieces_of_a_long_document(tokens: int, pieces: list[tuple[int, int]]) -> None:
    starts, sizes = packing.pieces(np.array([[0, tokens]]), 8)
    assert list(zip(starts.tolist(), sizes.tolist(), strict=True)) == pieces


def test_rows_past_the_end_are_empty() -> None:
    rows = packing.Rows(*corpus([5]), 4, packed=True)
    batch = rows.batch([0, 1, 7])
    assert not any(array[1:].any() for array in batch.values())
