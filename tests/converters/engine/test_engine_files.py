"""Containers that are files: flax.serialization's msgpack, and safetensors."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_cases import contents, convert, renamed, save
from flax import serialization

from maxmig import errors
from maxmig.converters import ops, storage
from maxmig.converters.leaves import Hole, Leaf
from maxmig.converters.storage import mapped, msgpack, safetensors
from maxmig.converters.transfers import Transfer

TREE = {
    "params": {
        "w": jnp.arange(24.0).reshape(4, 6),
        "b": jnp.ones((3,), jnp.bfloat16),
        "none": None,
        "empty": {},
        "zero": jnp.zeros((0, 3)),
        "flag": np.array([True, False]),
    },
    "scalar": np.float64(2.5),
    "step": jnp.int32(7),
}


def as_is(path):
    return path


def expected():
    return {
        path: leaf if isinstance(leaf, Hole) else np.asarray(leaf) for path, leaf in _walk(TREE, ())
    }


def _walk(tree, path):
    from maxmig.converters import leaves

    yield from leaves.walk(tree)


def found_in(source):
    return {
        path: leaf if isinstance(leaf, Hole) else source.read(path)
        for path, leaf in source.tree().items()
    }


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        if isinstance(value, Hole):
            assert found[path] is value
            continue
        assert found[path].dtype == value.dtype and found[path].shape == value.shape, path
        assert found[path].tobytes() == value.tobytes(), path


@pytest.fixture
def flax_file(tmp_path):
    """What flax.serialization writes of the tree."""
    file = tmp_path / "state.msgpack"
    file.write_bytes(serialization.msgpack_serialize(TREE))
    return file


def test_msgpack_of_flax_is_read(flax_file):
    source = storage.open(flax_file)
    assert_equal(found_in(source), expected())
    assert source.read(("params", "w"), ((1, 3), (2, 4))).tolist() == [[8.0, 9.0], [14.0, 15.0]]


def test_native_numbers(tmp_path):
    file = tmp_path / "x.msgpack"
    numbers = {"i": -5, "f": 0.5, "b": True, "l": [300], "c": 1.5 - 2j, "u": 2**63 + 5}
    file.write_bytes(serialization.msgpack_serialize(numbers))
    source = storage.open(file)
    assert {path: source.read(path).item() for path in source.tree()} == {
        ("i",): -5,
        ("f",): 0.5,
        ("b",): True,
        ("l", 0): 300,
        ("c",): 1.5 - 2j,
        ("u",): 2**63 + 5,
    }
    assert source.tree()["u",].dtype == "uint64"
    assert source.tree()["c",].dtype == "complex128"
    file.write_bytes(b"\x81\xa1x\xd4\x07\x00")  # of a kind that is not Flax's
    with pytest.raises(errors.CheckpointError, match="a value of the kind 7"):
        storage.open(file)


def test_msgpack_becomes_msgpack_orbax_and_back(flax_file, tmp_path):
    source = storage.open(flax_file)
    todo = renamed(source, as_is, container="msgpack")
    convert(todo, tmp_path / "b.msgpack")
    flat = serialization.msgpack_restore((tmp_path / "b.msgpack").read_bytes())
    assert jax.tree.structure(flat) == jax.tree.structure(TREE)
    assert_equal(found_in(storage.open(tmp_path / "b.msgpack")), expected())
    zero = [("params", "zero")]
    convert(renamed(source, as_is, skip=zero), tmp_path / "orbax")
    made = storage.open(tmp_path / "orbax")
    convert(renamed(made, as_is, container="msgpack"), tmp_path / "c.msgpack")
    wanted = {path: value for path, value in expected().items() if path not in zero}
    assert_equal(found_in(storage.open(tmp_path / "c.msgpack")), wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("b.msgpack", "c.msgpack"),
        *("maxmig.checksums.b.msgpack.json", "maxmig.checksums.c.msgpack.json"),
        *("orbax", "state.msgpack"),
    ]


def test_arrays_that_flax_cuts(tmp_path, monkeypatch):
    """flax writes arrays of more than a gibibyte in flat chunks; here the limit is 64 bytes."""
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    monkeypatch.setattr(msgpack, "LARGEST", 64)
    file = tmp_path / "a.msgpack"
    tree = {"w": np.arange(60.0).reshape(5, 3, 4), "v": np.arange(7.0)}
    file.write_bytes(serialization.msgpack_serialize(tree))
    source = storage.open(file)
    assert np.array_equal(source.read(("w",)), tree["w"])
    part = source.read(("w",), ((1, 4), (0, 2), (3, 4)))
    assert np.array_equal(part, tree["w"][1:4, 0:2, 3:4])
    stacked = Transfer(("w",), Leaf((3, 5, 4), "float64", 480), (("w",),), ops.MoveAxis(0, 1))
    convert(
        renamed(source, as_is, [stacked], container="msgpack"), tmp_path / "b.msgpack", chunk=100
    )
    flat = serialization.msgpack_restore((tmp_path / "b.msgpack").read_bytes())
    assert np.array_equal(flat["w"], np.moveaxis(tree["w"], 0, 1))
    assert np.array_equal(flat["v"], tree["v"])


def test_safetensors_are_what_the_format_says(flax_file, tmp_path):
    source = storage.open(flax_file)
    todo = renamed(source, as_is, container="safetensors")
    convert(todo, tmp_path / "x.safetensors")
    made = storage.open(tmp_path / "x.safetensors")
    wanted = {(".".join(path),): value for path, value in expected().items()}
    assert_equal(found_in(made), wanted)
    assert made.metadata() == {"maxmig": {"layout": "test"}}
    reader = pytest.importorskip("safetensors.numpy")
    told = reader.load_file(tmp_path / "x.safetensors")
    assert np.array_equal(told["params.w"], np.arange(24.0, dtype=np.float32).reshape(4, 6))
    reader.save_file({"a": np.arange(3, dtype=np.int16)}, tmp_path / "y.safetensors")
    assert storage.open(tmp_path / "y.safetensors").read(("a",)).tolist() == [0, 1, 2]


def test_safetensors_in_several_files(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name, {name: jnp.ones(3)})
        todo = renamed(storage.open(tmp_path / name), as_is, container="safetensors")
        convert(todo, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
    for path in (tmp_path / "m.safetensors.index.json", tmp_path):
        assert set(storage.open(path).tree()) == {("a",), ("b",)}
    index["weight_map"]["a"] = "../a.safetensors"
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(errors.CheckpointError, match="outside of the directory"):
        storage.open(tmp_path)


def test_typed_random_keys_have_no_place_in_msgpack(tmp_path):
    save(tmp_path / "src", {"key": jax.random.key(0)})
    source = storage.open(tmp_path / "src")
    with pytest.raises(errors.ConvertError, match="key: a msgpack file cannot hold key<threefry"):
        convert(renamed(source, as_is, container="msgpack"), tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_damaged_files_are_a_clean_error(flax_file, tmp_path):
    data = flax_file.read_bytes()
    for cut in (0, 1, 10, len(data) // 2, len(data) - 1):
        flax_file.write_bytes(data[:cut])
        with pytest.raises(errors.CheckpointError):
            storage.open(flax_file)
    flax_file.write_bytes(b"\x91" * 5000 + b"\xc0")
    with pytest.raises(errors.CheckpointError, match="nested deeper"):
        storage.open(flax_file)
    file = tmp_path / "x.safetensors"
    for content in (
        b"",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        _safe({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}}, 9),
        _safe({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 7),
        _safe({"a": {"dtype": "X", "shape": [2], "data_offsets": [0, 8]}}, 8),
        _safe({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}}, 8),
    ):
        file.write_bytes(content)
        with pytest.raises(errors.CheckpointError):
            storage.open(file)
    with pytest.raises(errors.CheckpointError, match="a file of another kind"):
        other = tmp_path / "x.bin"
        other.write_bytes(b"")
        storage.open(other)


def _safe(header, size):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def test_large_arrays_go_through_in_slabs(tmp_path):
    save(tmp_path / "src", {"w": jnp.arange(4096.0).reshape(64, 64)})
    source = storage.open(tmp_path / "src")
    assert mapped.rows(Leaf((64, 64), "float32", 16384), 1024) == (4, 64)
    todo, _ = convert(renamed(source, as_is, container="safetensors"), tmp_path / "x.safetensors")
    back, _ = convert(renamed(storage.open(tmp_path / "x.safetensors"), as_is), tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "src")
    assert todo.disk == back.disk == 16384 and safetensors.NAMES["float32"] == "F32"


def test_a_file_is_never_converted_onto_itself(flax_file):
    todo = renamed(storage.open(flax_file), as_is, container="msgpack")
    with pytest.raises(errors.ConvertError, match="the source is never changed"):
        convert(todo, flax_file, overwrite=True)
