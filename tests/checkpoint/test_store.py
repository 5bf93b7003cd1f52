"""Saving and restoring: both layouts, both ways, sharded or not, bit for bit."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from maxmig import errors
from maxmig.checkpoint import Store
from maxmig.converters import accounting, checkpoint, convert


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("layout", ["linen", "nnx"])
def test_what_was_saved_comes_back(layout, asynchronous, flat, skeleton, tmp_path, helpers):
    own = {"stage": "nnx", "config_digest": "d", "seed": 1, "param_scan_axis": 1}
    with Store(tmp_path, layout=layout, asynchronous=asynchronous) as store:
        assert store.save(4, flat, skeleton=skeleton, metadata=own, data_state={"epoch": [1, 2]})
        restored = store.restore(None, helpers.target_of(flat))
    helpers.assert_equal(restored.flat, flat)
    assert restored.data_state == {"epoch": [1, 2]}
    assert restored.metadata.items() >= {**own, "layout": layout, "scan_layers": True}.items()
    assert restored.metadata["skeleton"] == skeleton
    assert {"jax", "flax", "optax", "orbax-checkpoint", "maxmig"} <= restored.metadata[
        "versions"
    ].keys()
    assert {row["what"] for row in restored.accounting.rows()} == {accounting.RESTORED}


@pytest.mark.parametrize(
    ("stage", "layout"),
    [("linen", "linen"), ("bridged", "linen"), ("hybrid", "nnx"), ("nnx", "nnx")],
)
def test_auto_is_the_layout_of_the_wing(stage, layout, flat, tmp_path):
    with Store(tmp_path) as store:
        store.save(0, flat, metadata={"stage": stage})
    assert checkpoint.read(tmp_path).layout.name == layout


def test_unknown_stage_or_layout(flat, tmp_path):
    with pytest.raises(errors.CheckpointError, match="expected the stage to be one of"):
        Store(tmp_path).save(0, flat, metadata={"stage": "torch"})
    with pytest.raises(errors.ConfigError, match="expected a checkpoint layout"):
        Store(tmp_path, layout="torch")


@pytest.mark.parametrize(
    "options", [{"ocdbt": False}, {"zarr3": False}, {"ocdbt": False, "zarr3": False}]
)
def test_storage_options(options, flat, tmp_path, helpers):
    with Store(tmp_path, **options) as store:
        store.save(0, flat)
        restored = store.restore(0, helpers.target_of(flat))
    helpers.assert_equal(restored.flat, flat)


def test_restores_straight_to_shardings(flat, tmp_path, helpers):
    mesh = jax.make_mesh((8,), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    target = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=split if leaf.shape[:1] == (8,) else whole
        )
        for path, leaf in helpers.target_of(flat).items()
    }
    with Store(tmp_path) as store:
        store.save(0, flat)
        restored = store.restore(0, target)
        assert restored.flat["params/head"].sharding == split
        assert restored.flat["params/head"].addressable_shards[3].data.shape == (1, 16)
        helpers.assert_equal(restored.flat, flat)
        store.save(1, restored.flat)  # and sharded arrays are saved
        helpers.assert_equal(store.restore(1, helpers.target_of(flat)).flat, flat)


def test_parameters_only(flat, tmp_path, helpers):
    with Store(tmp_path) as store:
        store.save(0, flat)
        restored = store.restore(0, helpers.target_of(flat), only="params")
    assert restored.flat.keys() == {path for path in flat if path.startswith("params/")}
    assert {entry.what for entry in restored.accounting.fates} == {
        accounting.RESTORED,
        accounting.NOT_ASKED,
    }


def test_random_state_may_be_absent_on_either_side(flat, tmp_path, helpers):
    """A Linen model asks for none; an NNX model finds none in a Linen save: both derive it."""
    plain = {path: array for path, array in flat.items() if not path.startswith("aux/")}
    with Store(tmp_path) as store:
        store.save(0, flat)
        store.save(1, plain)
        linen = store.restore(0, helpers.target_of(plain))
        nnx = store.restore(1, helpers.target_of(flat))
    for restored in (linen, nnx):
        helpers.assert_equal(restored.flat, plain)
    derived = [entry for entry in linen.accounting.fates if entry.what == accounting.DERIVED]
    assert [entry.path for entry in derived] == sorted(path for path in flat if path not in plain)
    assert accounting.DERIVED in {entry.what for entry in nnx.accounting.origins}


def test_a_declared_cast(flat, tmp_path, helpers):
    target = helpers.target_of(flat)
    target["params/head"] = jax.ShapeDtypeStruct((8, 16), jnp.bfloat16)
    with Store(tmp_path) as store:
        store.save(0, flat)
        restored = store.restore(0, target, cast=True)
    assert restored.flat["params/head"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        restored.flat["params/head"], flat["params/head"].astype(jnp.bfloat16)
    )
    assert "restored, cast float32 -> bfloat16" in {e.what for e in restored.accounting.origins}


def test_wide_types_stay_wide(tmp_path):
    flat = {"params/w": np.arange(3, dtype=np.int64) + 2**40, "params/v": np.float64([1 / 3])}
    with Store(tmp_path) as store:
        store.save(0, flat)
        restored = store.restore(0, flat)
    assert all(restored.flat[path].dtype == flat[path].dtype for path in flat)
    np.testing.assert_array_equal(restored.flat["params/w"], flat["params/w"])
    np.testing.assert_array_equal(restored.flat["params/v"], flat["params/v"])


def test_keeps_the_last_n(flat, tmp_path):
    with Store(tmp_path, keep=2) as store:
        for step in range(4):
            store.save(step, {**flat, "step": jnp.int32(step + 1)})
        store.wait()
        assert (store.steps(), store.latest()) == ([2, 3], 3)


def test_a_step_is_saved_once(flat, tmp_path):
    with Store(tmp_path) as store:
        assert store.save(3, flat)
        assert not store.save(3, flat)
    with Store(tmp_path) as store, pytest.raises(errors.CheckpointError, match="is there already"):
        store.save(3, flat)


def test_a_run_may_save_steps_before_the_last(flat, tmp_path):
    with Store(tmp_path) as store:
        store.save(9, flat)
        assert store.save(3, flat)
        store.wait()
        assert store.steps() == [3, 9]


def test_all_three_kinds_of_paths(fixtures, helpers):
    base = fixtures / "gpt3_linen_scan" / "checkpoint"
    target = helpers.targets_of(base)
    for path in (base, base / "9", base / "9" / "items"):
        store = Store(path)
        assert (store.steps(), store.latest()) == ([9], 9)
        assert store.restore(None, target).metadata["scan_layers"] is True
        assert store.restore(9, target).flat.keys() == target.keys()


def test_an_items_directory_alone(fixtures, tmp_path, helpers):
    base = fixtures / "gpt3_linen_scan" / "checkpoint"
    (tmp_path / "copy").symlink_to(base / "9" / "items")
    restored = Store(tmp_path / "copy").restore(None, helpers.targets_of(base))
    assert restored.metadata["layout"] == "linen" and restored.data_state is None
    with pytest.raises(errors.CheckpointError, match="this is one checkpoint"):
        Store(tmp_path / "copy").save(10, restored.flat)


@pytest.mark.parametrize(
    "name", ["llama2_linen_scan", "llama2_nnx_noscan", "gpt3_nnx_scan", "llama2_muon_linen_scan"]
)
def test_our_linen_tree_is_maxtexts(name, fixtures, tmp_path, helpers):
    """Key for key, key type for key type: what MaxText would need to load our save."""
    base = fixtures / name / "checkpoint"
    restored = Store(base).restore(None, helpers.targets_of(base))
    with Store(tmp_path, layout="linen") as store:
        store.save(9, restored.flat, skeleton=restored.metadata["skeleton"])
    theirs, ours = (tree_metadata(each / "9" / "items") for each in (base, tmp_path))
    assert ours == theirs
    told = json.loads((tmp_path / "9" / "_CHECKPOINT_METADATA").read_text())
    assert told["custom_metadata"]["scan_layers"] is ("noscan" not in name)


@pytest.mark.parametrize("name", ["llama2_pre3929nnx_noscan", "gpt3_pre3929nnx_scan"])
def test_our_native_tree_is_maxtexts(name, fixtures, tmp_path, helpers):
    base = fixtures / name / "checkpoint"
    restored = Store(base).restore(None, helpers.targets_of(base))
    with Store(tmp_path, layout="nnx") as store:
        store.save(9, restored.flat, skeleton=restored.metadata["skeleton"])
    theirs, ours = (tree_metadata(each / "9" / "items") for each in (base, tmp_path))
    assert ours == theirs


def tree_metadata(items: Path):
    """Orbax's own words for a tree; the order of keys has no meaning."""
    told = json.loads((items / "_METADATA").read_text())["tree_metadata"]
    return {key: (entry["key_metadata"], entry["value_metadata"]) for key, entry in told.items()}


