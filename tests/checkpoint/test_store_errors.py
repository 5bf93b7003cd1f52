"""Bad checkpoints: refused with a text that lists every leaf and says what to do."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxmig import errors
from maxmig.checkpoint import Store
from maxmig.converters import checkpoint, convert


@pytest.fixture
def saved(tmp_path, flat):
    """A directory with the steps 0 and 1."""
    with Store(tmp_path / "run") as store:
        for step in (0, 1):
            store.save(step, {**flat, "step": jnp.int32(step + 1)}, metadata={"param_scan_axis": 1})
    return tmp_path / "run"


def refused(store, target, step=None, **options) -> str:
    with pytest.raises(errors.CheckpointError) as error:
        store.restore(step, target, **options)
    assert error.value.exit_code == 4
    return str(error.value)


def test_another_shape(saved, flat, helpers):
    target = helpers.target_of(flat)
    target["params/head"] = jax.ShapeDtypeStruct((8, 32), jnp.float32)
    target["opt_state/0/mu/head"] = jax.ShapeDtypeStruct((8, 32), jnp.float32)
    told = refused(Store(saved), target)
    assert "2 leaves differ" in told
    for path in ("params/head", "opt_state/0/mu/head"):
        assert (
            f"{path}: the model expects float32[8, 32], the checkpoint has float32[8, 16]" in told
        )
    assert "configuration that it was trained with" in told


def test_another_type(saved, flat, helpers):
    target = helpers.target_of(flat)
    target["params/head"] = jax.ShapeDtypeStruct((8, 16), jnp.bfloat16)
    told = refused(Store(saved), target)
    assert "params/head: the model expects bfloat16[8, 16], the checkpoint has float32" in told


def test_another_kind_of_random_key(saved, flat, helpers):
    flat["aux/decoder/drop/rngs/dropout/key"] = jax.random.key(0, impl="rbg")
    told = refused(Store(saved), helpers.target_of(flat), cast=True)
    assert "expects key<rbg>[], the checkpoint has key<threefry2x32>[]" in told


def test_missing_and_extra_leaves_are_all_listed(saved, flat, helpers):
    target = helpers.target_of(flat)
    for path in ("params/decoder/layers/b", "opt_state/2/count"):
        del target[path]
    target["params/new"] = target["params/other"] = target["params/head"]
    told = refused(Store(saved), target)
    for path in ("params/new", "params/other"):
        assert f"missing  {path}: the model expects float32[8, 16]" in told
    for path in ("params/decoder/layers/b", "opt_state/2/count"):
        assert f"extra    {path}: the checkpoint has" in told


def test_a_missing_parameter_is_found_in_parameters_only(saved, flat, helpers):
    target = {**helpers.target_of(flat), "params/new": jax.ShapeDtypeStruct((), jnp.float32)}
    assert "missing  params/new" in refused(Store(saved), target, only="params")
    assert "nothing to restore" in refused(Store(saved), {"step": target["step"]}, only="params")


def test_only_takes_two_words(saved):
    with pytest.raises(ValueError, match="'all' or 'params'"):
        Store(saved).restore(None, {}, only="weights")


def test_other_scan_layout_names_the_conversion(saved, flat, helpers, tmp_path):
    convert.run(convert.plan(checkpoint.read(saved), "linen", scan=False), tmp_path / "apart")
    apart = helpers.targets_of(tmp_path / "apart")
    told = refused(Store(saved), apart)
    assert "layers stacked (scan_layers=true), the model has them apart" in told
    assert f"maxmig ckpt convert {saved}/1 DST --to linen --no-scan" in told
    told = refused(Store(tmp_path / "apart"), helpers.target_of(flat))
    assert "layers apart (scan_layers=false)" in told and "--to linen --scan " in told
    assert "params/decoder/layers_1/w" in told and "params/decoder/layers/w" in told


def test_other_layer_axis_names_the_conversion(saved, helpers, tmp_path):
    convert.run(convert.plan(checkpoint.read(saved), "nnx", scan_axis=0), tmp_path / "axis0")
    target = helpers.targets_of(tmp_path / "axis0")
    assert "--to linen --scan-axis 0" in refused(Store(saved), target)
    told = refused(Store(tmp_path / "axis0"), target, expect={"param_scan_axis": 1})
    assert "stacked on axis 0, the model's on axis 1" in told and "--scan-axis 1" in told
    assert Store(saved).restore(None, helpers.targets_of(saved), expect={"param_scan_axis": 1})


def damage(kind, directory):
    step = directory / "1"
    match kind:
        case "unfinished":
            step.rename(directory / "1.orbax-checkpoint-tmp-7")
        case "no step marker":
            (step / "commit_success.txt").unlink()
        case "no items marker":
            (step / "items" / "commit_success.txt").unlink()
        case "never committed":
            for file in (step / "commit_success.txt", step / "items" / "commit_success.txt"):
                file.unlink()
            told = json.loads((step / "_CHECKPOINT_METADATA").read_text())
            told["commit_timestamp_nsecs"] = None
            (step / "_CHECKPOINT_METADATA").write_text(json.dumps(told))
        case "no index":
            (step / "items" / "manifest.ocdbt").unlink()
        case "no tree":
            (step / "items" / "_METADATA").unlink()
        case "no items":
            shutil.rmtree(step / "items")


@pytest.mark.parametrize(
    "kind",
    [
        "unfinished",
        "no step marker",
        "no items marker",
        "never committed",
        "no index",
        "no tree",
        "no items",
    ],
)
def test_half_written(kind, saved, flat, helpers):
    """The step is refused by name, with the last good one; `latest` and a resume pass over it."""
    damage(kind, saved)
    store = Store(saved)
    told = refused(store, helpers.target_of(flat), step=1)
    assert "half-written" in told and "last good step beside it is 0" in told
    assert (store.steps(), store.latest()) == ([0], 0)
    assert int(store.restore(None, helpers.target_of(flat)).flat["step"]) == 1
    if kind != "unfinished":
        told = refused(Store(saved / "1"), helpers.target_of(flat))
        assert "half-written" in told and "last good step beside it is 0" in told


def test_only_half_written_steps(saved, flat, helpers):
    shutil.rmtree(saved / "0")
    damage("unfinished", saved)
    told = refused(Store(saved), helpers.target_of(flat))
    assert "all 1 steps in it are half-written (1.orbax-checkpoint-tmp-7)" in told


@pytest.mark.parametrize("file", ["_METADATA", "manifest.ocdbt", "array_metadatas/process_0"])
@pytest.mark.parametrize("content", [b"", b"{]", b"\xff\x00\xfe", b"[" * 100_000])
def test_damaged_metadata(file, content, saved, flat, helpers):
    (saved / "1" / "items" / file).write_bytes(content)
    told = refused(Store(saved), helpers.target_of(flat), step=1)
    assert str(saved) in told and ("damaged" in told or "copy" in told)


def test_truncated_data(saved, flat, helpers):
    for file in (saved / "1" / "items").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-20])
    assert "damaged or incomplete" in refused(Store(saved), helpers.target_of(flat), step=1)


def test_missing_data_files(saved, flat, helpers):
    for file in (saved / "1" / "items").rglob("d/*"):
        file.unlink()
    assert "damaged or incomplete" in refused(Store(saved), helpers.target_of(flat), step=1)


def test_damaged_loader_state(saved, flat, helpers):
    with Store(saved) as store:
        store.save(2, flat, data_state={"a": 1})
    (saved / "2" / "iter" / "metadata").write_text("{")
    assert "expected the data loader's state" in refused(Store(saved), helpers.target_of(flat))


def test_nothing_there(tmp_path, flat, helpers):
    target = helpers.target_of(flat)
    assert "there is nothing" in refused(Store(tmp_path / "none"), target)
    assert Store(tmp_path / "none").latest() is None
    (tmp_path / "file").write_text("x")
    assert "it is a file" in refused(Store(tmp_path / "file"), target)
    (tmp_path / "empty").mkdir()
    assert "it is empty" in refused(Store(tmp_path / "empty"), target)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    assert "but it holds none; check the path" in refused(Store(tmp_path / "other"), target)


def test_a_step_that_is_not_there(saved, flat, helpers):
    told = refused(Store(saved), helpers.target_of(flat), step=7)
    assert "expected step 7, which is not there; complete steps: 0, 1" in told
    told = refused(Store(saved / "0"), helpers.target_of(flat), step=1)
    assert "expected step 1, but this is the directory of step 0" in told


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_for_real(saved, flat, helpers):
    (saved / "1" / "items" / "_METADATA").chmod(0)
    assert "Permission denied" in refused(Store(saved), helpers.target_of(flat), step=1)


def test_no_permission(saved, flat, helpers, monkeypatch):
    """The same for root, whom no file mode stops."""

    def deny(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(saved), "iterdir", deny)
    told = refused(Store(saved), helpers.target_of(flat), step=1)
    assert "it cannot be read (Permission denied)" in told


def test_an_unknown_tree(tmp_path, flat, helpers):
    import orbax.checkpoint as ocp

    ocp.PyTreeCheckpointer().save(tmp_path / "x", {"weights": {"w": np.ones(3, np.float32)}})
    told = refused(Store(tmp_path / "x"), helpers.target_of(flat))
    assert "no known layout fits this checkpoint (top-level keys: weights)" in told


def test_a_placeholder_in_the_checkpoint(tmp_path, flat, helpers):
    import orbax.checkpoint as ocp

    held = {"w": np.ones(3, np.float32), "v": np.ones(3, np.float32)}
    tree = {"params": {"params": {**held, "w": None}}, "opt_state": [{"mu": {"params": held}}]}
    ocp.PyTreeCheckpointer().save(tmp_path / "x", tree)
    told = refused(Store(tmp_path / "x"), helpers.target_of(flat))
    assert "params/params/w: a hole (None) instead of an array" in told


@pytest.mark.parametrize("value", [None, ..., jax.ShapeDtypeStruct((2,), jnp.float32)])
def test_placeholders_are_not_saved(value, flat, tmp_path):
    flat["params/head"] = value
    with pytest.raises(errors.CheckpointError, match="params/head: expected an array, got a place"):
        Store(tmp_path / "run").save(0, flat)
    assert not (tmp_path / "run").exists()


def test_a_skeleton_that_does_not_fit_is_not_saved(flat, tmp_path):
    skeleton = {"tuple": [{"dict": {"count": "array", "mu": {"params": []}}}]}
    with pytest.raises(errors.CheckpointError, match="not saved: the optimizer's leaves and its"):
        Store(tmp_path / "run").save(0, flat, skeleton=skeleton)


@pytest.mark.parametrize(
    ("dtype", "told"), [("float32", "an integer scalar"), ("uint32", "2\\*\\*31")]
)
def test_a_step_that_is_no_count(dtype, told, tmp_path, flat, helpers):
    import orbax.checkpoint as ocp

    step = np.asarray(3_000_000_000, dtype)
    tree = {"model": {"w": jnp.ones(3)}, "optimizer": {"step": step}}
    ocp.PyTreeCheckpointer().save(tmp_path / "x", tree)
    target = {
        "params/w": jax.ShapeDtypeStruct((3,), jnp.float32),
        "step": jax.ShapeDtypeStruct((), "int32"),
    }
    with pytest.raises(errors.CheckpointError, match=told):
        Store(tmp_path / "x").restore(None, target)
