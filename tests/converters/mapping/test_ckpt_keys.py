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
from maxmig.converters.mapping import files

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


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Keys beside the model: in a field that is one array, in a field, in the optimizer's state."""
    folder = tmp_path_factory.mktemp("fields") / "src"
    key, params = jax.random.key(3), {"dense": {"kernel": jnp.ones((2, 3))}}
    state = {"params": params, "opt_state": [{"mu": params, "rng_key": key}], "step": 4}
    state |= {"rng": key, "rngs": {"dropout": jax.random.split(key)}}
    ocp.PyTreeCheckpointer().save(folder, state)
    return folder


def test_keys_beside_the_model_become_words_and_come_back(fields, tmp_path):
    file = tmp_path / "x.msgpack"
    convert.run(convert.plan(checkpoint.read(fields), "linen-state", container="msgpack"), file)
    told = serialization.msgpack_restore(file.read_bytes())
    assert told["rng"].tolist() == [0, 3] == told["opt_state"]["0"]["rng_key"].tolist()
    assert told["rngs"]["dropout"].shape == (2, 2)
    source = checkpoint.read(file)
    convert.run(convert.plan(source, "linen-state", key_impl="threefry2x32"), tmp_path / "back")
    own, back = bits(fields), bits(tmp_path / "back")
    assert {at: kind for at, kind in own.items() if at != ("step",)}.items() <= back.items()
    one = files.parse({"rules": [{"keys": {"collection": "rng"}, "impl": "threefry2x32"}]}, "here")
    convert.run(convert.plan(source, "linen-state", map_file=one), tmp_path / "one")
    kinds = checkpoint.read(tmp_path / "one").leaves
    assert kinds["rng"].is_key and kinds["rngs/dropout"].dtype == "uint32"  # not asked for


def test_numbers_that_are_called_otherwise_stay_numbers(tmp_path):
    words = np.arange(2, dtype=np.uint32)
    tree = {"params": {"key": {"kernel": words}}, "seen": words, "step": 1, "rng": words}
    ocp.PyTreeCheckpointer().save(tmp_path / "src", tree)
    todo = convert.plan(checkpoint.read(tmp_path / "src"), "nnx-pair", key_impl="threefry2x32")
    convert.run(todo, tmp_path / "made")
    kinds = checkpoint.read(tmp_path / "made").leaves
    assert [path for path, leaf in kinds.items() if leaf.is_key] == ["rng"]


def test_keys_of_which_no_sharding_is_told_are_restored_without_a_target(tmp_path):
    """Of a source of plain arrays, and of a file."""
    params = {"dense": {"kernel": np.ones((2, 3), np.float32)}}
    ocp.PyTreeCheckpointer().save(tmp_path / "src", {"params": params, "step": 1})
    rules = [{"random": "drop/rngs", "impl": "rbg"}]
    for source, options in (
        (tmp_path / "src", {"map_file": files.parse({"rules": rules}, "here")}),
        (tmp_path / "x.safetensors", {}),
    ):
        todo = convert.plan(checkpoint.read(source), "nnx-pair", **options)
        made = convert.run(todo, tmp_path / f"made_{source.stem}")
        key = ocp.PyTreeCheckpointer().restore(made / "items")["model"]["drop"]["rngs"]["key"]
        assert str(jax.random.key_impl(key["value"])) == "rbg"
        convert.run(
            convert.plan(checkpoint.read(made), "nnx-pair", container="safetensors"),
            tmp_path / "x.safetensors",
            overwrite=True,
        )


def test_a_damaged_header_is_found(saved, impl, tmp_path):
    file = tmp_path / "x.safetensors"
    converted(saved, file, container="safetensors")
    raw = file.read_bytes()
    file.write_bytes(
        raw.replace(f'"{impl}'.replace('"', '\\"').encode(), b'\\"' + b"x" * len(impl))
    )
    with pytest.raises(errors.CheckpointError, match="expected the words of random keys"):
        storage.open(file)
