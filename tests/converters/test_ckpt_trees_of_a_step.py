"""The trees of one step, converted one after the other, come to one step."""

import numpy as np
import orbax.checkpoint as ocp
import pytest

from maxmig import errors
from maxmig.cli import main
from maxmig.converters import checkpoint, convert

AXES = {"ema": 0, "state": 1}  # of the layers


@pytest.fixture
def run(tmp_path):
    """Steps 9 and 12 of a run with two trees, and a file that is none."""
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step in (9, 12):
            trees = {name: _tree(name, step) for name in ("ema", "state")}
            saved = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
            manager.save(
                step, args=ocp.args.Composite(meta=ocp.args.JsonSave({"n": step}), **saved)
            )
    return tmp_path / "run"


def _tree(name, step):
    kernel = np.full((2, 3), step + len(name), np.float32)
    stacked = np.stack([kernel, kernel + 1], AXES.get(name, 0))
    return {"params": {"layers": {"dense": {"kernel": stacked}}}}


def converted(source, destination, to="nnx-state", **options):
    flags = {"overwrite": options.pop("overwrite", False)}
    if to == "nnx-state":
        options = {"scan": False, "from_scan_axis": AXES.get(source.name, 0)}
    source = checkpoint.read(source, layout="linen-variables" if to == "nnx-state" else None)
    return convert.run(convert.plan(source, to, **options), destination, **flags)


def test_they_are_together_and_each_has_its_way_back(run, tmp_path):
    out = tmp_path / "out"
    assert converted(run / "12" / "state", out) == out / "12"
    assert converted(run / "12" / "ema", out) == out / "12" / "ema"
    assert converted(run / "9" / "ema", out) == out / "9"
    assert converted(run / "9" / "state", out) == out / "9" / "state"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    with ocp.CheckpointManager(out) as manager:
        assert manager.all_steps() == [9, 12]
        asked = {name: ocp.args.StandardRestore() for name in ("ema", "state")}
        found = manager.restore(12, args=ocp.args.Composite(meta=ocp.args.JsonRestore(), **asked))
    assert found.meta == {"n": 12}
    assert found.ema["layers"]["1"]["dense"]["kernel"]["value"][0, 0] == 16
    for name, axis in AXES.items():  # each remembers the layer axis of its own source
        back = converted(out / "12" / name, tmp_path / name, "linen")
        made = ocp.StandardCheckpointer().restore(back / name)["params"]["layers"]["dense"]
        wanted = _tree(name, 12)["params"]["layers"]["dense"]["kernel"]
        assert np.array_equal(made["kernel"], wanted) and wanted.shape[axis] == 2


def test_only_the_tree_of_the_same_name_is_in_the_way(run, tmp_path, capsys):
    out = tmp_path / "out"
    converted(run / "12" / "state", out)
    converted(run / "12" / "ema", out)
    before = (out / "12/state/_METADATA").stat()
    with pytest.raises(errors.ConvertError, match=r"12/ema: exists already"):
        converted(run / "12" / "ema", out)
    words = ["ckpt", "convert", str(run / "12/ema"), str(out), "--to", "nnx-state", "--overwrite"]
    assert main.main([*words, "--no-scan", "--from-scan-axis", "0"]) == 0
    told = "".join(capsys.readouterr())
    assert f"{out}/12/ema exists" in told and "--overwrite replaces all of it" in told
    assert "holds other trees, which are not converted: state" in told
    assert (out / "12/state/_METADATA").stat() == before
    assert (
        checkpoint.read(out / "12/state").leaves.keys()
        == checkpoint.read(out / "12/ema").leaves.keys()
    )


def test_a_step_of_another_tree_is_no_place(run, tmp_path):
    """Where DST holds what the source's step does not."""
    with ocp.CheckpointManager(tmp_path / "other") as manager:
        manager.save(12, args=ocp.args.Composite(teacher=ocp.args.StandardSave(_tree("x", 1))))
    out = tmp_path / "out"
    converted(tmp_path / "other", out)
    with pytest.raises(errors.ConvertError, match=r"out/12: exists already"):
        converted(run / "12" / "ema", out)
