"""Values that are encoded here: TensorStore reads the same numbers; others it encodes."""

import itertools
import json

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
import zstandard
from hypothesis import given, settings
from test_engine_decode import CODECS, DTYPES, sharded

from maxmig import errors
from maxmig.converters.engine import check, target
from maxmig.converters.storage import decode, encode, forms, zarr

ENCODED = {
    "plain": CODECS["plain"],
    "zstd": CODECS["zstd"],
    "checksum": CODECS["checksum"],
    "sharded": sharded(CODECS["zstd"], (3, 4)),
    "plain shard": sharded(CODECS["plain"], (3, 4)),
}


def made(version, shape, chunk, dtype, how):
    document = zarr.new(version, shape, dtype, chunk).document | how
    return zarr.parse(version, json.dumps(document).encode(), "here")


def read(array, values):
    """The numbers of an array as TensorStore reads them."""
    store = ts.KvStore.open("memory://").result()
    store[zarr.METADATA[array.version]] = array.encoded()
    for key, value in values.items():
        store[key] = value
    spec = {"driver": "zarr" if array.version == 2 else "zarr3", "fill_missing_data_reads": False}
    return ts.open(spec, kvstore=store, open=True).result().read().result()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codecs", [*ENCODED, "v2", "v2 plain"])
def test_tensorstore_reads_it(codecs, dtype):
    if codecs.startswith("v2"):
        array = made(2, (5, 4), (3, 4), dtype, {} if codecs == "v2" else {"compressor": None})
    else:
        array = made(3, (5, 4), (3, 4), dtype, {"codecs": ENCODED[codecs]})
    data = np.random.default_rng(0).integers(0, 200, (5, 4)).astype(np.dtype(dtype))
    boxes = [((0, 3), (0, 4)), ((3, 5), (0, 4))]  # the second is padded at its end
    values = {}
    for box in boxes:
        assert forms.encodable(array)
        assert forms.fills(array, box)
        rows = data[slice(*box[0])]
        key = array.key(forms.only_value(array, box))
        values[key] = encode.encode(array, rows)
        assert decode.holds(array, values[key], rows) is True
        assert decode.holds(array, values[key], rows + rows.dtype.type(1)) is False
    np.testing.assert_array_equal(read(array, values), data)


def test_the_level_and_the_checksum_are_those_of_the_metadata():
    data = np.random.default_rng(0).integers(0, 50, 30000).astype(np.float32)
    sizes = []
    for level in (1, 19):
        codec = {"name": "zstd", "configuration": {"level": level, "checksum": level == 19}}
        array = made(3, data.shape, data.shape, "float32", {"codecs": [*CODECS["plain"], codec]})
        value = encode.encode(array, data)
        told = zstandard.get_frame_parameters(value)
        assert (told.has_checksum, told.content_size) == (level == 19, data.nbytes)
        sizes.append(len(value))
    assert sizes[1] < sizes[0] < data.nbytes


@pytest.mark.parametrize(
    ("version", "how"),
    [
        (2, {"compressor": {"id": "zstd", "level": 99}}),
        (2, {"compressor": {"id": "zstd"}}),
        (2, {"compressor": {"id": "zlib", "level": 1}}),
        (2, {"dtype": ">f4"}),
        (3, {"codecs": CODECS["gzip"]}),
        (3, {"codecs": [*CODECS["plain"], {"name": "zstd"}]}),
        (3, {"codecs": sharded(CODECS["zstd"], (3, 2))}),
    ],
    ids=str,
)
def test_what_is_left_to_tensorstore(version, how):
    assert not forms.encodable(made(version, (5, 4), (3, 4), "float32", how))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_fills(told):
    """A box fills a stored value where its numbers are the first ones in it, and all of them."""
    rank = told.draw(st.integers(0, 3))
    shape = [told.draw(st.integers(1, 5)) for _ in range(rank)]
    chunk = [told.draw(st.integers(1, 5)) for _ in range(rank)]
    spans = [sorted(told.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in shape]
    array = zarr.new(2, tuple(shape), "int8", tuple(chunk))
    inside = list(itertools.product(*(range(*span) for span in spans)))
    place = [start // size for (start, _), size in zip(spans, chunk, strict=True)]
    every = itertools.product(
        *(range(at * size, (at + 1) * size) for at, size in zip(place, chunk, strict=True))
    )
    value = list(every)
    real = [index for index in value if all(a < b for a, b in zip(index, shape, strict=True))]
    wanted = bool(inside) and inside == real == value[: len(inside)]
    assert forms.fills(array, tuple(map(tuple, spans))) is wanted


class Store:
    """A store that forgets what it is told to."""

    def __init__(self, change):
        self.values, self._change = {}, change

    def write(self, key, value):
        self.values[key] = self._change(value)
        return self

    def read(self, key, byte_range):
        found = ts.KvStore.ReadResult(state="missing")
        if key in self.values:
            part = self.values[key][byte_range.start : byte_range.stop]
            found = ts.KvStore.ReadResult("value", part)
        promise, future = ts.Promise.new()
        promise.set_result(found)
        return future

    def result(self):
        return None


@pytest.mark.parametrize(
    ("change", "good"),
    [
        (lambda value: value, True),
        (lambda value: value + b"\0", False),
        (lambda value: value[:100] + bytes([value[100] ^ 1]) + value[101:], False),
    ],
    ids=["kept", "longer", "flipped"],
)
def test_what_the_disk_changes_is_found(change, good):
    array = made(2, (40, 41), (40, 41), "bfloat16", {"compressor": None})
    data = np.random.default_rng(0).normal(size=(40, 41)).astype(ml_dtypes.bfloat16)
    place = target.Target("memory://there", use_ocdbt=False)
    place.__dict__["store"] = Store(change)
    write = ("w", array, ((0, 40), (0, 41)), data)
    written = place.write(*write)
    written.result()
    if good:
        check.same(write, written, "the source")
    else:
        with pytest.raises(errors.CheckpointError, match="reads otherwise than it was written"):
            check.same(write, written, "the source")


def test_what_cannot_be_read_back_is_an_error():
    array = made(2, (40, 41), (40, 41), "float32", {})
    write = ("w", array, ((0, 40), (0, 41)), np.ones((40, 41), np.float32))
    place = target.Target("memory://cut", use_ocdbt=False)
    written = place.write(*write)
    written.result()
    check.same(write, written, "the source")
    place.store["w/0.0"] = bytes(place.store["w/0.0"])[:-9]
    with pytest.raises(errors.CheckpointError, match="w, which was just written"):
        check.same(write, written, "the source")
