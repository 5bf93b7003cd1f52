"""Casts of arrays: NumPy's, and refused where a number would be lost.

float32 becomes bfloat16 to nearest, ties to even, with the bits of `astype` of ml_dtypes. That one
holds the interpreter, so that one thread at a time could cast; this one works on blocks that stay
in a core's own cache, and lets other threads run.
"""

from typing import TYPE_CHECKING

from maxmig import errors
from maxmig.converters.leaves import STRING, Leaf, encoded

if TYPE_CHECKING:
    import numpy as np

    from maxmig.converters.transfers import Box

BLOCK = 1 << 17  # numbers
_WIDER = {"float16": "bfloat16 or float32", "float32": "float64"}
_LARGEST = float.fromhex("0x1.fefffep127")  # the largest float32 that is not rounded to infinity


def cast(array: "np.ndarray", leaf: Leaf, where: str) -> "np.ndarray":
    """The array in the type of a leaf: NumPy's cast.

    Raises:
        ConvertError: an integer would be another one, or a number become infinite.
    """
    import numpy as np

    dtype = numpy_dtype(leaf.dtype)
    if array.dtype == dtype:
        return array
    try:
        if array.dtype == np.float32 and leaf.dtype == "bfloat16":
            return narrowed(array)
        with np.errstate(over="ignore", invalid="ignore"):
            made = array.astype(dtype)
        check(array, made)
    except OverflowError as error:
        raise too_large(error, leaf, where) from error
    whole = np.issubdtype(array.dtype, np.integer) and np.issubdtype(dtype, np.integer)
    if whole and not np.array_equal(made.astype(object), array.astype(object)):
        raise errors.ConvertError(
            f"{where}: a number does not fit {leaf.dtype} (stored as {array.dtype}); "
            "integers are never wrapped around"
        )
    return made


def put(made: "np.ndarray", block: "np.ndarray", leaf: Leaf, where: str) -> None:
    """Casts one block into its place; raises as `cast`."""
    import numpy as np

    if block.dtype != np.float32 or leaf.dtype != "bfloat16":
        made[:] = cast(block, leaf, where)
        return
    try:
        into(made, block, np.empty(block.shape, np.uint32))
    except OverflowError as error:
        raise too_large(error, leaf, where) from error


def too_large(error: OverflowError, leaf: Leaf, where: str) -> errors.ConvertError:
    """What a user is told of a number that would become infinite."""
    wider = _WIDER.get(leaf.dtype, "float32")
    return errors.ConvertError(
        f"{where}: the number {error} does not fit {leaf.dtype}: it would become infinite; choose "
        f"a wider type for it (`--dtype`), such as {wider}"
    )


def numpy_dtype(name: str) -> "np.dtype":
    """The NumPy type of a leaf's dtype name: bfloat16 and its kin too; uint32 for random keys,
    uint8 for the bytes of strings.
    """
    import ml_dtypes  # noqa: F401  (registers the names)
    import numpy as np

    if name == STRING:
        return np.dtype("uint8")
    return np.dtype("uint32") if name.startswith("key<") else np.dtype(name)


def letters(text: str, box: "Box | None" = None) -> "np.ndarray":
    """The bytes of a string, or of a part of it, as an array."""
    import numpy as np

    found = np.asarray(bytearray(encoded(text)), np.uint8)
    return found if box is None else found[slice(*box[0])]


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
