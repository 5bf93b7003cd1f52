"""Checkpoints as other projects keep them: items, files without a suffix, several trees."""

import shutil

import flax.serialization
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax.training import train_state

from maxmig import errors
from maxmig.converters import checkpoint, convert, inspect, mapping
from maxmig.converters.compare import diff, hash
from maxmig.converters.engine.options import Options
from maxmig.converters.mapping import files


class _State(train_state.TrainState):
    batch_stats: dict


def _state(layers=3):
    random = np.random.default_rng(0)
    layer = {"Dense_0": {"kernel": (2, 4)}, "BatchNorm_0": {"scale": (4,)}}
    params = {
        f"layers_{i}": {
            module: {name: random.random(shape, np.float32) for name, shape in leaves.items()}
            for module, leaves in layer.items()
        }
        for i in range(layers)
    }
    stats = {
        f"layers_{i}": {
            "BatchNorm_0": {name: random.random(4, np.float32) for name in ("mean", "var")}
        }
        for i in range(layers)
    }
    return _State.create(
        apply_fn=None, params=params, tx=optax.adamw(1e-3), batch_stats=stats
    ).replace(step=np.array(5, np.int32))


def _told(path):
    return checkpoint.read(path).storage.told.entries


def _convert(source, target, to, **options):
    opened = checkpoint.read(source)
    if target.suffix == ".msgpack":
        options["container"] = "msgpack"
    return convert.run(convert.plan(opened, to, **options), target)


@pytest.mark.parametrize("item", ["default", "state"])
def test_a_tree_keeps_the_name_of_its_item(tmp_path, item):
    state = _state()
    with ocp.CheckpointManager(tmp_path / "src") as manager:
        save = ocp.args.StandardSave(state)
        if item != "default":
            save = ocp.args.Composite(state=save, told=ocp.args.JsonSave({"epoch": 2}))
        manager.save(5, args=save)
    _convert(tmp_path / "src", tmp_path / "nnx", "nnx")
    _convert(tmp_path / "nnx", tmp_path / "back", "linen")
    with ocp.CheckpointManager(tmp_path / "back") as manager:
        ask = ocp.args.StandardRestore(state)
        if item == "default":
            found = manager.restore(5, args=ask)
        else:
            asked = ocp.args.Composite(state=ask, told=ocp.args.JsonRestore())
            both = manager.restore(5, args=asked)
            found = both["state"]
            assert both["told"] == {"epoch": 2}
    np.testing.assert_array_equal(
        found.params["layers_2"]["Dense_0"]["kernel"], state.params["layers_2"]["Dense_0"]["kernel"]
    )


def test_a_step_with_several_trees_asks_for_one(tmp_path):
    tree = {"params": {"Dense_0": {"kernel": np.ones((2, 2), np.float32)}}}
    with ocp.CheckpointManager(tmp_path / "src") as manager:
        both = {name: ocp.args.StandardSave(tree) for name in ("state", "ema")}
        manager.save(5, args=ocp.args.Composite(**both))
    for path in (tmp_path / "src", tmp_path / "src" / "5"):
        with pytest.raises(errors.CheckpointError, match="holds 2: ema, state; give the path"):
            inspect.inspect(path)
    one = tmp_path / "src" / "5" / "ema"
    assert inspect.inspect(one).layout == "linen-variables"
    todo = convert.plan(checkpoint.read(one), "nnx")
    assert "not converted: state" in convert.prepare(todo, tmp_path / "dst").notes[0]
    convert.run(todo, tmp_path / "dst")
    assert inspect.inspect(tmp_path / "dst").layout == "nnx-state"
    assert not (tmp_path / "dst" / "5" / "state").exists()


def test_a_checkpoint_of_the_v1_api(tmp_path):
    """Only the step has a commit marker there, its items have none; and its name is no number."""
    v1 = pytest.importorskip("orbax.checkpoint.experimental.v1")
    tree = {"params": {"Dense_0": {"kernel": np.ones((2, 2), np.float32)}}}
    one, two = tmp_path / "one", tmp_path / "two"
    v1.save(one, tree)
    v1.save_checkpointables(two, {"state": tree, "ema": tree})
    _convert(one, tmp_path / "made", "nnx")
    np.testing.assert_array_equal(
        v1.load(tmp_path / "made" / "0")["Dense_0"]["kernel"]["value"], np.ones((2, 2))
    )
    with pytest.raises(errors.CheckpointError, match="holds 2: ema, state; give the path"):
        inspect.inspect(two)
    assert inspect.inspect(two / "ema").layout == "linen-variables"
    (one / "orbax.checkpoint").unlink()
    with pytest.raises(errors.CheckpointError, match="missing in one of one/ and state/"):
        inspect.inspect(one)


