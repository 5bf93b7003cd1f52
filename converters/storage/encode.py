"""Encodes single values of Zarr arrays in the forms that Orbax writes.

TensorStore encodes every form, but copies the numbers on the way, and so do its answers to reads.
"""

from typing import TYPE_CHECKING

from maxmig.converters.storage import forms, zarr

if TYPE_CHECKING:
    import numpy as np


def encode(array: zarr.Array, data: "np.ndarray") -> bytes:
    """The stored value of a box that `forms.fills` it; the rest of it is padding.

    Args:
        array: its metadata; its values are `forms.encodable`.
        data: the numbers of the box, contiguous.
    """
    import numpy as np
    import zstandard

    form = forms.of(array)
    assert form is not None
    numbers = data.reshape(-1).view(np.uint8)
    if missing := zarr.nbytes(array.stored, array.dtype) - numbers.size:
        numbers = np.concatenate([numbers, np.zeros(missing, np.uint8)])
    if form.level is None:
        value = numbers.tobytes()
    else:
        compressor = zstandard.ZstdCompressor(form.level, write_checksum=form.checksum)
        value = compressor.compress(numbers.data)
    return value + forms.index(len(value)) if form.sharded else value
