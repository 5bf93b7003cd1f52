"""What a conversion leaves when power, network or patience fail, and what `--dry-run` foresees."""

import json
import os
import shutil
import uuid
from pathlib import Path

import pytest

from maxmig import errors
from maxmig.cli import main
from maxmig.converters import checkpoint, convert
from maxmig.converters.compare import hash
from maxmig.converters.engine import durable, journal, pieces, pool, remote, tasks
from maxmig.converters.engine.options import Options
from maxmig.converters.storage import kv


@pytest.fixture
def run(source):
    return source("gpt3_linen_scan")


@pytest.fixture
def bucket():
    return f"memory://safety/{uuid.uuid4()}"


@pytest.fixture
def synced(monkeypatch):
    """The files and directories that were forced to the disk, and whether DST was there already."""
    found: dict[str, bool] = {}
    real, opened = os.fsync, os.open
    names: dict[int, str] = {}

    def fsync(handle):
        name = names[handle]
        found[name] = Path(name).exists()
        real(handle)

    def open(path, *args, **kwargs):
        handle = opened(path, *args, **kwargs)
        names[handle] = str(path)
        return handle

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "open", open)
    return found


def planned(run, **options):
    return convert.plan(checkpoint.read(run), "nnx", **options)


@pytest.mark.parametrize("options", [Options(), Options(link=False), Options(ocdbt=False)])
def test_all_that_is_new_is_on_the_disk_before_it_has_its_name(run, options, synced, tmp_path):
    made = convert.run(planned(run), tmp_path / "made", options=options)
    mine = f".made.maxmig-tmp-{os.getpid()}"
    told = {Path(name).relative_to(tmp_path) for name in synced}
    assert Path() in told  # the directory that holds the new name
    for path in (made.parent, *made.parent.rglob("*")):
        shared = path.is_file() and path.stat().st_nlink > 1
        place = Path(mine, path.relative_to(made.parent))
        assert (place in told) != shared, path
    shared = [p for p in made.rglob("*") if p.is_file() and p.stat().st_nlink > 1]
    assert bool(shared) == (options == Options())


def test_a_file_too(run, synced, tmp_path):
    todo = planned(run, container="safetensors", random="drop")
    convert.run(todo, tmp_path / "x.safetensors")
    assert any(name.endswith("x.safetensors") for name in synced)


def test_a_copied_file_that_is_removed_again_needs_no_disk(tmp_path):
    (tmp_path / "kept").write_text("x")
    for name in ("gone", "kept"):
        durable.hasten(tmp_path / name)
    durable.settle(tmp_path)
    assert not durable._under_way


