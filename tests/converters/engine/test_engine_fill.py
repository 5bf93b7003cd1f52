"""Sources that do not store values all of whose numbers are the fill value, as Orbax once had it:
what shares their values says so too, or Orbax takes it for damaged.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
from engine_cases import FORMS, apart, contents, convert, renamed, save
from orbax.checkpoint._src.serialization import tensorstore_utils

from maxmig import errors
from maxmig.converters import storage
from maxmig.converters.engine import documents
from maxmig.converters.leaves import Leaf
from maxmig.converters.ops import Same
from maxmig.converters.storage.items import Items
from maxmig.converters.transfers import Conversion, Transfer

FIELD = "store_array_data_equal_to_fill_value"


def sparse() -> dict[str, Any]:
    kernel = np.random.default_rng(0).normal(size=(3, 4, 64)).astype(np.float32)
    kernel[1] = 0
    bias = np.zeros((3, 64), np.float32)
    return {"params": {"layers": {"kernel": kernel, "bias": bias}, "whole": np.zeros(8)}}


def saved(monkeypatch: pytest.MonkeyPatch, directory: Path, *, told: bool, **form: Any) -> Path:
    """Layers in chunks of their own, and no value that is all zero."""
    with monkeypatch.context() as patch:
        patch.setattr(tensorstore_utils, "STORE_ARRAY_DATA_EQUAL_TO_FILL_VALUE", False)
        save(directory, sparse(), layer_axis=0, **form)
    path = directory / "9" / "items" / "_METADATA"
    metadata = json.loads(path.read_text())
    assert metadata[FIELD] is False
    if not told:  # before there was such a field
        del metadata[FIELD]
        path.write_text(json.dumps(metadata))
    return directory


def layers_apart(directory: Path) -> Conversion:
    source = storage.open(directory)
    return renamed(source, lambda path: path, apart(source.tree(), axis=0))


def restored(directory: Path) -> dict[str, Any]:
    return ocp.PyTreeCheckpointer().restore(directory / "9" / "items")["params"]


def stored_fill(directory: Path) -> bool:
    return json.loads((directory / "9" / "items" / "_METADATA").read_text())[FIELD]


@pytest.mark.parametrize("form", FORMS)
def test_what_shares_values_of_such_a_source_says_so(monkeypatch, form, tmp_path):
    source = saved(monkeypatch, tmp_path / "src", told=form["use_ocdbt"], **form)
    wanted = sparse()["params"]
    for number, options in enumerate(({}, {"link": False}, {"verify": "none"})):
        made = tmp_path / f"dst{number}"
        convert(layers_apart(source), made, **options)
        assert stored_fill(made) is False
        found = restored(made)
        for layer in range(3):
            for name in ("kernel", "bias"):
                np.testing.assert_array_equal(
                    found[f"layers_{layer}"][name], wanted["layers"][name][layer]
                )
        np.testing.assert_array_equal(found["whole"], wanted["whole"])


def test_what_is_made_anew_stores_all(monkeypatch, tmp_path):
    source = saved(monkeypatch, tmp_path / "src", told=True, use_ocdbt=False, use_zarr3=True)
    todo = renamed(storage.open(source), lambda path: path)
    convert(todo, tmp_path / "anew", zarr=2)
    assert stored_fill(tmp_path / "anew") is True
    np.testing.assert_array_equal(restored(tmp_path / "anew")["whole"], np.zeros(8))
    assert contents(tmp_path / "anew") == contents(source)
    leaf = Leaf((8,), "float32", 32)
    path = ("params", "whole")
    cast = Transfer(path, leaf, (path,), Same(), cast=True)
    todo = renamed(storage.open(source), lambda path: path, [cast])
    convert(todo, tmp_path / "one")  # the others are shared
    assert stored_fill(tmp_path / "one") is False


def test_each_item_tells_of_itself(monkeypatch, tmp_path):
    """A missing value is damage in an item that stores all, whatever the one beside it does."""
    for name, stored in (("a", True), ("b", False)):
        with monkeypatch.context() as patch:
            patch.setattr(tensorstore_utils, "STORE_ARRAY_DATA_EQUAL_TO_FILL_VALUE", stored)
            handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True)
            ocp.Checkpointer(handler).save(tmp_path / "src" / name, {"w": np.zeros(8)})
    source = Items(str(tmp_path / "src"), ("a", "b"))

    def todo() -> Any:
        return renamed(source, lambda path: path, items=("a", "b"))

    convert(todo(), tmp_path / "dst")
    told = {
        name: json.loads((tmp_path / "dst/9" / name / "_METADATA").read_text())[FIELD]
        for name in ("a", "b")
    }
    assert told == {"a": True, "b": False}
    (tmp_path / "src/a/w/c/0").unlink()
    source = Items(str(tmp_path / "src"), ("a", "b"))
    with pytest.raises(errors.CheckpointError, match=r"a/w: chunk .* is damaged"):
        source.read(("a", "w"))
    for options in ({}, {"link": False, "ocdbt": True}):
        with pytest.raises(errors.CheckpointError, match="missing; the checkpoint is damaged"):
            convert(todo(), tmp_path / "other", **options)


def test_a_result_that_cannot_be_read_is_not_blamed_on_a_good_source(monkeypatch, tmp_path):
    source = saved(monkeypatch, tmp_path / "src", told=True, use_ocdbt=False, use_zarr3=True)
    monkeypatch.setattr(documents, "_stored_fill", lambda *args: True)
    with pytest.raises(errors.CheckpointError, match="the disk or the memory is faulty") as error:
        convert(layers_apart(source), tmp_path / "dst")
    assert str(source) in str(error.value) and "another copy" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
