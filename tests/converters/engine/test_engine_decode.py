"""Stored values decoded in one pass: the bits of TensorStore, and what is left to TensorStore."""

import itertools
import json

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
from engine_cases import FORMS, save
from hypothesis import given, settings

from maxmig import errors
from maxmig.converters import casts, storage
from maxmig.converters.storage import decode, forms, orbax, zarr

LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
ZSTD = {"name": "zstd", "configuration": {"level": 1}}
CODECS = {
    "plain": [LITTLE],
    "zstd": [LITTLE, ZSTD],
    "checksum": [LITTLE, {"name": "zstd", "configuration": {"level": 3, "checksum": True}}],
    "big": [{"name": "bytes", "configuration": {"endian": "big"}}, ZSTD],
    "gzip": [LITTLE, {"name": "gzip", "configuration": {"level": 5}}],
    "crc32c": [LITTLE, {"name": "crc32c"}],
    "turned": [{"name": "transpose", "configuration": {"order": [1, 0]}}, LITTLE, ZSTD],
}
FOR_US = ("plain", "zstd", "checksum")
DTYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "int64")


def sharded(codecs, chunk, location="end"):
    told = {"chunk_shape": list(chunk), "codecs": codecs, "index_location": location}
    told["index_codecs"] = [LITTLE, {"name": "crc32c"}]
    return [{"name": "sharding_indexed", "configuration": told}]


def written(version, shape, chunk, dtype, how):
    """(metadata, store, numbers) of an array that TensorStore writes."""
    data = np.random.default_rng(0).integers(0, 200, shape).astype(np.dtype(dtype))
    if version == 2:
        told = zarr.new(2, shape, dtype, chunk).document | how
        spec = {"driver": "zarr", "metadata": told}
    else:
        told = zarr.new(3, shape, dtype, chunk).document | {"codecs": how}
        spec = {"driver": "zarr3", "metadata": told}
    spec["store_data_equal_to_fill_value"] = True
    store = ts.KvStore.open("memory://").result()
    opened = ts.open(spec, kvstore=store, create=True).result()
    opened.write(data).result()
    told = store[zarr.METADATA[version]]
    return zarr.parse(version, told, "here"), store, data


def found(array, store, part, **how):
    place = forms.only_value(array, part)
    return None if place is None else decode.box(array, part, store[array.key(place)], **how)


@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_version_3_like_tensorstore(codecs, dtype):
    array, store, data = written(3, (5, 7), (3, 4), dtype, CODECS[codecs])
    for part in itertools.product([(0, 3), (3, 5)], [(0, 4), (4, 7)]):
        value = found(array, store, part)
        if codecs in FOR_US or (codecs == "big" and dtype == "uint8"):
            rows, columns = (slice(*span) for span in part)
            assert value is not None
            assert value.dtype == data.dtype
            np.testing.assert_array_equal(value, data[rows, columns])
        else:
            assert value is None


@pytest.mark.parametrize(
    ("how", "ours"),
    [
        ({}, True),
        ({"compressor": None}, True),
        ({"compressor": {"id": "zlib", "level": 1}}, False),
        ({"order": "F"}, False),
        ({"dtype": ">f4"}, False),
    ],
    ids=str,
)
def test_version_2_like_tensorstore(how, ours):
    array, store, data = written(2, (5, 7), (3, 4), "float32", how)
    value = found(array, store, ((3, 5), (4, 7)))
    assert (value is not None) is ours
    if ours:
        np.testing.assert_array_equal(value, data[3:, 4:])


