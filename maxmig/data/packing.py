"""Rows of a fixed length from documents of any length.

A document is cut in pieces of at most S+1 tokens that overlap by one: S inputs and the S tokens
that follow them. So each token but a document's first is a target exactly once, and no target
crosses a border of documents. A piece starts again at position 0. Packing puts several short
pieces in one row, each with its own segment id from 1; without packing each piece has its own row.

Rows are planned once and read by index. Grain's packers work on a stream, where the rows depend on
how many workers there are and a resume has to read again what was buffered; an index is exact.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maxmig import data

Batch = dict[str, np.ndarray]


def pieces(spans: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts documents in pieces.

    Args:
        spans: (start, end) of each document, int64 [documents, 2].
        length: Inputs of a row (S).

    Returns:
        The index of each piece's first token and how many targets it has (1 to S).
    """
    targets = np.maximum(spans[:, 1] - spans[:, 0] - 1, 0)
    counts = -(-targets // length)
    document = np.repeat(np.arange(len(spans)), counts)
    first = np.cumsum(counts) - counts
    offset = (np.arange(len(document)) - first[document]) * length
    return spans[document, 0] + offset, np.minimum(targets[document] - offset, length)


def plan(sizes: np.ndarray, length: int, *, packed: bool) -> list[list[int]]:
    """Says which pieces share a row: best fit, largest first; rows in the order of the corpus.

    Args:
        sizes: Targets of each piece, 1 to `length`.
        length: Room in a row.
        packed: False gives each piece a row of its own.
    """
    if not packed:
        return [[piece] for piece in range(len(sizes))]
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # Room that is left -> rows that have exactly that.
    rooms: list[int] = []  # The keys of open_rows, sorted.
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        at = bisect.bisect_left(rooms, size)
        if at == len(rooms):
            row, room = len(rows), length
            rows.append([])
        else:
            room = rooms[at]
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room], rooms[at]
        rows[row].append(piece)
        if room > size:
            if room - size not in open_rows:
                open_rows[room - size] = []
                bisect.insort(rooms, room - size)
            open_rows[room - size].append(row)
    return sorted(sorted(row) for row in rows)


class Rows:
    """All rows of a corpus, by index.

    Attributes:
        num_rows: How many there are.
        num_targets: Targets in all of them.
    """

    def __init__(self, tokens: np.ndarray, spans: np.ndarray, length: int, *, packed: bool):
        self._tokens = tokens
        self._length = length
        self._starts, self._sizes = pieces(spans, length)
        grouped = plan(self._sizes, length, packed=packed)
        self._order = np.asarray([piece for row in grouped for piece in row], np.int64)
        self._borders = np.cumsum([0, *map(len, grouped)])
        self._shared: Path | None = None
        self.num_rows = len(grouped)
        self.num_targets = int(self._sizes.sum())

    def batch(self, indices: Sequence[int]) -> Batch:
        """The rows of some indices, int32 [rows, length]; past the last row they are empty."""
        batch = {key: np.zeros((len(indices), self._length), np.int32) for key in data.KEYS}
        for row, index in enumerate(indices):
            if index < self.num_rows:
                self._fill(batch, row, index)
        batch["targets_segmentation"][:] = batch["inputs_segmentation"]
        return batch

    def share(self, path: Path) -> None:
        """Keeps the tokens in a file, which worker processes map instead of copying them."""
        np.save(path, self._tokens)
        self._shared = path
        self._tokens = np.load(path, mmap_mode="r")

    def _fill(self, batch: Batch, row: int, index: int) -> None:
        at = 0
        chosen = self._order[self._borders[index] : self._borders[index + 1]].tolist()
        for number, piece in enumerate(chosen, 1):
            start, size = int(self._starts[piece]), int(self._sizes[piece])
            end = at + size
            batch["inputs"][row, at:end] = self._tokens[start : start + size]
            batch["targets"][row, at:end] = self._tokens[start + 1 : start + size + 1]
            batch["inputs_position"][row, at:end] = np.arange(size)
            batch["targets_position"][row, at:end] = np.arange(1, size + 1)
            batch["inputs_segmentation"][row, at:end] = number
            at = end

    def __getstate__(self) -> dict:
        state = dict(self.__dict__)
        if self._shared is not None:
            del state["_tokens"]
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self._shared is not None:
            self._tokens = np.load(self._shared, mmap_mode="r")
