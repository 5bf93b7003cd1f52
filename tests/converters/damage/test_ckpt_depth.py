"""Trees that are nested too deep, in every container, and trees that hold nothing."""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from maxmig.checkpoint import Store
from maxmig.converters.leaves import DEEPEST

VERBS = ("inspect", "hash", "map", "convert")


def words(verb: str, place: Path, tmp_path: Path) -> tuple[object, ...]:
    """A command that reads a checkpoint."""
    more = {"map": ("--to", "nnx"), "convert": (tmp_path / "made", "--to", "nnx", "--dry-run")}
    return ("ckpt", verb, place, *more.get(verb, ()))


def saved(path: Path, tree: object) -> Path:
    import orbax.checkpoint as ocp

    ocp.PyTreeCheckpointer().save(path, tree)
    return path


def msgpack_of(path: Path, levels: int) -> Path:
    from flax import serialization

    leaf = serialization.msgpack_serialize({"kernel": np.ones(2, np.float32)})
    path.write_bytes(b"\x81\xa6params" + b"\x81\xa1a" * (levels - 2) + leaf)
    return path


def safetensors_of(path: Path, levels: int, metadata: object = None) -> Path:
    name = ".".join(["params", *["a"] * (levels - 2), "kernel"])
    header: dict[str, object] = {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    if metadata is not None:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + np.ones(2, np.float32).tobytes())
    return path


def orbax_of(path: Path, levels: int) -> Path:
    """Keys as Orbax's metadata list them; the array's own name stays."""
    saved(path, {"params": {"kernel": np.ones(2, np.float32)}})
    told = json.loads((path / "_METADATA").read_text())
    (entry,) = told["tree_metadata"].values()
    keys = ["params", *["a"] * (levels - 2), "kernel"]
    entry["key_metadata"] = [{"key": key, "key_type": 2} for key in keys]
    (path / "_METADATA").write_text(json.dumps(told))
    return path


MAKERS = {"c.msgpack": msgpack_of, "c.safetensors": safetensors_of, "orbax": orbax_of}


@pytest.mark.parametrize("file", MAKERS)
@pytest.mark.parametrize("levels", [DEEPEST + 1, 1000, 5000])
def test_a_tree_that_is_too_deep(file, levels, maxmig, tmp_path):
    place = MAKERS[file](tmp_path / file, levels)
    for verb in (*VERBS, "verify"):
        code, out, err = maxmig(*words(verb, place, tmp_path))
        assert code == 4 and out == "" and "nested" in err and str(DEEPEST) in err, (verb, err)
        assert len(err) < 500


@pytest.mark.parametrize("file", ["c.msgpack", "c.safetensors"])
def test_a_tree_as_deep_as_can_be(file, maxmig, tmp_path):
    """The control: the limit is not below what is told, and a result beyond it is refused."""
    place = MAKERS[file](tmp_path / file, DEEPEST)
    code, _, err = maxmig("ckpt", "convert", place, tmp_path / "made", "--to", "linen")
    assert code == 0, err
    assert (
        maxmig("ckpt", "hash", place)[1][:64] == maxmig("ckpt", "hash", tmp_path / "made")[1][:64]
    )
    code, _, err = maxmig("ckpt", "convert", place, tmp_path / "deeper", "--to", "nnx-optimizer")
    assert code == 4 and f"nested {DEEPEST + 1} deep" in err and not (tmp_path / "deeper").exists()


@pytest.mark.parametrize("depth", [500, sys.getrecursionlimit() - 60, sys.getrecursionlimit()])
def test_custom_metadata_that_are_deep(depth, maxmig, tmp_path):
    """They are taken over, or refused with the reason."""
    place = saved(tmp_path / "c", {"params": {"kernel": np.ones(2, np.float32)}})
    file = place / "_CHECKPOINT_METADATA"
    told = json.loads(file.read_text()) | {"custom_metadata": {"deep": 0}}
    file.write_text(json.dumps(told).replace('"deep": 0', '"deep": ' + "[" * depth + "]" * depth))
    for verb in VERBS:
        code, _, err = maxmig(*words(verb, place, tmp_path))
        assert code in (0, 4), (verb, err)
    code, _, err = maxmig("ckpt", "convert", place, tmp_path / "made", "--to", "nnx")
    assert (code == 0) == (tmp_path / "made").exists() and code in (0, 4), err


@pytest.mark.parametrize(
    "metadata",
    [{"maxmig": "no JSON"}, {"maxmig": "[" * 100_000}, {"maxmig": '{"holes": {"a": 1}}'}, [1]],
)
def test_a_header_whose_metadata_are_damaged(metadata, maxmig, tmp_path):
    place = safetensors_of(tmp_path / "c.safetensors", 4, metadata)
    code, _, err = maxmig("ckpt", "hash", place)
    assert code == 4 and "metadata" in err and ("damaged" in err or "header" in err)


EMPTY = {
    "dict": {"params": {}},
    "none": {"params": None},
    "state": {"params": {}, "opt_state": [{}, None]},
}


@pytest.mark.parametrize("tree", EMPTY)
def test_a_tree_that_holds_nothing(tree, maxmig, tmp_path):
    """Orbax writes no index of arrays then: it is whole, and empty."""
    place = saved(tmp_path / "empty", EMPTY[tree])
    assert not (place / "manifest.ocdbt").exists()
    for verb in ("hash", "map", "convert"):
        code, _, err = maxmig(*words(verb, place, tmp_path))
        assert code == 3 and "it is empty" in err and "params: " in err, (verb, err)
    assert maxmig("ckpt", "diff", place, place)[0] == maxmig("ckpt", "verify", place)[0] == 3
    code, out, _ = maxmig("ckpt", "inspect", place)
    assert code == 0 and "it is empty" in out and "half-written" not in out


def test_an_index_that_is_lost(maxmig, tmp_path):
    """The control: where there are arrays, a tree without their index is half-written."""
    place = saved(tmp_path / "c", {"params": {"kernel": np.ones(2, np.float32)}, "opt_state": None})
    (place / "manifest.ocdbt").unlink()
    code, _, err = maxmig("ckpt", "hash", place)
    assert code == 4 and "half-written: manifest.ocdbt" in err


def test_a_directory_of_steps_with_an_empty_one(tmp_path, maxmig):
    """Its step counts as complete, and a run is told what is wrong."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(tmp_path / "steps") as manager:
        manager.save(3, args=ocp.args.Composite(items=ocp.args.PyTreeSave({"params": {}})))
    with Store(tmp_path / "steps") as store:
        assert store.latest() == 3
    code, _, err = maxmig("ckpt", "hash", tmp_path / "steps")
    assert code == 3 and "it is empty" in err