def test_a_disk_that_does_not_take_it(run, tmp_path, monkeypatch):
    def fail(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(errors.CheckpointError, match="the disk did not take what was written"):
        convert.run(planned(run), tmp_path / "made")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    convert.run(planned(run), tmp_path / "made", options=Options(link=False))
    assert not durable._under_way


def test_what_a_power_failure_left_is_not_resumed(run, tmp_path, monkeypatch):
    """A journal's line may have reached the disk, and its piece not."""
    todo, options = planned(run, dtype="bfloat16"), Options(threads=1)
    monkeypatch.setattr(tasks, "_COUNT", 8)
    for boots, resumed in ((("a", "a"), 1), (("a", "b"), 0)):
        with monkeypatch.context() as patch:
            patch.setattr(journal, "boot", lambda told=boots[0]: told)
            stopped_after(patch, 1)
            with pytest.raises(errors.Interrupted):
                convert.run(todo, tmp_path / boots[1], options=options)
        with monkeypatch.context() as patch:
            patch.setattr(journal, "boot", lambda told=boots[1]: told)
            prepared = convert.prepare(todo, tmp_path / boots[1], options)
            done = convert.carry_out(todo, prepared, tmp_path / boots[1], resume=True)
        assert done.resumed == resumed


def stopped_after(monkeypatch, count):
    """A user who presses Ctrl-C after some pieces."""
    real, done = pieces.perform, []

    def perform(*args, **kwargs):
        if len(done) >= count:
            raise pool.Stopped
        done.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(pieces, "perform", perform)
    return done


def test_a_bucket_is_resumed(run, bucket, monkeypatch):
    monkeypatch.setattr(tasks, "_COUNT", 8)
    todo, options = planned(run, dtype="bfloat16", scan=False), Options(threads=1)
    total = len([*_pieces(todo, bucket, options)])
    assert total > 3
    with monkeypatch.context() as patch:
        first = stopped_after(patch, 2)
        with pytest.raises(errors.Interrupted, match=f"2 of {total} pieces are done and kept"):
            convert.run(todo, bucket, options=options)
    assert len(first) == 2
    with pytest.raises(errors.CheckpointError, match="there is no complete step"):
        checkpoint.read(bucket)
    with pytest.raises(errors.ConvertError, match=r"not finished \(--resume goes on with it\)"):
        convert.run(todo, bucket, options=options)
    other = planned(run)
    with pytest.raises(errors.ConvertError, match="it was of another plan or source"):
        convert.run(other, bucket, options=options, resume=True)
    prepared = convert.prepare(todo, bucket, options)
    assert convert.refusal(todo, prepared, bucket)
    assert not convert.refusal(todo, prepared, bucket, resume=True)
    with monkeypatch.context() as patch:
        rest = stopped_after(patch, 1000)
        prepared = convert.prepare(todo, bucket, options)
        done = convert.carry_out(todo, prepared, bucket, resume=True)
    assert done.resumed == 2 and len(rest) == total - 2
    assert not [key for key in kv.directory(bucket).list().result() if b"journal" in key]
    assert hash.fingerprint(checkpoint.read(bucket)).leaves.keys()
    with pytest.raises(errors.ConvertError, match="exists already; choose another place"):
        convert.run(todo, bucket, options=options)
    assert convert.carry_out(todo, prepared, bucket, resume=True).finished


def _pieces(todo, destination, options):
    prepared = convert.prepare(todo, destination, options)
    return tasks.cut(prepared.conversion, prepared.pieces, prepared.options)


def test_a_resumed_bucket_holds_what_an_unbroken_one_holds(run, bucket, tmp_path, monkeypatch):
    todo, options = planned(run, scan=False), Options(threads=1)
    with monkeypatch.context() as patch:  # as after kill -9: the last piece has no entry
        patch.setattr(remote.Remote, "finish", lambda *args: None)
        stopped_after(patch, 1)
        with pytest.raises(errors.Interrupted):
            convert.run(todo, bucket, options=options)
    convert.run(todo, bucket, options=options, resume=True)
    convert.run(todo, tmp_path / "local", options=options)
    found = {hash.fingerprint(checkpoint.read(at)).digest for at in (bucket, tmp_path / "local")}
    assert len(found) == 1


def test_processes_share_no_bucket(maxmig, run, bucket):
    words = ("ckpt", "convert", run, bucket, "--to", "nnx", "--processes", "2")
    code, _, err = maxmig(*words)
    assert code == 2 and "for local destinations only" in err


def test_the_plan_of_a_bucket_tells_what_ctrl_c_does(maxmig, run, bucket):
    code, out, _ = maxmig("ckpt", "convert", run, bucket, "--to", "nnx", "--dry-run")
    assert code == 0 and "Ctrl-C finishes the chunks under way" in out


def test_a_bucket_is_never_written_into_while_it_is_the_source(run, bucket):
    convert.run(planned(run), bucket)
    todo = convert.plan(checkpoint.read(bucket), "linen")
    with pytest.raises(errors.ConvertError, match="the source is never changed"):
        convert.run(todo, f"{bucket}/below")
    convert.run(todo, f"{bucket}-beside")
    assert checkpoint.read(f"{bucket}-beside").place.step == 9


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("{tmp}/there",), 4, "exists already; choose another directory or give --overwrite"),
        (("{src}/9/below",), 4, "the source is never changed"),
        (("{src}/below",), 4, "the source is never changed"),
        (("{tmp}/none/x",), 4, "make it first"),
        (("{tmp}/new", "--max-memory", "1MiB", "--dtype", "bfloat16"), 5, "memory floor"),
        (("{bucket}",), 4, "exists already"),
    ],
)
def test_a_dry_run_ends_as_the_run_would(words, code, told, maxmig, run, bucket, tmp_path):
    (tmp_path / "there" / "5").mkdir(parents=True)
    if words[0] == "{bucket}":
        convert.run(planned(run), bucket)
    words = [word.format(tmp=tmp_path, src=run, bucket=bucket) for word in words]
    asked = ("ckpt", "convert", run, *words, "--to", "nnx")
    dry, out, _ = maxmig(*asked, "--dry-run")
    assert dry == code and f"the run would end with exit code {code}" in out and told in out
    real, _, err = maxmig(*asked)
    assert real == code and told in err
    document = json.loads(maxmig(*asked, "--dry-run", "--json")[1])
    assert told in document["refused"]


