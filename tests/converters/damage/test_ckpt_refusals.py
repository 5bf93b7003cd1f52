"""What is refused for another reason than damage says so, and not that something is damaged."""

import subprocess
import sys
from pathlib import Path

import pytest

from maxmig import errors
from maxmig.cli.ckpt import convert
from maxmig.converters import checkpoint, disk, places
from maxmig.converters.engine import launch
from maxmig.converters.storage import files

TOLD = (  # as TensorStore tells it
    'PERMISSION_DENIED: Error reading local file "/x/manifest.ocdbt": Failed to open: '
    "\"/x/manifest.ocdbt\": Permission denied [os_error_code='13']"
)


def test_metadata_that_may_not_be_read(maxmig, source, monkeypatch):
    def read_bytes(path):
        if path.name == "_METADATA":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    code, _, err = maxmig("ckpt", "inspect", source("gpt3_linen_scan"))
    assert code == 4 and "no permission to read" in err and "_METADATA; read it as" in err
    assert "damaged" not in err and "another copy" not in err


@pytest.mark.parametrize("reading", [files.reading, disk.reading])
def test_arrays_that_may_not_be_read(reading):
    with (
        pytest.raises(errors.CheckpointError, match="no permission to read /x/manifest") as e,
        reading("/x"),
    ):
        raise ValueError(TOLD)
    assert "damaged" not in str(e.value)
    with pytest.raises(errors.CheckpointError, match="damaged"), reading("/x"):
        raise ValueError("DATA_LOSS: bad checksum")


def test_a_chunk_that_may_not_be_read(source, monkeypatch):
    """It is named; nothing says that it is damaged."""
    found = checkpoint.read(source("gpt3_linen_scan"))
    path = found.places["params/decoder/layers/mlp/wi/kernel"]
    storage = found.storage

    class Denied:
        def __getitem__(self, index):
            raise ValueError(TOLD)

    monkeypatch.setattr(type(storage), "_opened", lambda self, path: Denied())
    with pytest.raises(errors.CheckpointError, match="mlp/wi/kernel: no permission") as caught:
        storage.read(path)
    assert "damaged" not in str(caught.value)


def test_other_errors_are_no_lack_of_permission():
    assert places.denied(FileNotFoundError(2, "x")) is None
    assert places.denied(ValueError("NOT_FOUND")) is None


def test_a_step_of_a_checkpoint_by_itself(maxmig, source, tmp_path):
    """It has no steps; the number is not passed over."""
    src = source("gpt3_linen_scan")
    items = tmp_path / "alone"
    items.symlink_to(checkpoint.read(src).place.items)
    made = tmp_path / "made.msgpack"
    assert maxmig("ckpt", "convert", src, made, "--to", "linen")[0] == 0
    for place in (items, made):
        assert maxmig("ckpt", "inspect", place)[0] == 0
        code, out, err = maxmig("ckpt", "inspect", place, "--step", "8")
        assert (code, out) == (4, "") and "leave the step out (--step)" in err


def test_a_memory_floor_says_what_it_is_made_of(maxmig, source, tmp_path):
    words = ("--to", "linen", "--max-memory", "1KiB")
    src = source("gpt3_linen_scan")
    code, _, err = maxmig("ckpt", "convert", src, tmp_path / "made", *words)
    assert code == 5 and "160.0 MiB of the program itself; give --max-memory 192MiB" in err
    code, _, err = maxmig("ckpt", "convert", src, tmp_path / "x", *words, "--dtype", "bfloat16")
    assert code == 5 and "KiB of the largest chunk, which is decoded as a whole" in err


def test_a_directory_that_is_named_like_a_file(maxmig, source, tmp_path):
    src = source("gpt3_linen_scan")
    for name, said in (("made.npz", True), ("made", False), ("made.msgpack", False)):
        code, _, err = maxmig("ckpt", "convert", src, tmp_path / name, "--to", "nnx", "--dry-run")
        assert code == 0 and ("will be a directory of steps" in err) is said


def test_a_usage_error_is_its_cause_and_where_to_look(maxmig):
    for words in (("convert", "a", "--foo"), ("diff", "a"), ("diff", "a", "b", "--ulp", "x")):
        code, out, err = maxmig("ckpt", *words)
        assert (code, out, len(err.splitlines())) == (2, "", 2)
        assert err.splitlines()[1] == f"all options: maxmig ckpt {words[0]} --help"


@pytest.mark.parametrize("index", [0, 1])
def test_one_of_several_processes_says_that_it_was_interrupted(index, maxmig, monkeypatch):
    """With the number of processes in the command that goes on, since each has a part."""

    def stopped(args):
        assert convert.words(args, resume=True)[-3:] == ["--processes", "2", "--resume"]
        raise KeyboardInterrupt

    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_PROCESS_ID", str(index))
    monkeypatch.setattr(convert, "_converted", stopped)
    code, out, err = maxmig("ckpt", "convert", "a", "b", "--processes", "2")
    assert (code, out) == (130, "")
    assert err == (
        "" if index else "interrupted before any chunk was written; the same command starts again\n"
    )


def test_the_exit_code_of_several_processes(monkeypatch):
    """A signal is told as a shell does; whoever was interrupted, the whole was."""

    def start(command, address, count, index, shown):
        return subprocess.Popen([*command, str(index)])

    def run(count, what):
        code = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        return launch.launch(count, [sys.executable, "-S", "-c", code + what])[0]

    monkeypatch.setattr(launch, "_start", start)  # without a fork of this process
    assert run(2, "os.kill(os.getpid(), signal.SIGINT)") == 130
    assert run(1, "os.kill(os.getpid(), signal.SIGKILL)") == 137
    assert run(2, "sys.exit(130 if sys.argv[1] == '1' else 4)") == 130
    assert run(2, "sys.exit(4)") == 4
