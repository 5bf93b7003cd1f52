"""Names of leaves and links never lead out of a directory, and no two leaves to one place."""

import json

import jax.numpy as jnp
import pytest
from engine_cases import contents, convert, renamed, save, state

from maxmig import errors
from maxmig.converters import storage


@pytest.mark.parametrize("odd", ["..", "a/../../b", "../x"])
def test_leaf_names_never_lead_out(odd, tmp_path):
    source = storage.open(save(tmp_path / "src", state()))
    todo = renamed(source, lambda path: (odd, *path) if path[0] != "step" else (odd,))
    for database in (True, False):
        with pytest.raises(errors.ConvertError, match="no safe name of a file"):
            convert(todo, tmp_path / "dst", ocdbt=database)


def test_odd_names_stay_inside(tmp_path):
    source = storage.open(save(tmp_path / "src", state()))
    todo = renamed(source, lambda path: ("a/b\x07", *path))
    convert(todo, tmp_path / "dst")
    assert len(contents(tmp_path / "dst")) == len(source.tree())
    with pytest.raises(errors.ConvertError, match="no safe name of a file"):
        convert(todo, tmp_path / "plain", ocdbt=False)


def test_names_that_are_too_long_for_files(tmp_path):
    source = storage.open(save(tmp_path / "source", {"w": jnp.ones(3)}))
    longest = renamed(source, lambda path: ("a" * 255,))
    convert(longest, tmp_path / "fits", ocdbt=False)
    assert contents(tmp_path / "fits").keys() == {("a" * 255,)}
    longer = renamed(source, lambda path: ("é" * 128,))
    with pytest.raises(errors.ConvertError, match=r"256 bytes.*--ocdbt"):
        convert(longer, tmp_path / "result", ocdbt=False)
    assert not (tmp_path / "result").exists()
    convert(longer, tmp_path / "database", ocdbt=True)
    assert contents(tmp_path / "database").keys() == {("é" * 128,)}


def test_two_leaves_in_one_place(tmp_path):
    save(tmp_path / "src", {"a": {"b": jnp.ones(2)}, "c": jnp.ones(2)})
    todo = renamed(storage.open(tmp_path / "src"), lambda p: ("a.b",) if p == ("c",) else p)
    with pytest.raises(errors.ConvertError, match=r"both would be kept as 'a\.b'"):
        convert(todo, tmp_path / "dst")


def test_a_hostile_source_does_not_lead_out(tmp_path):
    save(tmp_path / "src", state(), use_ocdbt=False)
    items = tmp_path / "src" / "9" / "items"
    told = json.loads((items / "_METADATA").read_text())
    entry = told["tree_metadata"]["('step',)"]
    entry["key_metadata"][0]["key"] = "../../../secret"
    (items / "_METADATA").write_text(json.dumps(told))
    with pytest.raises(errors.CheckpointError, match="outside of the directory"):
        storage.open(tmp_path / "src").tree()


def test_links_out_of_the_source_are_refused(tmp_path):
    save(tmp_path / "src", state(), use_ocdbt=False)
    (tmp_path / "secret").write_text("x")
    (tmp_path / "src" / "9" / "items" / "step" / "more").symlink_to(tmp_path / "secret")
    with pytest.raises(errors.CheckpointError, match="a link that leads out of the checkpoint"):
        convert(renamed(storage.open(tmp_path / "src")), tmp_path / "dst")
