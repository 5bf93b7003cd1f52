"""A result is put in place although others come to the same directory at the same time."""

import json

import pytest

from maxmig.converters import places, remembered
from maxmig.converters.engine import commit, durable, joining


def step(folder, number, text, item="items"):
    """A finished step under a temporary name, with its journal."""
    made = folder / str(number) / item
    made.mkdir(parents=True)
    (made / "_METADATA").write_text("{}")
    (made / "text").write_text(text)
    told = {"item_handlers": {item: "Tree"}, "custom_metadata": {"text": text}}
    (made.parent / places.STEP_METADATA).write_text(json.dumps(told))
    for directory in (made, made.parent):
        (directory / places.MARKER).write_text("it is whole")
    return folder


@pytest.fixture
def late(monkeypatch, tmp_path):
    """Runs something once, after the free place was looked at and before the renaming."""

    def at(do):
        own = durable.settle

        def settle(made):
            monkeypatch.setattr(durable, "settle", own)
            own(made)
            do()

        monkeypatch.setattr(durable, "settle", settle)

    return at


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_step_that_appears_meanwhile_is_joined(tmp_path, late, overwrite):
    mine = step(tmp_path / ".dst.maxmig-tmp-1", 9, "nine")
    other = step(tmp_path / ".dst.maxmig-tmp-2", 3, "three")
    late(lambda: commit.finish(other, tmp_path / "dst", 3, overwrite=overwrite))
    commit.finish(mine, tmp_path / "dst", 9, overwrite=overwrite)
    found = {path.name: (path / "items/text").read_text() for path in tmp_path.glob("dst/*")}
    assert found == {"9": "nine", "3": "three"}
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_tree_of_the_step_that_appears_meanwhile_is_joined(tmp_path, late, overwrite):
    mine = step(tmp_path / ".dst.maxmig-tmp-1", 9, "mine", "ema")
    late(lambda: step(tmp_path / "dst", 9, "other", "state"))
    trees = joining.Trees(("ema",), ("state",))
    made = commit.finish(mine, tmp_path / "dst", 9, trees, overwrite=overwrite)
    assert made == tmp_path / "dst/9/ema"
    found = {path.parent.name: path.read_text() for path in tmp_path.glob("dst/9/*/text")}
    assert found == {"ema": "mine", "state": "other"}
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]
    told = json.loads((tmp_path / "dst/9" / places.STEP_METADATA).read_text())
    assert told["item_handlers"] == {"state": "Tree", "ema": "Tree"}
    custom = [remembered.custom(told, "it", tree) for tree in ("ema", "state")]
    assert custom == [{"text": "mine"}, {"text": "other"}]


def test_the_same_step_is_refused_or_replaced(tmp_path, late):
    mine = step(tmp_path / ".dst.maxmig-tmp-1", 9, "mine")
    late(lambda: step(tmp_path / "dst", 9, "other"))
    with pytest.raises(commit.Taken, match="dst/9: appeared while"):
        commit.finish(mine, tmp_path / "dst", 9, overwrite=False)
    assert (tmp_path / "dst/9/items/text").read_text() == "other"
    commit.finish(mine, tmp_path / "dst", 9, overwrite=True)
    assert (tmp_path / "dst/9/items/text").read_text() == "mine"


def test_something_else_that_appears_meanwhile_is_left_as_it_is(tmp_path, late):
    mine = step(tmp_path / ".dst.maxmig-tmp-1", 9, "mine")
    late(lambda: (tmp_path / "dst").write_text("a file"))
    with pytest.raises(commit.Taken, match="dst: appeared while"):
        commit.finish(mine, tmp_path / "dst", 9, overwrite=False)
    assert (tmp_path / "dst").read_text() == "a file"
