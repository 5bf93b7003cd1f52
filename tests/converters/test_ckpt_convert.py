"""Conversion of what MaxText wrote: every direction, byte for byte, and nothing by halves."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from maxmig import errors
from maxmig.checkpoint import Store
from maxmig.converters import axes, checkpoint, convert
from maxmig.converters.engine import journal
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import restack

OTHER = {"linen": "nnx", "nnx": "linen"}


def flat_of(path):
    found = checkpoint.read(path)
    return found.load(dict.fromkeys(found.places))


def fingerprint(directory: Path) -> dict[str, str]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_there_and_back_is_the_identity(name, source, converted, assert_same):
    start = checkpoint.read(source(name))
    away = converted(source(name), OTHER[start.layout.name])
    assert checkpoint.read(away).layout.name == OTHER[start.layout.name]
    assert_same(converted(away, start.layout.name), source(name))


def test_scan_there_and_back_is_the_identity(name, source, converted, assert_same):
    start = checkpoint.read(source(name))
    away = converted(source(name), OTHER[start.layout.name], scan=not start.scan_layers)
    assert checkpoint.read(away).scan_layers is not start.scan_layers
    assert_same(converted(away, start.layout.name, scan=start.scan_layers), source(name))


def test_other_axis_there_and_back_is_the_identity(name, source, converted, assert_same):
    start = checkpoint.read(source(name))
    away = converted(source(name), "nnx", scan=True, scan_axis=0)
    assert checkpoint.read(away).own["param_scan_axis"] == 0
    back = converted(away, start.layout.name, scan=start.scan_layers, scan_axis=None)
    if start.scan_layers:
        back = converted(back, start.layout.name, scan_axis=1)
    assert_same(back, source(name))


@pytest.mark.parametrize(
    ("newer", "native"),
    [
        ("gpt3_nnx_scan", "gpt3_pre3929nnx_scan"),
        ("llama2_nnx_noscan", "llama2_pre3929nnx_noscan"),
    ],
)
def test_ground_truth_of_the_native_layout(newer, native, source, converted, assert_same):
    """One run, saved by MaxText in both layouts: our conversion is its own other save."""
    assert_same(converted(source(newer), "nnx"), source(native))
    assert_same(converted(source(native), "linen"), source(newer))


def test_scanned_ground_truth_across_layers(source, converted):
    """Each layer taken apart is a slice of the stack: weights, moments, random state."""
    whole = flat_of(source("gpt3_nnx_scan"))
    apart = flat_of(converted(source("gpt3_nnx_scan"), "linen", scan=False))
    assert len(apart) > len(whole)
    for path, axis in {
        "params/decoder/%s/self_attention/qkv_proj/bias": 1,  # (3, 3, 2, 8): shapes do not tell
        "opt_state/mu/decoder/%s/mlp/wi/kernel": 1,
        "opt_state/nu/decoder/%s/mlp/mlp_layer_norm/scale": 1,
        "aux/decoder/%s/dropout/rngs/dropout/count": 0,
    }.items():
        stack = np.asarray(whole[path % "layers"])
        for index in range(3):
            layer = np.asarray(apart[path % f"layers_{index}"])
            np.testing.assert_array_equal(layer, stack.take(index, axis))
    key = "aux/decoder/%s/dropout/rngs/dropout/key"
    assert str(jax.random.key_impl(apart[key % "layers_2"])) == "unsafe_rbg"
    np.testing.assert_array_equal(
        jax.random.key_data(apart[key % "layers_2"]),
        jax.random.key_data(whole[key % "layers"])[2],
    )


def test_muon_skeleton_survives_restacking(source, converted, assert_same):
    name = "llama2_muon_linen_scan"
    apart = converted(source(name), "nnx", scan=False)
    masked = checkpoint.read(apart).skeleton["dict"]["inner_states"]["dict"]["adam"]
    told = json.dumps(masked)
    assert "decoder/layers_3/mlp/wo/kernel" in told and "decoder/layers/" not in told
    assert_same(converted(apart, "linen", scan=True), source(name))


def test_eleven_layers_stack_in_numeric_order(tmp_path, converted):
    flat = {f"params/decoder/layers_{i}/w": np.full((2,), i, np.float32) for i in range(11)}
    with Store(tmp_path / "run", asynchronous=False) as store:
        store.save(0, flat)
    made = flat_of(converted(tmp_path / "run", "nnx", scan=True, scan_axis=0))
    np.testing.assert_array_equal(made["params/decoder/layers/w"][:, 0], np.arange(11))


def test_params_only(source, converted):
    plan = convert.plan(checkpoint.read(source("llama2_linen_scan")), "nnx", params_only=True)
    assert {row["what"] for row in plan.accounting.rows()} == {
        convert.DROPPED,
        "kept",
        "copied",
    }
    made = checkpoint.read(converted(source("llama2_linen_scan"), "nnx", params_only=True))
    assert made.leaves and all(path.startswith("params/") for path in made.leaves)
    assert made.place.step == 9


def test_every_leaf_is_accounted_for(source):
    found = checkpoint.read(source("llama2_nnx_noscan"))
    plan = convert.plan(found, "nnx", scan=True)
    assert [entry.path for entry in plan.accounting.fates] == list(found.leaves)
    assert {entry.path for entry in plan.accounting.origins} == set(plan.leaves)
    assert sum(row["bytes"] for row in plan.accounting.rows() if row["side"] == "source") == sum(
        leaf.nbytes for leaf in found.leaves.values()
    )


def test_the_step_directory_keeps_its_other_items_and_metadata(source, tmp_path, converted):
    with Store(tmp_path / "run", asynchronous=False) as store:
        flat = flat_of(source("gpt3_linen_scan"))
        skeleton = checkpoint.read(source("gpt3_linen_scan")).skeleton
        own = {"stage": "linen", "config_digest": "abc", "seed": 3, "param_scan_axis": 1}
        store.save(9, flat, skeleton=skeleton, metadata=own, data_state={"shard": 4})
    extra = tmp_path / "run" / "9" / "grain"
    extra.mkdir()
    (extra / "process_0-of-1.json").write_text("{}")
    made = converted(tmp_path / "run", "nnx", scan=False)
    assert (made / "9" / "grain" / "process_0-of-1.json").read_text() == "{}"
    restored = checkpoint.read(made)
    assert restored.own["config_digest"] == "abc"
    assert restored.own["converted_from"]["layout"] == "linen"
    assert restored.metadata["scan_layers"] is False
    assert json.loads((made / "9" / "iter" / "metadata").read_text()) == {"shard": 4}


def test_the_source_is_only_read(source, converted):
    before = fingerprint(source("gpt3_linen_scan"))
    converted(source("gpt3_linen_scan"), "nnx", scan=False)
    assert fingerprint(source("gpt3_linen_scan")) == before


def test_destination_is_refused(source, tmp_path):
    plan = convert.plan(checkpoint.read(source("gpt3_linen_scan")), "nnx")
    there = tmp_path / "there"
    there.mkdir()
    (there / "note").write_text("mine")
    with pytest.raises(errors.ConvertError, match=r"exists already.*--overwrite"):
        convert.run(plan, there)
    assert (there / "note").read_text() == "mine"
    with pytest.raises(errors.ConvertError, match="the source is never changed"):
        convert.run(plan, source("gpt3_linen_scan") / "9" / "nnx")
    with pytest.raises(errors.ConvertError, match="the source is never changed"):
        convert.run(plan, source("gpt3_linen_scan") / "nnx")  # beside the step that is read
    with pytest.raises(errors.ConvertError, match="make it first"):
        convert.run(plan, tmp_path / "no" / "such")
    with pytest.raises(errors.ConvertError, match="does not look like one; remove it yourself"):
        convert.run(plan, there, overwrite=True)
    assert (there / "note").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_overwrite_replaces_the_step_only(source, tmp_path):
    plan = convert.plan(checkpoint.read(source("gpt3_linen_scan")), "nnx")
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    made = convert.run(plan, tmp_path / "link")  # an empty directory is no obstacle
    assert made == tmp_path / "runs" / "9"
    made.rename(tmp_path / "runs" / "8")
    convert.run(plan, tmp_path / "runs")  # a further step comes to those that are there
    with pytest.raises(errors.ConvertError, match=r"runs/9: exists already.*--overwrite"):
        convert.run(plan, tmp_path / "runs")
    before = (made / "_CHECKPOINT_METADATA").stat().st_ino
    convert.run(plan, tmp_path / "runs", overwrite=True)
    assert (made / "_CHECKPOINT_METADATA").stat().st_ino != before
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["8", "9"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "runs"]


@pytest.mark.parametrize("kind", ["a directory", "an empty directory", "a file"])
def test_what_appears_meanwhile_is_left_alone(kind, source, tmp_path, monkeypatch):
    there = tmp_path / "there"
    plan = convert.plan(checkpoint.read(source("gpt3_linen_scan")), "nnx")
    with monkeypatch.context() as patch:

        def appear(*args, **kwargs):
            if kind == "a file":
                there.write_text("mine")
                return
            there.mkdir()
            if kind == "a directory":
                (there / "note").write_text("mine")

        patch.setattr(convert, "_check_written", appear)
        if kind == "an empty directory":
            convert.run(plan, there)
            return
        with pytest.raises(errors.ConvertError, match="appeared while the conversion went on"):
            convert.run(plan, there)
    note = there if kind == "a file" else there / "note"
    assert note.read_text() == "mine"
    there.rename(tmp_path / "elsewhere")
    prepared = convert.prepare(plan, there)
    convert.carry_out(plan, prepared, there, resume=True)
    assert checkpoint.read(there).layout.name == "nnx"
    assert {path.name for path in tmp_path.iterdir()} == {"there", "elsewhere"}


def test_paths_may_go_up(source, tmp_path, monkeypatch):
    """TensorStore takes no `..`."""
    (tmp_path / "below").mkdir()
    (tmp_path / "src").symlink_to(source("gpt3_linen_scan"))
    monkeypatch.chdir(tmp_path / "below")
    plan = convert.plan(checkpoint.read("../src"), "nnx")
    made = convert.run(plan, "../made")
    assert made == tmp_path / "made" / "9"
    assert flat_of("../made")["step"] == flat_of("../src")["step"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_conversion_leaves_no_trace(error, source, tmp_path, monkeypatch):
    there = tmp_path / "there"
    plan = convert.plan(checkpoint.read(source("gpt3_linen_scan")), "nnx")
    convert.run(plan, there)
    (there / "note").write_text("mine")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(convert, "_check_written", fail)
    with pytest.raises(type(error)):
        convert.run(plan, there, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (there / "note").read_text() == "mine"


def test_remains_of_killed_conversions_are_cleared(source, tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".there.maxmig-tmp-{dead.pid}").mkdir()
    living = tmp_path / f".there.maxmig-tmp-{os.getppid()}"
    living.mkdir()
    remote = tmp_path / f".there.maxmig-tmp-{dead.pid + 1}"
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    journal.Journal(remote, "digest")
    monkeypatch.undo()
    convert.run(convert.plan(checkpoint.read(source("gpt3_linen_scan")), "nnx"), tmp_path / "there")
    assert {path.name for path in tmp_path.iterdir()} == {"there", living.name, remote.name}


def leaf(*shape):
    return Leaf(shape, "float32", 4 * int(np.prod(shape)))


def test_a_missing_layer_is_named():
    leaves = {f"params/decoder/layers_{i}/w": leaf(2) for i in (0, 2)}
    with pytest.raises(errors.ConvertError, match=r"layers/w: layers \[1\] of 3 have no such leaf"):
        restack.plan(leaves, None, scan=True)


def test_a_missing_last_layer_of_a_moment_is_named():
    leaves = {f"params/decoder/layers_{i}/w": leaf(2) for i in range(3)}
    leaves |= {f"opt_state/mu/decoder/layers_{i}/w": leaf(2) for i in range(2)}
    skeleton = {"dict": {"mu": {"params": ["decoder/layers_2/w"]}}}
    with pytest.raises(errors.ConvertError, match=r"opt_state/mu/.*layers_2/w: has no state here"):
        restack.plan(leaves, skeleton, scan=True)


def test_layers_of_other_shapes_are_refused():
    leaves = {"params/layers_0/w": leaf(2), "params/layers_1/w": leaf(3)}
    with pytest.raises(errors.ConvertError, match="the layers differ"):
        restack.plan(leaves, None, scan=True)


def test_factored_statistics_are_not_restacked():
    leaves = {"params/layers/w": leaf(8, 4, 6), "opt_state/v_row/layers/w": leaf(8, 4)}
    skeleton = {"dict": {"v_row": {"params": []}}}
    with pytest.raises(errors.ConvertError, match=r"has another shape .factored"):
        restack.plan(leaves, skeleton, scan=False, source_axis=1)


def test_the_layer_axis_is_told_from_the_shapes_or_asked_for():
    one = {"params/layers/w": leaf(4, 8), "params/layers/v": leaf(4, 6)}
    assert axes.layer_axis(one) == 0
    assert axes.layer_axis(one, known=0) == 0
    with pytest.raises(errors.ConvertError, match="cannot be on axis 1"):
        axes.layer_axis(one, known=1)
    both = {"params/decoder/layers/w": leaf(4, 6)}
    with pytest.raises(
        axes.Unclear, match=r"axis 0 \(4 layers\) or axis 1 \(6 layers\).*--from-scan"
    ):
        restack.plan(both, None, scan=False)
    names = ("token_embedder/embedding", "decoder/decoder_norm/scale")
    both |= {f"params/{name}": leaf(3) for name in names}
    state, axis = restack.plan(both, None, scan=False)
    assert axis == 1 and "MaxText's default" in state.notes[0]
    with pytest.raises(errors.ConvertError, match="neither in the metadata nor evident"):
        axes.layer_axis({"params/layers/w": leaf(4, 8), "params/layers/v": leaf(8, 4)})


def test_moved_axis_moves_the_moments_too(source, converted):
    a = flat_of(source("llama2_linen_scan"))
    b = flat_of(converted(source("llama2_linen_scan"), "linen", scan_axis=0))
    for path in (
        "params/decoder/layers/mlp/wo/kernel",
        "opt_state/0/nu/decoder/layers/mlp/wo/kernel",
    ):
        np.testing.assert_array_equal(np.moveaxis(np.asarray(a[path]), 1, 0), b[path])
