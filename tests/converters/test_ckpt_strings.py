"""Strings in a tree, which Orbax keeps in its metadata: they are carried along, or left out."""

import json

import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import serialization

from maxmig import errors
from maxmig.converters import checkpoint, convert, inspect
from maxmig.converters.compare import diff, hash, record, recorded, verify
from maxmig.converters.mapping import files

RUN = {"name": "x/y", "a/b": "caf\u00e9~\u2028", "empty": "", "seen": np.arange(3)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strings") / "src"
    params = {"dense": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    state = {"params": params, "opt_state": [{"mu": params}, None], "step": 7}
    ocp.PyTreeCheckpointer().save(folder, {**state, "run": RUN, "tag": "v1"})
    return folder


def converted(source, made, to="nnx-pair", **options):
    todo = convert.plan(checkpoint.read(source), to, **options)
    return todo, convert.run(todo, made)


def told(step):
    return ocp.PyTreeCheckpointer().restore(step / "items")


def proved(result, source):
    report, _ = verify.checkpoints(checkpoint.read(result), checkpoint.read(source))
    return report


def digest(path):
    return hash.fingerprint(checkpoint.read(path)).digest


def test_orbax_and_maxmig_read_the_same(saved):
    found = checkpoint.read(saved)
    loaded = found.load({"run/name": None, "tag": None, "params/dense/kernel": None})
    assert loaded.pop("params/dense/kernel").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert loaded == {"run/name": "x/y", "tag": "v1"}
    texts = {key: text for key, text in RUN.items() if isinstance(text, str)}
    assert {at[-1]: text for at, text in found.storage.strings.items() if len(at) > 1} == texts
    assert "string[3]" in "\n".join(inspect.outline(inspect.inspect(saved).tree))


@pytest.mark.parametrize("to", ["linen-state", "nnx-pair"])
def test_they_are_carried_there_and_back(saved, tmp_path, to):
    _, made = converted(saved, tmp_path / "a", to)
    result = told(made)
    assert result["tag"] == "v1" and result["run"]["a/b"] == RUN["a/b"]  # beside the model
    assert proved(tmp_path / "a", saved) and digest(tmp_path / "a") == digest(saved)
    assert diff.diff(checkpoint.read(saved), checkpoint.read(tmp_path / "a"))
    assert recorded.hold(checkpoint.read(tmp_path / "a").storage).exit_code == 0
    _, back = converted(tmp_path / "a", tmp_path / "b", "linen-state")
    tree, own = told(back), ocp.PyTreeCheckpointer().restore(saved)
    assert tree["run"].pop("seen").tobytes() == own["run"].pop("seen").tobytes()
    assert tree["run"] == own["run"] and tree["tag"] == own["tag"]


def test_another_text_is_a_difference(saved, tmp_path):
    _, made = converted(saved, tmp_path / "a")
    file = made / "items" / "_strings.json"
    file.write_text(file.read_text().replace("v1", "v2"))
    assert not proved(tmp_path / "a", saved)
    with pytest.raises(errors.CheckpointError, match=r"tag: .* other bits than"):
        record.checked(checkpoint.read(tmp_path / "a").storage).read(("tag",))
    assert recorded.hold(checkpoint.read(tmp_path / "a").storage).exit_code == 4
    (made / "items" / "maxmig.checksums.json").unlink()
    assert digest(tmp_path / "a") != digest(saved)
    assert not diff.diff(checkpoint.read(saved), checkpoint.read(tmp_path / "a"))
    file.write_text(json.dumps({"tag": "v1"}))
    with pytest.raises(errors.CheckpointError, match="expected a string in _strings"):
        checkpoint.read(tmp_path / "a")


def test_a_rule_leaves_them_out_and_the_account_says_so(saved, tmp_path):
    rules = [{"drop": {"collection": name}, "reason": "old"} for name in ("run", "tag")]
    document = files.parse({"rules": rules}, "here")
    todo, made = converted(saved, tmp_path / "a", map_file=document)
    fates = {entry.path: entry.what for entry in todo.accounting.fates}
    assert fates["tag"] == fates["run/name"] == "left out: old"
    assert "run" not in told(made)
    todo, made = converted(saved, tmp_path / "b", "nnx-state", params_only=True)
    assert told(made).keys() == {"dense"}


def test_msgpack_holds_them_and_safetensors_does_not(saved, tmp_path):
    converted(saved, tmp_path / "x.msgpack", "linen-state", container="msgpack")
    found = serialization.msgpack_restore((tmp_path / "x.msgpack").read_bytes())
    assert found["run"]["a/b"] == RUN["a/b"] and found["tag"] == "v1"
    assert proved(tmp_path / "x.msgpack", saved) and digest(tmp_path / "x.msgpack") == digest(saved)
    _, back = converted(tmp_path / "x.msgpack", tmp_path / "b")
    assert told(back)["run"]["name"] == "x/y"
    todo = convert.plan(checkpoint.read(saved), "linen-state", container="safetensors")
    with pytest.raises(errors.ConvertError, match="a safetensors file cannot hold string"):
        convert.prepare(todo, tmp_path / "x.safetensors")  # a dry run as well


def test_the_routes_tell_of_them(saved, tmp_path):
    todo = convert.plan(checkpoint.read(saved), "nnx-pair")
    rows = {row["route"]: row for row in convert.prepare(todo, tmp_path / "a").rows()}
    assert rows["string"]["arrays"] == len(RUN)  # one of these is an array, and `tag` is beside
    texts = ["v1", *(text for text in RUN.values() if isinstance(text, str))]
    assert rows["string"]["bytes"] == sum(len(text.encode()) for text in texts)


def test_a_tree_of_nothing_else_is_whole(tmp_path):
    ocp.PyTreeCheckpointer().save(tmp_path / "src", {"params": {"a": "x", "b": {"c": "yy"}}})
    _, made = converted(tmp_path / "src", tmp_path / "a", "linen-params")
    assert told(made) == {"a": "x", "b": {"c": "yy"}}
    assert proved(tmp_path / "a", tmp_path / "src") and digest(tmp_path / "a") == digest(
        tmp_path / "src"
    )
    converted(tmp_path / "src", tmp_path / "a.msgpack", "linen-params", container="msgpack")
    assert digest(tmp_path / "a.msgpack") == digest(tmp_path / "src")
    tree = tmp_path / "src" / "_METADATA"
    tree.write_text(tree.read_text().replace('"string"', '"jax.Array"', 1))
    with pytest.raises(errors.CheckpointError, match="half-written"):
        checkpoint.read(tmp_path / "src")


def test_they_cannot_be_stacked(tmp_path):
    layer = {"kernel": np.ones((2, 2), np.float32)}
    tree = {f"layers_{i}": {"dense": layer, "name": "ab"} for i in range(3)}
    ocp.PyTreeCheckpointer().save(tmp_path / "src", {"params": tree, "step": 1})
    with pytest.raises(errors.ConvertError, match="params/layers/name: a string, which cannot be"):
        converted(tmp_path / "src", tmp_path / "a", scan=True)
