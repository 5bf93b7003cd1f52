"""Batches by index: which rows are in a batch, for any epoch, shuffle and host."""

from __future__ import annotations

import copy
import hashlib

import numpy as np

from maxmig.data import packing

# Grain asks for a length; no run comes near.
_ENDLESS = 2**48


class Batches:
    """A random access source for Grain: `len(batches)` and `batches[i]`.

    Attributes:
        rows: The rows that batches are made of.
        global_batch: Rows of a batch over all hosts.
    """

    def __init__(
        self,
        rows: packing.Rows,
        *,
        global_batch: int,
        shard: tuple[int, int],
        shuffle_seed: int | None,
        repeat: bool,
    ):
        """Describes the batches.

        Args:
            rows: All rows of the split.
            global_batch: Rows of a batch over all hosts.
            shard: (index, count) of the host: it makes a contiguous part of each batch.
            shuffle_seed: Seed of the order of rows, which differs in each epoch; None keeps theirs.
            repeat: True goes on for ever, and a batch may hold the end of an epoch and the start of
                the next; False ends with the rows, and fills the last batch with empty ones.
        """
        index, count = shard
        self.rows = rows
        self.global_batch = global_batch
        self._local = global_batch // count
        self._skip = index * self._local
        self._seed = shuffle_seed
        self._repeat = repeat
        self._start = 0
        self._orders: dict[int, np.ndarray] = {}

    def starting_at(self, row: int) -> Batches:
        """The batches that follow when `row` rows have been given out."""
        moved = copy.copy(self)
        moved._start = row
        return moved

    def __len__(self) -> int:
        if self._repeat:
            return _ENDLESS
        return max(-(-(self.rows.num_rows - self._start) // self.global_batch), 0)

    def __getitem__(self, index: int) -> packing.Batch:
        first = self._start + index * self.global_batch + self._skip
        places = range(first, first + self._local)
        return self.rows.batch([self._row(place) for place in places] if self._repeat else places)

    def _row(self, place: int) -> int:
        epoch, row = divmod(place, self.rows.num_rows)
        return row if self._seed is None else int(self._order(epoch)[row])

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # A batch can touch the epoch before; older ones are not needed again.
            self._orders = {k: v for k, v in self._orders.items() if k == epoch - 1}
            text = f"maxmig data {self._seed} {epoch}"
            seed = np.frombuffer(hashlib.blake2b(text.encode()).digest(), "<u4")
            # RandomState, unlike Generator, promises the same stream in each version of NumPy.
            self._orders[epoch] = np.random.RandomState(seed).permutation(self.rows.num_rows)
        return self._orders[epoch]
