"""`--resume` where the result is whole already: nothing to do; and options that do nothing."""

import uuid

import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_dtypes import float8_e4m3fn

from maxmig.cli import main


def save(path, number=1.0, dtype=np.float32):
    """Two parameters."""
    dense = {"kernel": np.full((2, 3), number, dtype), "bias": np.full(3, number, np.float32)}
    ocp.PyTreeCheckpointer().save(path, {"params": {"dense": dense}}, force=True)
    return path


@pytest.fixture
def ckpt(capsys):
    def run(*words, code=0):
        assert main.main(["ckpt", *map(str, words)]) == code
        return "".join(capsys.readouterr())

    return run


@pytest.mark.parametrize("target", ["dst", "dst.msgpack", "dst.safetensors", "memory://finished/"])
def test_a_finished_result_of_the_same_plan_is_success(ckpt, tmp_path, target):
    source = save(tmp_path / "src")
    made = f"{target}{uuid.uuid4()}" if "://" in target else tmp_path / target
    words = ["convert", source, made, "--from", "linen-variables", "--to", "nnx-state"]
    ckpt(*words)
    ckpt(*words, "--resume", "--dry-run")
    assert "finished already" in ckpt(*words, "--resume")
    assert "finished already" not in ckpt(*words, "--resume", "--overwrite")
    for other in ([], ["--resume", "--dtype", "bfloat16"], ["--resume", "--verify", "none"]):
        assert "exists already" in ckpt(*words, *other, code=4)
    save(source, 2.0)
    assert "exists already" in ckpt(*words, "--resume", code=4)


def test_options_without_effect_are_told(ckpt, tmp_path):
    source = save(tmp_path / "src", dtype=float8_e4m3fn)
    words = ["convert", source, tmp_path / "dst.msgpack", "--from", "linen-variables"]
    told = ckpt(*words, "--to", "nnx-state", "--ocdbt", "--zarr", "3", "--dry-run")
    assert "a msgpack file has no OCDBT and no Zarr" in told
    assert "no Zarr" not in ckpt(*words, "--to", "nnx-state", "--dry-run")
    told = ckpt(*words, "--to", "nnx-state", "--dtype", "bfloat16", "--dry-run")
    assert "params/dense/kernel: float8_e4m3fn, which --dtype leaves as it is" in told
    save(source)
    told = ckpt(*words, "--to", "nnx-state", "--dtype", "bfloat16", "--dry-run")
    assert "which --dtype leaves" not in told


@pytest.mark.parametrize(
    "options",
    [
        ["--scan", "--no-scan"],
        ["--no-ocdbt", "--ocdbt"],
        ["--dtype", "float32,float16"],
        ["--dtype", "float32,params=float16"],
    ],
)
def test_options_that_contradict_are_refused(ckpt, tmp_path, options):
    words = ["convert", save(tmp_path / "src"), tmp_path / "dst", "--from", "linen-variables"]
    ckpt(*words, "--to", "nnx-state", *options, code=2)
    ckpt(*words, "--to", "nnx-state", "--dtype", "float32,opt_state=float32", "--dry-run")


@pytest.mark.parametrize(
    ("dtype", "number", "wider"), [("float16", 7e4, "bfloat16"), ("bfloat16", 3.4e38, "float32")]
)
def test_a_wider_type_is_named(ckpt, tmp_path, dtype, number, wider):
    words = ["convert", save(tmp_path / "src", number), tmp_path / "dst", "--dtype", dtype]
    told = ckpt(*words, "--from", "linen-variables", "--to", "nnx-state", code=4)
    assert f"does not fit {dtype}" in told and f"such as {wider}" in told


def test_diff_takes_a_step_of_both_sides(ckpt, tmp_path):
    for name in "ab":
        with ocp.CheckpointManager(tmp_path / name) as manager:
            for step in (1, 2):
                same = 1.0 if step == 1 else ord(name)
                tree = {"params": {"dense": {"bias": np.full(3, same, np.float32)}}}
                manager.save(step, args=ocp.args.StandardSave(tree))
    words = ["diff", tmp_path / "a", tmp_path / "b", "--from", "linen-variables"]
    ckpt(*words, code=1)
    ckpt(*words, "--step", "2", code=1)
    ckpt(*words, "--step", "1")
    assert "expected step 3" in ckpt(*words, "--step", "3", code=4)
