"""Numbers and types that have no place in the result are refused by name."""

import ml_dtypes
import numpy as np
import pytest
from engine_cases import contents, convert, renamed, save
from flax import serialization

from maxmig import errors
from maxmig.converters import ops, storage
from maxmig.converters.leaves import Leaf
from maxmig.converters.transfers import Transfer


@pytest.mark.parametrize(
    ("number", "dtype", "to"),
    [
        (1e6, "float32", "float16"),
        (3.4e38, "float32", "bfloat16"),
        (1e300, "float64", "float32"),
        (1e4, "float32", "float8_e4m3fn"),
        (70000, "int32", "float16"),
    ],
)
def test_a_number_that_would_become_infinite(number, dtype, to, tmp_path):
    """It is refused and named, and its neighbour below is not."""
    weights = np.full((3, 4), 2, dtype)
    save(tmp_path / "good", {"w": weights})
    weights[1, 2] = number
    save(tmp_path / "bad", {"w": weights})

    def narrower(name):
        source = storage.open(tmp_path / name)
        leaf = Leaf((3, 4), to, 12 * np.dtype(to).itemsize)
        cast = Transfer(("w",), leaf, (("w",),), ops.Same(), cast=True)
        return convert(renamed(source, transfers=[cast]), tmp_path / f"{name} result")

    narrower("good")
    assert contents(tmp_path / "good result")[("w",)][1] == np.full((3, 4), 2, to).tobytes()
    with pytest.raises(errors.ConvertError, match=rf"w: the number .* does not fit {to}"):
        narrower("bad")
    assert not (tmp_path / "bad result").exists()


def test_types_that_orbax_cannot_hold(tmp_path):
    weights = {"w": np.ones((2, 2), ml_dtypes.uint4), "b": np.ones(2, ml_dtypes.int4)}
    (tmp_path / "both.msgpack").write_bytes(serialization.to_bytes(weights))
    source = storage.open(tmp_path / "both.msgpack")
    with pytest.raises(errors.ConvertError, match=r"moved/w.*cannot hold uint4"):
        convert(renamed(source), tmp_path / "result")
    assert not (tmp_path / "result").exists()
    convert(renamed(source, skip=[("w",)]), tmp_path / "result")
    assert contents(tmp_path / "result").keys() == {("moved", "b")}
