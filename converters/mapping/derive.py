"""Random state that no checkpoint holds: a function of (seed, path, step), so always the same.

Two resumes at one step draw alike, two at different steps do not.
"""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from maxmig.converters.leaves import KEY_WORDS, Leaf

if TYPE_CHECKING:
    import numpy as np

WORDS = {**KEY_WORDS, "raw": 2}


def key_leaf(impl: str, shape: tuple[int, ...]) -> Leaf:
    """A key's leaf: typed, or plain words for `raw`."""
    size = 1
    for length in shape:
        size *= length
    if impl == "raw":
        return Leaf((*shape, 2), "uint32", 8 * size)
    return Leaf(shape, f"key<{impl}>", 4 * WORDS[impl] * size)


def maker(path: str, leaf: Leaf, seed: int, step: int) -> "Callable[[], np.ndarray]":
    """Makes a random leaf: words for a key, zeros for a counter."""

    def make() -> "np.ndarray":
        import numpy as np

        if not leaf.is_key and path.rpartition("/")[2] != "key":
            return np.zeros(leaf.shape, leaf.dtype)
        shape = leaf.stored
        count = int(np.prod(shape, dtype=np.int64))
        stream = b"".join(
            hashlib.sha256(f"{seed}/{path}/{step}/{block}".encode()).digest()
            for block in range(count // 8 + 1)
        )
        return np.frombuffer(stream, "<u4", count).astype(np.uint32).reshape(shape)

    return make


def zeros(leaf: Leaf) -> "Callable[[], np.ndarray]":
    """Makes zeros."""

    def make() -> "np.ndarray":
        import ml_dtypes  # noqa: F401  (registers the names)
        import numpy as np

        return np.zeros(leaf.shape, np.dtype(leaf.dtype))

    return make