def test_numbers_of_four_bits_in_the_older_zarr(tmp_path):
    kernel = np.arange(-8, 8).reshape(4, 4).astype("int4")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_zarr3=True)) as saver:
        tree = {"params": {"Dense_0": {"kernel": kernel}}}
        saver.save(tmp_path / "src", args=ocp.args.PyTreeSave(tree))
    todo = convert.plan(checkpoint.read(tmp_path / "src"), "nnx")
    convert.run(todo, tmp_path / "made", options=Options(zarr=2))
    found = ocp.PyTreeCheckpointer().restore(tmp_path / "made" / "0" / "items")
    np.testing.assert_array_equal(found["Dense_0"]["kernel"]["value"], kernel)


def test_a_file_of_flax_needs_no_suffix_and_goes_there_and_back(tmp_path):
    (tmp_path / "src").mkdir()
    file = tmp_path / "src" / "checkpoint_5"
    file.write_bytes(flax.serialization.to_bytes(_state()))
    _convert(file, tmp_path / "nnx.msgpack", "nnx")
    chain = optax.adamw(1e-3)  # its empty states at the end leave no trace in NNX's tree
    remembered = checkpoint.read(tmp_path / "nnx.msgpack").skeleton  # by the file beside it
    assert len(remembered["tuple"]) == len(chain.init({})) > 1
    (tmp_path / "maxmig.checksums.nnx.msgpack.json").unlink()
    assert len(checkpoint.read(tmp_path / "nnx.msgpack").skeleton["tuple"]) == 1
    _convert(file, tmp_path / "nnx", "nnx")
    _convert(tmp_path / "nnx", tmp_path / "back.msgpack", "linen-state")
    restored = flax.serialization.from_bytes(_state(), (tmp_path / "back.msgpack").read_bytes())
    kernel = restored.params["layers_1"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(kernel, _state().params["layers_1"]["Dense_0"]["kernel"])
    (tmp_path / "src" / "checkpoint_12").write_bytes(file.read_bytes())
    assert mapping.plan(checkpoint.read(tmp_path / "src"), "nnx").step == 12
    assert mapping.plan(checkpoint.read(tmp_path / "src", step=5), "nnx").step == 5
    with pytest.raises(errors.CheckpointError, match=r"expected step 7, .*complete steps: 5, 12"):
        checkpoint.read(tmp_path / "src", step=7)
    (tmp_path / "text").write_text("no checkpoint")
    with pytest.raises(errors.CheckpointError, match="it is a file of another kind"):
        inspect.inspect(tmp_path / "text")


def test_two_names_that_would_be_one_are_refused_in_a_file(tmp_path):
    params = {"a": {"b": np.ones(2, np.float32)}, "a.b": np.zeros(2, np.float32)}
    tree = {"params": {**params, "Dense_0": {"kernel": np.ones((2, 2), np.float32)}}}
    (tmp_path / "src.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    with pytest.raises(errors.ConvertError, match=r"both would be kept as 'params\.a\.b'"):
        _convert(tmp_path / "src.msgpack", tmp_path / "dst.msgpack", "linen-variables")


def test_statistics_of_stacked_layers_compare_equal(tmp_path):
    state = _state()
    ocp.PyTreeCheckpointer().save(tmp_path / "apart", state)
    state.batch_stats["layers_1"]["BatchNorm_0"]["mean"][2] += 1
    ocp.PyTreeCheckpointer().save(tmp_path / "other", state)
    _convert(tmp_path / "apart", tmp_path / "stacked", "nnx", scan=True, scan_axis=1)
    apart, other, stacked = (
        checkpoint.read(tmp_path / name) for name in ("apart", "other", "stacked")
    )
    assert stacked.leaves["batch_stats/layers/BatchNorm_0/mean"].shape == (3, 4)
    assert hash.fingerprint(apart).digest == hash.fingerprint(stacked).digest
    assert hash.fingerprint(other).digest != hash.fingerprint(stacked).digest
    assert diff.diff(apart, stacked).exit_code == 0
    assert diff.diff(stacked, apart).exit_code == 0
    found = diff.diff(other, stacked)
    assert found.exit_code == 1
    assert [line.path for line in found.lines if line.sign == "*"] == [
        "batch_stats/layers/BatchNorm_0/mean"
    ]


def test_a_folder_of_flax_with_orbax_is_one_of_steps(tmp_path):
    for step in (3, 12):
        ocp.PyTreeCheckpointer().save(tmp_path / "src" / f"checkpoint_{step}", _state())
    (tmp_path / "src" / "checkpoint_13.orbax-checkpoint-tmp-1").mkdir()
    assert inspect.inspect(tmp_path / "src").steps == (3, 12)
    assert mapping.plan(checkpoint.read(tmp_path / "src"), "nnx").step == 12
    assert checkpoint.read(tmp_path / "src", step=3).place.step == 3
    assert checkpoint.read(tmp_path / "src" / "checkpoint_3").place.step == 3
    (tmp_path / "src" / "checkpoint_12" / "commit_success.txt").unlink()
    told = tmp_path / "src" / "checkpoint_12" / "_CHECKPOINT_METADATA"
    told.write_text("{}")
    assert checkpoint.read(tmp_path / "src").place.step == 3


def test_what_only_the_container_tells_comes_back(tmp_path):
    """Which holes are tuples, which numbers are no arrays; and every byte of a msgpack file."""
    tx = optax.MultiSteps(optax.chain(optax.clip(1.0), optax.adamw(1e-3)), 2)
    params = {"Dense_0": {"kernel": np.ones((40, 3), np.float32), "bias": np.float32(3)}}
    state = train_state.TrainState.create(apply_fn=None, params=params, tx=tx)
    state = state.replace(step=np.int32(7))
    ocp.PyTreeCheckpointer().save(tmp_path / "src", state)
    _convert(tmp_path / "src", tmp_path / "nnx", "nnx")
    _convert(tmp_path / "nnx", tmp_path / "back", "linen")
    kinds = [
        {
            path: entry.kind
            for path, entry in checkpoint.read(tmp_path / at).storage.told.entries.items()
        }
        for at in ("src", "back", "nnx")
    ]
    assert kinds[0] == kinds[1] != kinds[2]
    assert {"Tuple", "scalar"} <= set(kinds[0].values())
    file = tmp_path / "checkpoint_7"
    file.write_bytes(flax.serialization.to_bytes(state))
    _convert(file, tmp_path / "native", "nnx")
    _convert(tmp_path / "native", tmp_path / "back.msgpack", "linen")
    assert (tmp_path / "back.msgpack").read_bytes() == file.read_bytes()


def test_what_is_inferred_or_not_said_is_noted(tmp_path):
    """And is not where a user says it; nor is a conversion that converts nothing left untold."""

    def notes(source, to, **options):
        return " ".join(mapping.plan(checkpoint.read(source), to, **options).notes)

    ocp.PyTreeCheckpointer().save(tmp_path / "src", _state())
    assert "say --to nnx-pair" in notes(tmp_path / "src", "nnx")
    assert "nnx-pair" not in notes(tmp_path / "src", "nnx-optimizer")
    assert "in layout linen-state already" in notes(tmp_path / "src", "linen")
    for changed in ({"dtype": "bfloat16"}, {"scan": True}, {"params_only": True}):
        assert "already" not in notes(tmp_path / "src", "linen", **changed)
    _convert(tmp_path / "src", tmp_path / "nnx", "nnx-pair")
    shutil.copytree(tmp_path / "nnx", tmp_path / "foreign")
    next((tmp_path / "foreign").glob("*/_CHECKPOINT_METADATA")).write_text("{}")  # as NNX has it
    assert "convert --optimizer module:name" in notes(tmp_path / "foreign", "linen-state")
    told = notes(tmp_path / "foreign", "linen-state", optimizer=optax.adamw(1e-3))
    assert "inferred" not in told and "already" not in told


def test_a_field_of_a_train_state_is_left_out_by_its_collection(tmp_path):
    def planned(what):
        document = files.parse({"rules": [{"drop": what, "reason": "x"}]}, "here")
        return mapping.plan(checkpoint.read(tmp_path / "src"), "nnx", map_file=document)

    ocp.PyTreeCheckpointer().save(
        tmp_path / "src", {**vars(_state()), "apply_fn": None, "tx": None, "key": np.ones(2)}
    )
    for said in ("key", "batch_stats"):
        with pytest.raises(errors.ConfigError, match=f"{{drop: {{collection: {said}}}, reason"):
            planned(said)
    assert not any("key" in path for path in planned({"collection": "key"}).leaves)
    with pytest.raises(errors.ConfigError, match="a rule matches nothing, or changes nothing"):
        planned("step")
