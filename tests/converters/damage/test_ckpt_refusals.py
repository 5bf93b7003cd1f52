"""What is refused for another reason than damage says so, and not that something is damaged."""

import os
import signal
import subprocess
import sys
import time
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

    monkeypatch.setattr(type(storage), "_value", lambda self, name: Denied()[name])
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
    assert code == 5 and "KiB of the largest chunk and what becomes of it" in err


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


CHILD = "import os, signal, sys, time; me = int(os.environ['JAX_PROCESS_ID']); "


def launched(count, what):
    return launch.launch(count, [sys.executable, "-S", "-c", CHILD + what])[0]


def test_the_exit_code_of_several_processes(monkeypatch):
    """Whoever was stopped, the whole was; the first that failed tells why, unless it was killed."""

    def start(command, address, count, index, shown):
        return subprocess.Popen(command, env=os.environ | {"JAX_PROCESS_ID": str(index)})

    monkeypatch.setattr(launch, "_start", start)  # without a fork of this process
    monkeypatch.setattr(launch, "_GRACE", 0.2)
    assert launched(2, "sys.exit(0)") == 0
    assert launched(2, "signal.signal(2, signal.SIG_DFL); os.kill(os.getpid(), 2)") == 130
    assert launched(2, "sys.exit(130 if me else 4)") == 130
    assert launched(2, "sys.exit(4)") == 4
    assert launched(2, "sys.exit(5) if me else time.sleep(60)") == 5
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    begun = time.monotonic()
    with pytest.raises(errors.CheckpointError, match=r"process 1 of 2 .*SIGKILL.*--resume"):
        launched(2, "os.kill(os.getpid(), 9) if me else None; " + deaf)
    assert time.monotonic() - begun < 30  # the deaf one was not waited for


@pytest.fixture
def launcher(tmp_path):
    """A launcher of two processes that wait, and their numbers."""
    child = f"{CHILD}open(r'{tmp_path}/' + str(os.getpid()), 'w').close(); time.sleep(60)"
    code = (
        "import sys; from maxmig.converters.engine import launch; "
        f"sys.exit(launch.launch(2, [sys.executable, '-S', '-c', {child!r}])[0])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(file.name) for file in tmp_path.iterdir()]
    assert len(pids) == 2
    return process, pids


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_the_launcher_stops_all(number, launcher):
    """None of them goes on alone."""
    process, pids = launcher
    process.send_signal(number)
    assert process.wait(30) == 130
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_nobody_goes_on_without_the_launcher(launcher):
    process, pids = launcher
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(map(_runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, pids))


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
