"""A storage in memory that counts what is decoded."""

import math
from collections import Counter

import numpy as np

from maxmig import errors
from maxmig.converters.leaves import Leaf
from maxmig.converters.storage.base import Grid


class Memory:
    """Arrays with a chunk shape each; a chunk counts as decoded whenever a box touches it."""

    url = "memory"

    def __init__(self, arrays, chunks=None, damaged=()):
        self.arrays = {
            path if isinstance(path, tuple) else (path,): array for path, array in arrays.items()
        }
        self.chunks = {
            path if isinstance(path, tuple) else (path,): chunk
            for path, chunk in (chunks or {}).items()
        }
        self.damaged = set(damaged)
        self.decoded = Counter()
        self.largest = 0

    def tree(self):
        return {
            path: Leaf(array.shape, array.dtype.name, array.nbytes)
            for path, array in self.arrays.items()
        }

    def grid(self, path):
        array = self.arrays[path]
        chunk = self.chunks.get(path, tuple(max(1, size) for size in array.shape))
        nbytes = math.prod(chunk) * array.dtype.itemsize
        return Grid(array.shape, chunk, chunk, "plain", nbytes)

    def read(self, path, box=None):
        array = self.arrays[path]
        box = box if box is not None else tuple((0, size) for size in array.shape)
        for part in self.grid(path).boxes(box):
            sizes = zip(part, self.grid(path).chunk, strict=True)
            index = tuple(start // size for (start, _), size in sizes)
            if (path, index) in self.damaged:
                raise errors.CheckpointError(f"{path}: chunk {list(index)} is damaged")
            self.decoded[path, index] += 1
        self.largest = max(self.largest, math.prod(b - a for a, b in box) * array.dtype.itemsize)
        return np.array(array[tuple(slice(*span) for span in box)])