def test_shards():
    one = sharded(CODECS["zstd"], (3, 4))
    array, store, data = written(3, (5, 7), (3, 4), "float32", one)
    np.testing.assert_array_equal(found(array, store, ((1, 3), (5, 6))), data[1:3, 5:6])
    for other in (
        sharded(CODECS["zstd"], (3, 2)),  # two parts in each
        sharded(CODECS["zstd"], (3, 4), "start"),
        sharded(CODECS["gzip"], (3, 4)),
    ):
        array, store, data = written(3, (5, 7), (3, 4), "float32", other)
        assert found(array, store, ((0, 3), (0, 4))) is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_only_value(told):
    """A box is in one value exactly where all its corners have the same chunk."""
    rank = told.draw(st.integers(1, 3))
    shape = [told.draw(st.integers(1, 6)) for _ in range(rank)]
    chunk = [told.draw(st.integers(1, 6)) for _ in range(rank)]
    spans = [sorted(told.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in shape]
    array = zarr.new(2, tuple(shape), "int8", tuple(chunk))
    boxes = [range(*span) for span in spans]
    holders = {
        tuple(at // size for at, size in zip(index, chunk, strict=True))
        for index in itertools.product(*boxes)
    }
    part = tuple(map(tuple, spans))
    place = forms.only_value(array, part)
    assert ({place} if place is not None else None) == (holders if len(holders) == 1 else None)


def damaged(value, kind):
    return {
        "cut": value[:-1],
        "longer": value + b"\0",
        "twice": value + value,
        "empty": b"",
        "other": b"\xff" * len(value),
    }[kind]


@pytest.mark.parametrize("kind", ["cut", "longer", "twice", "empty", "other"])
@pytest.mark.parametrize("codecs", ["plain", "zstd", "sharded"])
def test_what_is_damaged_is_left_to_tensorstore(kind, codecs):
    how = sharded(CODECS["zstd"], (4, 4)) if codecs == "sharded" else CODECS[codecs]
    array, store, data = written(3, (4, 4), (4, 4), "float32", how)
    value = store["c/0/0"]
    np.testing.assert_array_equal(decode.box(array, ((0, 4), (0, 4)), value), data)
    bad = damaged(value, kind)
    result = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "_READ", 7)  # also where the end of a read is inside a frame
        try:
            result = decode.box(array, ((0, 4), (0, 4)), bad)
        except Exception:  # of the decoder: the reader of a checkpoint goes to TensorStore then
            result = None
    if (kind, codecs) == ("other", "plain"):
        assert result is not None  # other numbers, which only a record of checksums finds
        assert not np.array_equal(result, data)
    else:
        assert result is None


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_checkpoints_of_orbax_are_ours(tmp_path, form, monkeypatch):
    """No read of what Orbax writes by default goes through TensorStore's arrays."""
    tree = {"w": np.arange(24, dtype=np.float32).reshape(4, 6), "n": np.int32(3)}
    source = storage.open(str(save(tmp_path / "ckpt", tree, **form)))
    monkeypatch.setattr(orbax, "open_array", lambda *_, **__: pytest.fail("TensorStore was asked"))
    np.testing.assert_array_equal(source.read(("w",)), tree["w"])
    np.testing.assert_array_equal(source.read(("w",), ((1, 3), (2, 5))), tree["w"][1:3, 2:5])
    assert source.read(("n",)) == 3
    narrowed = source.read_narrowed(("w",), ((0, 4), (0, 6)))
    np.testing.assert_array_equal(narrowed, tree["w"].astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_cut_short_is_an_error(tmp_path, form):
    numbers = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    path = save(tmp_path / "ckpt", {"w": numbers}, **form)
    source = storage.open(str(path))
    np.testing.assert_array_equal(source.read(("w",)), numbers)
    large = [file for file in path.rglob("*") if file.is_file() and file.stat().st_size > 8000]
    for file in large:
        file.write_bytes(file.read_bytes()[:-1000])
    assert large
    with pytest.raises(errors.CheckpointError, match="damaged or missing"):
        source.read(("w",))


UPPER = np.arange(1 << 16, dtype=np.uint32) << 16
LOWER = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
CLASSES = (UPPER[:, None] | LOWER).reshape(-1)
"""Every sign, exponent and kept fraction, with what is cut off below, at and above a tie."""


def test_narrowed_has_the_bits_of_the_cast():
    numbers = CLASSES.view(np.float32)
    numbers = numbers[~(np.abs(numbers) > casts._LARGEST) | np.isinf(numbers)]
    with np.errstate(invalid="ignore"):
        wanted = numbers.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(casts.narrowed(numbers).view(np.uint16), wanted)
    real = numbers[np.isfinite(numbers)]  # blocks without NaN take the other way
    wanted = real.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(casts.narrowed(real).view(np.uint16), wanted)
    cut = (real.view(np.uint32) >> 16).astype(np.uint16)
    assert not np.array_equal(cut, wanted)  # rounding down would be found


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 5), (casts.BLOCK + 1,)], ids=str)
def test_narrowed_keeps_shapes(shape):
    numbers = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = casts.narrowed(np.moveaxis(numbers, 0, -1) if numbers.ndim > 1 else numbers)
    wanted = np.moveaxis(numbers, 0, -1) if numbers.ndim > 1 else numbers
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found, wanted.astype(ml_dtypes.bfloat16))


