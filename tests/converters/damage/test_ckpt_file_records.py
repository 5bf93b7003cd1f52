"""Checksums of msgpack and safetensors files: in a file beside them, which nobody else reads."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from damaging import flip

from maxmig.converters import checkpoint, convert, storage
from maxmig.converters.compare import record
from maxmig.converters.engine import commit
from maxmig.converters.engine.options import Options

FILES = ("made.msgpack", "made.safetensors")
SQUARE = "params/decoder/square/kernel"


def beside(place: Path) -> Path:
    return Path(*record.beside(place))


@pytest.fixture(params=FILES)
def made(request, plain, tmp_path) -> Path:
    """What a conversion writes."""
    place = tmp_path / request.param
    kind = place.suffix[1:]
    convert.run(convert.plan(checkpoint.read(plain), "nnx", container=kind), place)
    return place


def place_of(file: Path, path: str) -> int:
    """Where the numbers of an array begin."""
    found = checkpoint.read(file)
    ((at, _),) = found.storage._arrays[found.places[path]][1].pieces
    return at


def test_a_flipped_bit_is_found(made, plain, maxmig, tmp_path):
    """It decodes to another number; every command that reads the array says so."""
    assert beside(made).name == f"maxmig.checksums.{made.name}.json"
    assert len(record.of(storage.open(made)).arrays) == len(checkpoint.read(made).leaves)
    code, out, _ = maxmig("ckpt", "verify", made)
    assert code == 0 and "12 arrays hold the bits that were recorded" in out
    assert "of 12 of 12 arrays" in maxmig("ckpt", "inspect", made)[1]
    flip(made, place_of(made, SQUARE) + 4 * 7 + 1, 0x01)
    for words in (
        ("verify", made),
        ("hash", made),
        ("diff", plain, made),
        ("verify", made, "--against", plain),
        ("convert", made, tmp_path / "next", "--to", "linen"),
    ):
        code, out, err = maxmig("ckpt", *words)
        assert code == 4 and "square" in out + err and "other bits" in out + err, (words, err)
    assert not (tmp_path / "next").exists()
    beside(made).unlink()  # the control: without the record nothing tells
    assert maxmig("ckpt", "hash", made)[0] == 0
    code, out, _ = maxmig("ckpt", "verify", made)
    assert code == 3 and "of 12 nothing is recorded" in out


def test_a_file_is_held_against_its_source(made, plain, changed, maxmig):
    """By the recorded conversion, where there is a place for it, or by names."""
    code, out, _ = maxmig("ckpt", "verify", made, "--against", plain)
    assert code == 0 and "12 arrays: " in out and " holds " in out
    other = changed(lambda tree: tree["params"]["params"]["decoder"]["square"].pop("kernel"))
    code, out, _ = maxmig("ckpt", "verify", made, "--against", other)
    assert code == 1 and "+ " in out and "square" in out


def test_others_read_the_file(made, plain):
    """It is what it was without a record, and holds the source's numbers."""
    if made.suffix == ".msgpack":
        from flax import serialization

        tree = serialization.msgpack_restore(made.read_bytes())
        found = tree["model"]["decoder"]["square"]["kernel"]
    else:
        from safetensors.numpy import load_file

        found = load_file(made)["model.decoder.square.kernel"]
    source = checkpoint.read(plain)
    assert np.array_equal(found, source.storage.read(source.places[SQUARE]))
    again = made.with_name(f"again{made.suffix}")
    kind = made.suffix[1:]
    convert.run(convert.plan(source, "nnx", container=kind), again, options=Options(verify="none"))
    assert again.read_bytes() == made.read_bytes()


def test_a_record_is_of_its_file(made, plain, maxmig, tmp_path):
    """A new file does not keep the old one's, and one that was not finished leaves none."""
    old = beside(made).read_bytes()
    words = ("ckpt", "convert", plain, made, "--to", "linen", "--params-only", "--overwrite")
    assert maxmig(*words)[0] == 0
    assert beside(made).read_bytes() != old and maxmig("ckpt", "verify", made)[0] == 0
    shutil.copyfile(made, tmp_path / f"other{made.suffix}")
    assert maxmig("ckpt", "verify", tmp_path / f"other{made.suffix}")[0] == 3
    made.unlink()
    beside(made).write_bytes(old)  # of a file that is gone
    assert maxmig(*words[:-1])[0] == 0 and maxmig("ckpt", "verify", made)[0] == 0


def test_a_record_that_cannot_be_put_in_place(plain, tmp_path, monkeypatch, maxmig):
    """Killed between the two renamings: the file is there, without a record; never another's."""
    place, real = tmp_path / "made.msgpack", commit.place
    words = ("ckpt", "convert", plain, place, "--to", "nnx")
    assert maxmig(*words)[0] == 0

    def killed(made, target, **options):
        if target.suffix == ".json":
            raise KeyboardInterrupt
        real(made, target, **options)

    monkeypatch.setattr(commit, "place", killed)
    code, _, _ = maxmig(*words, "--overwrite")
    assert code == 130 and place.exists() and not beside(place).exists()
    assert maxmig("ckpt", "verify", place)[0] == 3


def test_damage_of_the_record(made, maxmig):
    text = bytearray(beside(made).read_bytes())
    text[len(text) // 2] ^= 1
    beside(made).write_bytes(bytes(text))
    for words in (("verify", made), ("hash", made)):
        code, _, err = maxmig("ckpt", *words)
        assert code == 4 and "record of checksums is damaged" in err
        assert beside(made).name in err


def test_a_record_of_a_file_of_another_program(maxmig, tmp_path):
    """On request; flax still finds its newest file, and safetensors' readers theirs."""
    from flax import serialization
    from flax.training import checkpoints
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    state = {"params": {"Dense_0": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}}}
    (tmp_path / "checkpoint_3").write_bytes(serialization.msgpack_serialize(state))
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in "ab":
        save_file({f"params.{name}.kernel": np.ones(3, np.float32)}, shards / f"{name}.safetensors")
    for place in (tmp_path / "checkpoint_3", shards):
        assert maxmig("ckpt", "verify", place)[0] == 3
        assert maxmig("ckpt", "verify", place, "--record")[0] == 0
        assert maxmig("ckpt", "verify", place)[0] == 0 and beside(place).exists()
    assert maxmig("ckpt", "verify", tmp_path)[0] == 0  # the directory of the same file
    assert checkpoints.latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_3")
    flip(shards / "b.safetensors", (shards / "b.safetensors").stat().st_size - 1)
    code, out, _ = maxmig("ckpt", "verify", shards)
    assert code == 4 and "params.b.kernel" in out
    code, out, _ = maxmig("ckpt", "verify", shards, "--json")
    assert json.loads(out)["as_recorded"] == 1
