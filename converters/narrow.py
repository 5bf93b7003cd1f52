"""float32 as bfloat16, to nearest, ties to even: the bits of `astype` of ml_dtypes.

That one holds the interpreter, so that one thread at a time could cast; this one works on blocks
that stay in a core's own cache, and lets other threads run.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BLOCK = 1 << 17  # numbers
_LARGEST = float.fromhex("0x1.fefffep127")  # the largest float32 that is not rounded to infinity


def narrowed(array: "np.ndarray") -> "np.ndarray":
    """A float32 array as bfloat16.

    Raises:
        OverflowError: a number would become infinite.
    """
    import ml_dtypes
    import numpy as np

    flat = np.ascontiguousarray(array).reshape(-1)
    made = np.empty(flat.shape, ml_dtypes.bfloat16)
    room = np.empty(min(BLOCK, flat.size), np.uint32)
    for start in range(0, flat.size, BLOCK):
        into(made[start : start + BLOCK], flat[start : start + BLOCK], room)
    return made.reshape(array.shape)


def into(made: "np.ndarray", block: "np.ndarray", room: "np.ndarray") -> None:
    """Casts one block.

    Of a number that is not NaN, half of the last bit that is kept is added, less one unless the
    kept part is odd; the upper half of the sum is the rounded number. A carry goes into the
    exponent, as it should.

    Args:
        made: bfloat16, of the block's size.
        block: float32.
        room: uint32, at least of the block's size.

    Raises:
        OverflowError: a number would become infinite.
    """
    import ml_dtypes
    import numpy as np

    bits, sums = block.view(np.uint32), room[: block.size]
    sizes = np.bitwise_and(bits, 0x7FFFFFFF, out=sums).view(np.float32)
    if block.size and not sizes.max() <= _LARGEST:  # NaN is not either
        with np.errstate(invalid="ignore"):
            made[:] = block.astype(ml_dtypes.bfloat16)
        check(block, made)
        return
    np.right_shift(bits, 16, out=sums)
    np.bitwise_and(sums, 1, out=sums)
    np.add(sums, 0x7FFF, out=sums)
    np.add(sums, bits, out=sums)
    np.right_shift(sums, 16, out=sums)
    made.view(np.uint16)[:] = sums


def check(array: "np.ndarray", made: "np.ndarray") -> None:
    """Refuses a cast by which a number became infinite, or no number at all.

    Raises:
        OverflowError: tells the first one.
    """
    import numpy as np

    if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
        lost = ~np.isfinite(made)
    else:
        lost = np.isfinite(array) & ~np.isfinite(made)
    if lost.any():
        raise OverflowError(str(array[lost].flat[0]))