def test_a_flag_flip_needs_no_rewrite(flat, skeleton, tmp_path, helpers):
    """Linen saves, NNX goes on in the same directory, and back: one directory, two layouts."""
    plain = {path: array for path, array in flat.items() if not path.startswith("aux/")}
    with Store(tmp_path) as store:
        store.save(0, plain, skeleton=skeleton, metadata={"stage": "linen"})
    with Store(tmp_path) as store:
        resumed = store.restore(None, helpers.target_of(flat))
        store.save(1, resumed.flat, skeleton=skeleton, metadata={"stage": "nnx"})
    with Store(tmp_path) as store:
        back = store.restore(None, helpers.target_of(plain))
    helpers.assert_equal(back.flat, plain)
    assert [checkpoint.read(tmp_path, step=step).layout.name for step in (0, 1)] == ["linen", "nnx"]


def test_converted_checkpoints_are_restored(fixtures, tmp_path, helpers):
    base = fixtures / "gpt3_nnx_scan" / "checkpoint"
    convert.run(convert.plan(checkpoint.read(base), "nnx", scan=False), tmp_path / "n")
    target = helpers.targets_of(fixtures / "gpt3_nnx_noscan" / "checkpoint")
    restored = Store(tmp_path / "n").restore(9, target)
    assert int(restored.flat["step"]) == 10
