"""A msgpack file has no place for metadata: they lie beside it, so that a mapping is undone too."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maxmig import errors
from maxmig.checkpoint import Store
from maxmig.converters import checkpoint, convert
from maxmig.converters.compare import hash as hashes
from maxmig.converters.compare import metadata, record, recorded
from maxmig.converters.engine.options import Options
from maxmig.converters.mapping import files

RULES = [{"rename": "net", "to": "model/tower"}, {"transpose": "model/tower/w", "axes": [1, 0]}]


@pytest.fixture
def source(tmp_path: Path) -> checkpoint.Checkpoint:
    moments = {
        f"{where}/net/w": np.arange(6.0, dtype=np.float32).reshape(2, 3)
        for where in ("params", "opt_state/0/mu", "opt_state/0/nu")
    }
    flat = {**moments, "opt_state/0/count": np.int32(3), "step": np.int32(3)}
    fields = {"count": "array", "mu": {"params": []}, "nu": {"params": []}}
    with Store(tmp_path / "source", layout="linen-state") as store:
        store.save(3, flat, skeleton={"tuple": [{"dict": fields}, None, None]})
    return checkpoint.read(tmp_path / "source")


@pytest.fixture
def made(source: checkpoint.Checkpoint, tmp_path: Path) -> Path:
    """What a conversion with a mapping file writes into one file."""
    document = files.parse({"rules": RULES}, "here")
    todo = convert.plan(source, "nnx", map_file=document, container="msgpack")
    return convert.run(todo, tmp_path / "made.msgpack")


def beside(made: Path) -> Path:
    return made.with_name(f"maxmig.checksums.{made.name}.json")


def home(made: Path, to: Path) -> checkpoint.Checkpoint:
    convert.run(convert.plan(checkpoint.read(made), "linen"), to)
    return checkpoint.read(to)


def test_a_mapping_is_undone(source: Any, made: Path, tmp_path: Path) -> None:
    found = checkpoint.read(made)
    assert "params/model/tower/w" in found.leaves and found.own["origin"]["layout"] == "linen-state"
    assert hashes.fingerprint(found).digest == hashes.fingerprint(source).digest
    back = home(made, tmp_path / "home")
    assert back.tree == source.tree
    for path in source.leaves:
        one, two = (side.load({path: None})[path] for side in (back, source))
        assert np.asarray(one).tobytes() == np.asarray(two).tobytes(), path


def test_alone_it_tells_nothing(source: Any, made: Path, tmp_path: Path) -> None:
    """Negative control: all of that is in the file beside it."""
    beside(made).unlink()
    found = checkpoint.read(made)
    assert found.metadata == {}
    assert hashes.fingerprint(found).digest != hashes.fingerprint(source).digest
    assert home(made, tmp_path / "home").tree != source.tree


def test_from_file_to_file(source: Any, made: Path, tmp_path: Path) -> None:
    """The way back is remembered through a second file, by reference to no directory."""
    todo = convert.plan(checkpoint.read(made), "linen", container="msgpack")
    file = convert.run(todo, tmp_path / "home.msgpack")
    assert checkpoint.read(file).leaves == source.leaves
    assert checkpoint.read(file).skeleton == source.skeleton


def test_metadata_are_of_their_file_and_sealed(made: Path) -> None:
    told = json.loads(beside(made).read_text())
    told["metadata"]["maxmig"]["layout"] = "linen"
    beside(made).write_text(json.dumps(told))
    with pytest.raises(errors.CheckpointError, match="its seal does not fit"):
        checkpoint.read(made)


def test_a_file_that_was_written_anew_has_none(made: Path) -> None:
    import flax

    other = {"params": {"head": {"kernel": np.ones((2, 2), np.float32)}}}
    made.write_bytes(flax.serialization.to_bytes(other))
    found = checkpoint.read(made)
    assert found.metadata == {} and list(found.leaves) == ["params/head/kernel"]


def test_a_record_that_is_completed_keeps_them(made: Path) -> None:
    found = checkpoint.read(made)
    known = record.of(found.storage)
    assert known is not None and found.own
    fewer = dict(list(known.arrays.items())[1:])
    record.write(str(made.parent), dataclasses.replace(known, arrays=fewer), beside(made).name)
    assert checkpoint.read(made).own == {}  # what is recorded is not all of this file
    assert recorded.hold(checkpoint.read(made).storage, add=True)
    assert checkpoint.read(made).own == found.own


def test_they_are_kept_where_nothing_is_verified(source: Any, tmp_path: Path) -> None:
    todo = convert.plan(source, "nnx", container="msgpack")
    file = convert.run(todo, tmp_path / "x.msgpack", options=Options(verify="none"))
    assert metadata.kept(checkpoint.read(file).storage)
