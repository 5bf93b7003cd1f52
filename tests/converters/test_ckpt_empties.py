"""What is empty in a tree comes back: from every container, by every way there and back."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization

from maxmig.converters import checkpoint, convert
from maxmig.converters.compare import verify
from maxmig.converters.leaves import Hole

SUFFIX = {"orbax": "", "msgpack": ".msgpack", "safetensors": ".safetensors"}


def trained(stacked=False):
    shape = (3, 3, 4) if stacked else (2, 4)
    model = {"layers" if stacked else "dense": {"kernel": np.ones(shape, np.float32)}}
    model["drop"] = {"mask": {}}
    state = [{"mu": model}, [], {"inner": {}, "old": []}]
    beside = {"batch_stats": {}, "dynamic_scale": None, "log": [None, {"loss": np.float32(1)}, {}]}
    return {"params": model, "opt_state": state, "step": np.int32(3), **beside}


TREES = {
    "trained": trained(),
    "nothing": {**trained(), "opt_state": {}},
    "no-list": {**trained(), "opt_state": []},
    "no-state": {**trained(), "opt_state": None},
    "bare": {"Dense_0": trained()["params"]["dense"], "drop": {}},
}


@pytest.fixture(scope="module", params=TREES)
def saved(request, tmp_path_factory):
    folder, tree = tmp_path_factory.mktemp("empty"), TREES[request.param]
    ocp.PyTreeCheckpointer().save(folder / "s", tree)
    data = serialization.msgpack_serialize(serialization.to_state_dict(tree))
    (folder / "s.msgpack").write_bytes(data)
    return folder


def converted(source, to, made, **options):
    todo = convert.plan(checkpoint.read(source), to, **options)
    convert.run(todo, made)
    report, _ = verify.checkpoints(checkpoint.read(made), checkpoint.read(source))
    assert report
    return todo


def told(path):
    return checkpoint.read(path).tree


@pytest.mark.parametrize("kind", SUFFIX)
@pytest.mark.parametrize("to", ["linen", "nnx"])
@pytest.mark.parametrize("source", ["s", "s.msgpack"])
def test_there_and_back(saved, tmp_path, source, to, kind):
    source = saved / source
    own = checkpoint.read(source)
    there, back = tmp_path / f"a{SUFFIX[kind]}", tmp_path / f"b{source.suffix}"
    name = own.layout.name if to == own.layout.family else to
    converted(source, name, there, container=kind)
    converted(there, own.layout.name, back, container="msgpack" if source.suffix else "orbax")
    assert told(back) == own.tree


def test_a_file_of_flax_has_them_as_flax_writes_them(saved, tmp_path):
    own = checkpoint.read(saved / "s")
    converted(saved / "s", own.layout.name, tmp_path / "a.msgpack", container="msgpack")
    data = [path.read_bytes() for path in (tmp_path / "a.msgpack", saved / "s.msgpack")]
    made, wanted = map(serialization.msgpack_restore, data)
    tops = made.keys() & {"opt_state", "batch_stats", "dynamic_scale", "drop"}
    assert tops == wanted.keys() & {"opt_state", "batch_stats", "dynamic_scale", "drop"}
    for name in tops - {"opt_state"}:
        assert made[name] == wanted[name]


def test_layers_that_are_taken_apart_leave_what_is_beside_them(tmp_path):
    ocp.PyTreeCheckpointer().save(tmp_path / "s", trained(stacked=True))
    converted(tmp_path / "s", "linen-state", tmp_path / "a", scan=False, from_scan_axis=0)
    tree = told(tmp_path / "a")
    assert tree[("batch_stats",)] is Hole.EMPTY_DICT and tree[("dynamic_scale",)] is Hole.NONE
    converted(tmp_path / "s", "linen-state", tmp_path / "b", params_only=True)
    assert {path[0] for path in told(tmp_path / "b")} == {"params"}


def test_a_tree_of_keys_that_orbax_holds_stays_one(tmp_path):
    tree = serialization.to_state_dict(trained())
    ocp.PyTreeCheckpointer().save(tmp_path / "s", tree)
    converted(tmp_path / "s", "linen-state", tmp_path / "a")
    assert told(tmp_path / "a") == told(tmp_path / "s")


def test_statistics_that_only_metadata_tell_are_written_to_a_file_of_nnx(tmp_path):
    tree = {**trained(), "batch_stats": {"bn": {"mean": np.ones(2, np.float32)}}}
    ocp.PyTreeCheckpointer().save(tmp_path / "s", tree)
    converted(tmp_path / "s", "nnx-optimizer", tmp_path / "a.msgpack", container="msgpack")
    assert "batch_stats/bn/mean" in checkpoint.read(tmp_path / "a.msgpack").leaves


LISTS = {
    "whole": [{"kernel": 1}, {"kernel": 2}],
    "gap": [{"kernel": 1}, None, {"kernel": 2}],
    "first": [{}, {"kernel": 1}],
    "within": [{"a": {}}, {"kernel": 1}],
    "arrays": [1, None, 2],
    "last": [{"kernel": 1}, None],
}


@pytest.mark.parametrize("blocks", LISTS)
def test_a_list_of_parameters_and_its_moments(tmp_path, blocks):
    def full(start):
        model = {"dense": {"kernel": 0}, "blocks": LISTS[blocks]}
        return jax.tree.map(lambda number: np.full((2, 3), start + number, np.float32), model)

    state = [{"count": np.int32(3), "mu": full(10), "nu": full(20)}, None]
    tree = {"params": full(0), "opt_state": state, "step": np.int32(3)}
    ocp.PyTreeCheckpointer().save(tmp_path / "s", tree)
    own = checkpoint.read(tmp_path / "s")
    converted(tmp_path / "s", "linen-state", tmp_path / "same")
    converted(tmp_path / "s", "nnx-optimizer", tmp_path / "nnx.msgpack", container="msgpack")
    converted(tmp_path / "nnx.msgpack", "linen-state", tmp_path / "back", container="orbax")
    for made in (tmp_path / "same", tmp_path / "back"):
        assert told(made) == own.tree
        folder = next(made.rglob("_METADATA")).parent
        restored = ocp.PyTreeCheckpointer().restore(folder)
        assert jax.tree.structure(restored) == jax.tree.structure(tree)
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, restored, tree)))
    converted(tmp_path / "s", "linen-state", tmp_path / "only", params_only=True)
