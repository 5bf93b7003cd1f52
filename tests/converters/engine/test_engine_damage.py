"""Damage in the source or on its way is found and named, and nothing is put in place."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from engine_cases import convert, renamed, save, state, unstacked

from maxmig import errors
from maxmig.converters import storage
from maxmig.converters.engine import check, reference, target
from maxmig.converters.storage import ocdbt


def test_a_corrupt_chunk_is_named(tmp_path, form):
    kernel = np.random.default_rng(0).random((6, 3, 200), np.float32)
    save(tmp_path / "src", {"params": {"layers": {"kernel": jnp.asarray(kernel)}}}, **form)
    source = storage.open(tmp_path / "src")
    key = "c/0/0/0" if form["use_zarr3"] else "0.0.0"
    file, offset, length = f"params.layers.kernel/{key}", 0, 1000
    if form["use_ocdbt"]:
        file, offset, length = ocdbt.index(source.items).values[file]
    damaged = Path(source.items) / file
    data = bytearray(damaged.read_bytes())
    data[offset + 2 : offset + length] = bytes(length - 2)
    damaged.write_bytes(data)
    told = r"params/layers/kernel: chunk \[0, 0, 0\] of float32\[6, 3, 200\] is damaged"
    with pytest.raises(errors.CheckpointError, match=told) as error:
        convert(unstacked(tmp_path / "src"), tmp_path / "dst")
    assert error.value.exit_code == 4
    with pytest.raises(errors.CheckpointError, match=told) as error:
        convert(renamed(storage.open(tmp_path / "src")), tmp_path / "dst")
    assert str(tmp_path / "src") in str(error.value) and "-tmp-" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_a_missing_chunk_is_named(tmp_path):
    save(tmp_path / "src", state(), use_ocdbt=False)
    source = storage.open(tmp_path / "src")
    (chunk,) = (
        Path(source.items).glob("zeros/c/0")
        if source.told.zarr == 3
        else [Path(source.items) / "zeros" / "0"]
    )
    chunk.unlink()
    with pytest.raises(errors.CheckpointError, match=r"zeros: chunk \[0\] is missing"):
        convert(renamed(source), tmp_path / "dst")


def test_a_source_that_changes_meanwhile(tmp_path, monkeypatch):
    save(tmp_path / "src", state())
    todo = unstacked(tmp_path / "src")
    checked = check.check

    def change(*args):
        (tmp_path / "src" / "9" / "items" / "note").write_text("new")
        return checked(*args)

    monkeypatch.setattr(check, "check", change)
    with pytest.raises(errors.CheckpointError, match="the source was changed while it was read"):
        convert(todo, tmp_path / "dst")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_what_is_written_wrong_is_found(tmp_path, monkeypatch):
    save(tmp_path / "src", state())
    written = target.Target.write

    def flip(self, name, array, box, data, transaction=None):
        data = data.copy()
        data.reshape(-1).view(np.uint8)[:1] ^= 1
        return written(self, name, array, box, data, transaction)

    monkeypatch.setattr(target.Target, "write", flip)
    with pytest.raises(errors.CheckpointError, match="reads otherwise than it was written"):
        convert(unstacked(tmp_path / "src"), tmp_path / "dst")
    _, result = convert(unstacked(tmp_path / "src"), tmp_path / "unseen", verify="none")
    assert result.checked.moved == 0


def test_a_wrong_reference_is_found(tmp_path, monkeypatch):
    save(tmp_path / "src", {"a": jnp.arange(400.0), "b": jnp.arange(400.0) + 1})
    found = reference.renames

    def swapped(source, chosen):
        names = found(source, chosen)
        keys = [name for name in names if "/c" in name or name.endswith("/0")]
        told = dict(names)
        told[keys[0]], told[keys[1]] = names[keys[1]], names[keys[0]]
        monkeypatch.setattr(reference, "renames", found)
        return told

    share = reference.share
    monkeypatch.setattr(reference, "renames", swapped)

    def honest(source, target, chosen, how):
        share(source, target, chosen, how)
        return found(source, chosen)

    monkeypatch.setattr(reference, "share", honest)
    with pytest.raises(errors.CheckpointError, match="expected the very bytes of"):
        convert(renamed(storage.open(tmp_path / "src")), tmp_path / "dst")


@pytest.mark.parametrize("file", ["_METADATA", "_sharding", "array_metadatas/process_0"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "[]", "\xff", ""])
def test_damaged_metadata_are_a_clean_error(file, text, tmp_path):
    save(tmp_path / "src", {"a": jnp.ones(2)})
    (tmp_path / "src" / "9" / "items" / file).write_text(text, encoding="latin-1")
    if (file, text) == ("_sharding", ""):
        return  # Orbax reads it without
    with pytest.raises(errors.CheckpointError):
        storage.open(tmp_path / "src").tree()
