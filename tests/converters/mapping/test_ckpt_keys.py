"""Typed random keys in containers that have no types for them, and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from flax import serialization

from maxmig import errors
from maxmig.converters import checkpoint, convert, storage
from maxmig.converters.compare import verify
from maxmig.converters.leaves import Leaf

IMPLS = ("threefry2x32", "rbg", "unsafe_rbg")


@pytest.fixture(scope="module", params=IMPLS)
def impl(request):
    return request.param


@pytest.fixture(scope="module")
def saved(tmp_path_factory, impl):
    """An NNX tree with a single key, a stack of keys and counters."""
    folder = tmp_path_factory.mktemp(impl) / "src"
    one = jax.random.key(3, impl=impl)
    tree = {
        "head": {"kernel": {"value": jnp.arange(6.0).reshape(2, 3)}},
        "drop": {"rngs": {"key": {"value": one}, "count": {"value": jnp.uint32(5)}}},
        "layers": {
            "w": {"value": jnp.ones((3, 2))},
            "rngs": {"key": {"value": jax.random.split(one, 3)}},
        },
    }
    ocp.PyTreeCheckpointer().save(folder, tree)
    return folder


def converted(source, made, **options):
    todo = convert.plan(checkpoint.read(source), "nnx-state", **options)
    convert.run(todo, made)
    return todo


def bits(path):
    found = storage.open(path)
    leaves = {at: leaf for at, leaf in found.tree().items() if isinstance(leaf, Leaf)}
    return {at: (leaf, found.read(at).tobytes()) for at, leaf in leaves.items()}


def test_safetensors_keep_the_kind_beside_the_words(saved, impl, tmp_path):
    converted(saved, tmp_path / "x.safetensors", container="safetensors")
    words = safetensors.numpy.load_file(tmp_path / "x.safetensors")["layers.rngs.key.value"]
    keys = jax.random.split(jax.random.key(3, impl=impl), 3)
    assert np.array_equal(words, jax.random.key_data(keys))
    found = checkpoint.read(tmp_path / "x.safetensors")
    assert found.leaves["aux/layers/rngs/key"].dtype == f"key<{impl}>"
    (loaded,) = found.load({"aux/layers/rngs/key": None}).values()
    assert (jax.random.key_data(loaded) == jax.random.key_data(keys)).all()
    converted(tmp_path / "x.safetensors", tmp_path / "back")
    assert bits(tmp_path / "back") == bits(saved)


def test_msgpack_has_words_and_an_option_leads_back(saved, impl, tmp_path):
    todo = converted(saved, tmp_path / "x.msgpack", container="msgpack")
    (note,) = (note for note in todo.notes if "random keys" in note)
    assert f"--key-impl {impl}" in note
    told = serialization.msgpack_restore((tmp_path / "x.msgpack").read_bytes())
    words = told["drop"]["rngs"]["key"]["value"]
    assert words.dtype == np.uint32 and words.ndim == 1
    converted(tmp_path / "x.msgpack", tmp_path / "plain")
    assert checkpoint.read(tmp_path / "plain").leaves["aux/drop/rngs/key"].dtype == "uint32"
    converted(tmp_path / "x.msgpack", tmp_path / "back", key_impl=impl)
    assert bits(tmp_path / "back") == bits(saved)
    report, basis = verify.checkpoints(
        checkpoint.read(tmp_path / "back"), checkpoint.read(tmp_path / "x.msgpack")
    )
    assert report and basis == "recorded conversion"


def test_a_rule_leads_back_and_has_an_inverse(saved, impl, tmp_path):
    from maxmig.converters.mapping import files

    converted(saved, tmp_path / "x.msgpack", container="msgpack")
    rules = [{"keys": {"regex": ".*/key"}, "impl": impl}]
    document = files.parse({"rules": rules}, "here")
    assert document.inverse().rules[0].data() == {**rules[0], "to": "raw"}
    assert files.parse(document.inverse().data(), "here").inverse().rules == document.rules
    converted(tmp_path / "x.msgpack", tmp_path / "back", map_file=document)
    assert bits(tmp_path / "back") == bits(saved)


def test_wrong_kinds_are_refused(saved, impl, tmp_path):
    converted(saved, tmp_path / "x.msgpack", container="msgpack")
    other = "rbg" if impl == "threefry2x32" else "threefry2x32"
    with pytest.raises(errors.ConfigError, match="a rule matches nothing"):
        converted(tmp_path / "x.msgpack", tmp_path / "back", key_impl=other)
    with pytest.raises(errors.ConfigError, match="key_impl: expected one of"):
        converted(tmp_path / "x.msgpack", tmp_path / "back", key_impl="mersenne")
    with pytest.raises(errors.ConfigError, match="but there are none"):
        converted(saved, tmp_path / "back", key_impl=impl)


def test_a_damaged_header_is_found(saved, impl, tmp_path):
    file = tmp_path / "x.safetensors"
    converted(saved, file, container="safetensors")
    raw = file.read_bytes()
    file.write_bytes(
        raw.replace(f'"{impl}'.replace('"', '\\"').encode(), b'\\"' + b"x" * len(impl))
    )
    with pytest.raises(errors.CheckpointError, match="expected the words of random keys"):
        storage.open(file)