def test_a_dry_run_says_what_overwrite_would_do(maxmig, run, tmp_path):
    convert.run(planned(run), tmp_path / "made")
    (tmp_path / "made" / "notes.txt").write_text("mine")
    asked = ("ckpt", "convert", run, tmp_path / "made", "--to", "nnx", "--dry-run")
    told = "made/9 exists: a directory of 3 entries: --overwrite would replace all of it"
    code, out, _ = maxmig(*asked)
    assert code == 4 and told in out
    code, out, _ = maxmig(*asked, "--overwrite")
    assert code == 0 and told in out and (tmp_path / "made" / "notes.txt").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("map", "{src}", "--to", "nnx", "--out", "{tmp}/none/x.yml"),
        ("diff", "{src}", "{src}", "--combined", "{tmp}/none/x.txt"),
    ],
)
def test_a_file_that_cannot_be_written_is_4(words, run, tmp_path, capsys):
    assert main.main(["ckpt", *(word.format(src=run, tmp=tmp_path) for word in words)]) == 4
    assert "expected a file that can be written" in capsys.readouterr().err


def test_explain_takes_what_convert_takes(maxmig, run, tmp_path):
    leaf = "decoder/layers/mlp/wi/kernel"
    code, out, _ = maxmig("ckpt", "explain", run, leaf, "--scan-axis", "0")
    assert code == 0 and "axis 1 moved to 0" in out
    code, _, err = maxmig("ckpt", "explain", run, leaf, "--no-scan", "--from-scan-axis", "0")
    assert code == 4 and "cannot be on axis 0" in err
    code, _, err = maxmig("ckpt", "explain", run, leaf, "--no-scan", "--scan-axis", "0")
    assert code == 2 and "contradict" in err
    file = tmp_path / "map.yml"
    rule = "- rename: decoder/layers\n  to: decoder/blocks\n"
    file.write_text(f"maxmig_map: 1\nto: nnx\nrules:\n{rule}")
    code, out, _ = maxmig("ckpt", "explain", run, leaf, "--map", file)
    assert code == 0 and "model/decoder/blocks/mlp/wi/kernel" in out


def test_a_source_that_is_replaced_while_it_is_planned(run, source, tmp_path):
    """Its metadata were read; importing the user's optimizer takes seconds."""
    shutil.copytree(run, tmp_path / "run")
    todo = planned(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "9")
    shutil.copytree(source("llama2_linen_scan") / "9", tmp_path / "run" / "9")
    with pytest.raises(errors.CheckpointError, match=r"9.*: the source was changed while"):
        convert.prepare(todo, tmp_path / "made")