def test_narrowed_while_it_is_decoded():
    numbers = CLASSES.view(np.float32)
    numbers = numbers[~(np.abs(numbers) > casts._LARGEST)][-300 * 301 :].reshape(300, 301)
    for version, how in ((2, {}), (3, CODECS["zstd"]), (3, CODECS["plain"])):
        array, store, _ = written(version, (300, 301), (300, 301), "float32", how)
        spec = {"driver": "zarr" if version == 2 else "zarr3"}
        ts.open(spec, kvstore=store, open=True).result().write(numbers).result()
        part = ((0, 300), (0, 301))
        with np.errstate(invalid="ignore"):
            wanted = numbers.astype(ml_dtypes.bfloat16)
        value = found(array, store, part, narrowed=True)
        np.testing.assert_array_equal(value.view(np.uint16), wanted.view(np.uint16))
    array, store, _ = written(2, (4,), (4,), "int32", {})
    assert found(array, store, ((0, 4),), narrowed=True) is None


@pytest.mark.parametrize("codecs", ["plain", "zstd", "sharded", "gzip"])
def test_compared_while_it_is_decoded(codecs, monkeypatch):
    how = sharded(CODECS["zstd"], (40, 41)) if codecs == "sharded" else CODECS[codecs]
    array, store, data = written(3, (40, 41), (40, 41), "float32", how)
    value = store["c/0/0"]
    for size in (1 << 17, 64, 7):
        monkeypatch.setattr(casts, "BLOCK", size)
        if codecs == "gzip":
            assert decode.holds(array, value, data) is None
            continue
        assert decode.holds(array, value, data) is True
        assert decode.holds(array, value, np.asfortranarray(data)) is True
        for place in ((0, 0), (17, 3), (39, 40)):
            other = data.copy()
            other[place] = -other[place] - 1
            assert decode.holds(array, value, other) is False
        for kind in ("cut", "longer", "twice", "empty"):
            assert decode.holds(array, damaged(value, kind), data) is None


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


@pytest.mark.parametrize("number", [3.4e38, -3.4e38])
def test_a_number_that_would_become_infinite_is_refused(number):
    numbers = np.zeros(2 * casts.BLOCK, np.float32)
    numbers[casts.BLOCK + 5] = number
    with pytest.raises(OverflowError, match=r"3\.4e\+38"):
        casts.narrowed(numbers)
    numbers[casts.BLOCK + 5] = np.copysign(casts._LARGEST, number)
    assert np.isfinite(casts.narrowed(numbers).astype(np.float32)).all()
    numbers[7], numbers[8] = np.inf, np.nan  # what was so before stays
    narrowed = casts.narrowed(numbers).astype(np.float32)
    assert np.isinf(narrowed[7])
    assert np.isnan(narrowed[8])
    numbers[9] = number
    with pytest.raises(OverflowError):
        casts.narrowed(numbers)


@pytest.mark.parametrize(
    ("version", "changed"),
    [
        (2, {"compressor": {"level": 1}}),
        (2, {"compressor": "zstd"}),
        (2, {"compressor": []}),
        (3, {"codecs": []}),
        (3, {"codecs": sharded([], (3, 4))}),
        (3, {"codecs": [{"name": "bytes", "configuration": None}]}),
    ],
    ids=str,
)
def test_damaged_metadata_are_left_to_tensorstore(version, changed):
    document = zarr.new(version, (5, 7), "float32", (3, 4)).document | changed
    array = zarr.parse(version, json.dumps(document).encode(), "here")
    assert forms.of(array) is None
    assert decode.decode(array, b"some") is None
