"""Whatever happens, the source is as it was, and the result is absent or whole."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from engine_cases import apart, contents, convert, renamed, save, state
from flax import serialization

from maxmig import errors
from maxmig.converters import ops, storage
from maxmig.converters.engine import check, durable, journal, pieces, pool, reference, target
from maxmig.converters.leaves import Leaf
from maxmig.converters.storage import ocdbt
from maxmig.converters.transfers import Transfer

SCRIPT = """
import sys
from engine_cases import apart, convert, renamed
from maxmig import errors
from maxmig.converters import storage
source = storage.open(sys.argv[1])
todo = renamed(source, lambda path: path, apart(source.tree()))
print("ready", flush=True)
try:
    print(convert(todo, sys.argv[2], resume="resume" in sys.argv, threads=1)[1], flush=True)
except errors.Interrupted as stopped:
    print(stopped)
    sys.exit(130)
"""


def child(*words: object) -> subprocess.Popen:
    script = SCRIPT.replace("sys.argv[2]", "__import__('pathlib').Path(sys.argv[2])")
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def sizable(tmp_path_factory) -> Path:
    """A checkpoint whose conversion takes a moment: 16 arrays that are streamed piece by piece."""
    rng = np.random.default_rng(0)
    layers = {f"w{i}": jnp.asarray(rng.random((256, 3, 512)), jnp.float32) for i in range(16)}
    directory = tmp_path_factory.mktemp("sizable") / "src"
    return save(directory, {"params": {"layers": layers}, "step": jnp.int32(1)})


def files_of(directory: Path) -> dict[str, bytes]:
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def kill_and_resume(source: Path, work: Path, wanted: dict, moments: list[float]) -> int:
    """Kills a conversion at each moment (seconds after its start); returns how often in time."""
    killed = 0
    for number, moment in enumerate(moments):
        place = work / f"dst{number}"
        process = child(source, place)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(moment)
        process.kill()
        process.communicate()
        if place.exists():
            assert contents(place) == wanted, "what is there is whole"
            shutil.rmtree(place)
            continue
        killed += 1
        resumed = child(source, place, "resume")
        resumed.communicate()
        assert resumed.returncode == 0 and contents(place) == wanted
        assert [path.name for path in work.iterdir()] == [place.name], "nothing is left behind"
        shutil.rmtree(place)
    return killed


def test_kill_minus_nine(sizable, tmp_path):
    before = files_of(sizable)
    _, result = convert(_todo(sizable), tmp_path / "whole")
    wanted = contents(tmp_path / "whole")
    work = tmp_path / "work"
    work.mkdir()
    assert kill_and_resume(sizable, work, wanted, [0.02, 0.1, 0.2]) >= 1
    assert files_of(sizable) == before and result.resumed == 0


@pytest.mark.slow
def test_kill_minus_nine_at_fifty_random_moments(sizable, tmp_path):
    before = files_of(sizable)
    begin = time.monotonic()
    convert(_todo(sizable), tmp_path / "whole", threads=1)
    took = time.monotonic() - begin
    work = tmp_path / "work"
    work.mkdir()
    moments = [random.Random(seed).uniform(0, 1.5 * took) for seed in range(50)]
    assert kill_and_resume(sizable, work, contents(tmp_path / "whole"), moments) >= 10
    assert files_of(sizable) == before


def _todo(source: Path):
    found = storage.open(source)
    return renamed(found, lambda path: path, apart(found.tree()))


def test_interrupt_finishes_the_piece_and_resume_goes_on(sizable, tmp_path):
    process = child(sizable, tmp_path / "dst")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    while not list(tmp_path.glob(f".dst.*/{journal.FOLDER}/*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate()
    assert process.returncode == 130 and "--resume" in told, told
    assert not (tmp_path / "dst").exists()
    resumed = child(sizable, tmp_path / "dst", "resume")
    told, _ = resumed.communicate()
    assert resumed.returncode == 0 and contents(tmp_path / "dst")
    _, fresh = convert(_todo(sizable), tmp_path / "other")
    assert contents(tmp_path / "dst") == contents(tmp_path / "other") and fresh.resumed == 0


def test_resuming_does_not_repeat_what_is_done(sizable, tmp_path, monkeypatch):
    perform, count = pieces.perform, 0

    def some(*args):
        nonlocal count
        count += 1
        if count == 5:
            raise pool.Stopped
        return perform(*args)

    monkeypatch.setattr(pieces, "perform", some)
    with pytest.raises(errors.Interrupted, match=r"4 of 16 pieces are done and kept"):
        convert(_todo(sizable), tmp_path / "dst", threads=1)
    monkeypatch.setattr(pieces, "perform", perform)
    _, result = convert(_todo(sizable), tmp_path / "dst", resume=True)
    assert result.resumed == 4
    convert(_todo(sizable), tmp_path / "other")
    assert contents(tmp_path / "dst") == contents(tmp_path / "other")


def test_a_journal_of_another_conversion_does_not_count(sizable, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "perform", lambda *args: (_ for _ in ()).throw(pool.Stopped()))
    with pytest.raises(errors.Interrupted):
        convert(_todo(sizable), tmp_path / "dst")
    monkeypatch.undo()
    _, result = convert(renamed(storage.open(sizable)), tmp_path / "dst", resume=True)
    assert result.resumed == 0


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
        convert(_todo(tmp_path / "src"), tmp_path / "dst")
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
    todo = _todo(tmp_path / "src")
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
        convert(_todo(tmp_path / "src"), tmp_path / "dst")
    _, result = convert(_todo(tmp_path / "src"), tmp_path / "unseen", verify="none")
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


@pytest.mark.parametrize(
    ("number", "dtype", "to"),
    [
        (1e6, "float32", "float16"),
        (3.4e38, "float32", "bfloat16"),
        (1e300, "float64", "float32"),
        (1e4, "float32", "float8_e4m3fn"),
        (70000, "int32", "float16"),
    ],
)
def test_a_number_that_would_become_infinite(number, dtype, to, tmp_path):
    """It is refused and named, and its neighbour below is not."""
    weights = np.full((3, 4), 2, dtype)
    save(tmp_path / "good", {"w": weights})
    weights[1, 2] = number
    save(tmp_path / "bad", {"w": weights})

    def narrower(name):
        source = storage.open(tmp_path / name)
        leaf = Leaf((3, 4), to, 12 * np.dtype(to).itemsize)
        cast = Transfer(("w",), leaf, (("w",),), ops.Same(), cast=True)
        return convert(renamed(source, transfers=[cast]), tmp_path / f"{name} result")

    narrower("good")
    assert contents(tmp_path / "good result")[("w",)][1] == np.full((3, 4), 2, to).tobytes()
    with pytest.raises(errors.ConvertError, match=rf"w: the number .* does not fit {to}"):
        narrower("bad")
    assert not (tmp_path / "bad result").exists()


def test_types_that_orbax_cannot_hold(tmp_path):
    weights = {"w": np.ones((2, 2), ml_dtypes.uint4), "b": np.ones(2, ml_dtypes.int4)}
    (tmp_path / "both.msgpack").write_bytes(serialization.to_bytes(weights))
    source = storage.open(tmp_path / "both.msgpack")
    with pytest.raises(errors.ConvertError, match=r"moved/w.*cannot hold uint4"):
        convert(renamed(source), tmp_path / "result")
    assert not (tmp_path / "result").exists()
    convert(renamed(source, skip=[("w",)]), tmp_path / "result")
    assert contents(tmp_path / "result").keys() == {("moved", "b")}


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


@pytest.mark.parametrize("file", ["_METADATA", "_sharding", "array_metadatas/process_0"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "[]", "\xff", ""])
def test_damaged_metadata_are_a_clean_error(file, text, tmp_path):
    save(tmp_path / "src", {"a": jnp.ones(2)})
    (tmp_path / "src" / "9" / "items" / file).write_text(text, encoding="latin-1")
    if (file, text) == ("_sharding", ""):
        return  # Orbax reads it without
    with pytest.raises(errors.CheckpointError):
        storage.open(tmp_path / "src").tree()


def test_hard_links_that_the_system_refuses_become_copies(tmp_path, monkeypatch):
    save(tmp_path / "src", state())

    def refuse(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    convert(renamed(storage.open(tmp_path / "src"), lambda path: path), tmp_path / "dst")
    monkeypatch.undo()
    assert contents(tmp_path / "dst") == contents(tmp_path / "src")
    assert all(p.stat().st_nlink == 1 for p in (tmp_path / "dst").rglob("*") if p.is_file())


def test_what_is_verified_goes_to_the_disk_meanwhile(tmp_path, monkeypatch):
    """Each data file once, when it is whole; the rest is waited for at the end."""
    sent = []
    monkeypatch.setattr(durable, "hasten", sent.append)
    arrivals = durable.Arrivals(tmp_path)
    (tmp_path / "one").touch()
    (tmp_path / "two.__lock").touch()
    arrivals.verified(1 << 20)
    assert sent == []
    arrivals.verified(8 << 20)
    assert sent == [tmp_path / "one"]
    (tmp_path / "two.__lock").rename(tmp_path / "two")
    arrivals.verified(9 << 20)
    assert sent == [tmp_path / "one", tmp_path / "two"]


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_disk_that_does_not_take_it(meanwhile, tmp_path, monkeypatch):
    """What goes to the disk meanwhile is waited for, and what was removed since is no error."""
    for name in ("data", "removed"):
        (tmp_path / name).write_bytes(b"some")
    durable.hasten(tmp_path / "removed")
    (tmp_path / "removed").unlink()
    durable.hasten(tmp_path / "removed")
    durable.settle(tmp_path)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        if meanwhile:
            durable.hasten(tmp_path / "data")
        with pytest.raises(errors.CheckpointError, match=r"disk did not take.*No space left"):
            durable.settle(tmp_path)
    durable.settle(tmp_path)
