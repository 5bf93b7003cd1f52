"""Runs that are stopped from outside: Ctrl-C, SIGTERM, kill -9, a full disk. Real processes."""

import contextlib
import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers
import pytest
import runs

from maxmig import errors
from maxmig.checkpoint.store import Store
from maxmig.config.flags import Stage
from maxmig.train import loop

RUN = ("dropout_rate=0.1", "log_period=1")


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.alone(monkeypatch)


def read(path: Path) -> list[dict[str, Any]]:
    return runs.records(path) if path.exists() else []


def wait(question: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 120
    while not question():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def begin(folder: Path, *overrides: str, stage: Stage) -> "subprocess.Popen[str]":
    """A long run; it is known that it trains when this returns."""
    argv = runs.arguments(folder, *RUN, *overrides, stage=stage)
    config = helpers.ROOT / "configs" / "tiny_llama2.yml"
    process = runs.start("train", str(config), *argv, cwd=folder, env=helpers.environment())
    wait(lambda: len(read_safely(folder)) >= 5, process)
    return process


def read_safely(folder: Path) -> list[str]:
    path = folder / "out" / "run" / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def uninterrupted(folder: Path, steps: int, stage: Stage) -> tuple[dict[str, Any], list[Any]]:
    (folder / "straight").mkdir()
    cfg = runs.config(folder / "straight", *RUN, f"steps={steps}", stage=stage)
    done = runs.train(cfg)
    return runs.state(done), runs.records(done.folder.metrics)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_printed_command_goes_on(
    tmp_path: Path, one_device: None, number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    stage = Stage.LINEN if number is signal.SIGINT else Stage.NNX
    # Ctrl-C goes to the data workers of the run as well, who must not mind.
    workers = "grain_worker_count=1" if number is signal.SIGINT else "grain_worker_count=0"
    process = begin(tmp_path, "steps=100000", workers, stage=stage)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err and out == ""
    last = err.rstrip().splitlines()[-1]
    assert last.startswith("interrupted after step ")
    step = int(last.split()[3].rstrip(";"))
    with Store(tmp_path / "out" / "run" / "checkpoints") as store:
        assert store.latest() == step - 1
    command = shlex.split(last.partition("Resume: ")[2])
    assert command[:2] == ["maxmig", "train"]
    # As printed, with an end that is near.
    words = [sys.executable, "-m", *command, f"steps={step + 2}"]
    again = subprocess.run(
        words, cwd=tmp_path, env=helpers.environment(), capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 0, again.stderr
    assert f"start    step {step} of" in again.stderr
    state, records = uninterrupted(tmp_path, step + 2, stage)
    assert runs.records(tmp_path / "out" / "run" / "metrics.jsonl") == records
    cfg = runs.config(tmp_path, *RUN, f"steps={step + 2}", stage=stage)
    helpers.same(runs.state(runs.train(cfg)), state)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    """A save that takes for ever is not waited for, and the last good checkpoint stays."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import sys, threading, time\n"
        "from maxmig.checkpoint import store\n"
        "real = store.Store.save\n"
        "def save(self, step, *args, **options):\n"
        "    if step > 2:\n"
        "        threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "        print('SAVING', file=sys.stderr, flush=True)\n"
        "        time.sleep(600)\n"
        "    return real(self, step, *args, **options)\n"
        "store.Store.save = save\n"
        "from maxmig.cli import main\n"
        "main.run()\n"
    )
    argv = runs.arguments(tmp_path, *RUN, "steps=100000", "checkpoint_period=2", stage=Stage.LINEN)
    config = helpers.ROOT / "configs" / "tiny_llama2.yml"
    process = subprocess.Popen(
        [sys.executable, str(slow), "train", str(config), *argv],
        cwd=tmp_path,
        env=helpers.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line == "SAVING\n":
            break
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    for _ in range(20):  # two signals in a row may reach a busy process as one
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
            break
    process.kill()
    _, err = process.communicate()
    assert process.returncode == 130, (seen, err)
    assert "stopped at once after step 4, without saving; the last checkpoint has step 2" in err
    assert "Resume from there: maxmig train " in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("one_device")
class TestKill:
    def test_in_training(self, tmp_path: Path, wing: Stage) -> None:
        """Only the steps since the last checkpoint are lost, and they are done again."""
        process = begin(tmp_path, "steps=100000", "checkpoint_period=3", stage=wing)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        root = tmp_path / "out" / "run"
        with Store(root / "checkpoints") as store:
            saved = store.latest()
        before = read_whole(root / "metrics.jsonl")
        told = before[-1]["step"]
        done = -1 if saved is None else saved
        # At most the save that was under way is lost beside the steps since the last one.
        assert told - (done + 1) <= 2 * 3
        steps = told + 3
        result = runs.train(runs.config(tmp_path, *RUN, f"steps={steps}", stage=wing))
        assert result.first == done + 1
        state, records = uninterrupted(tmp_path, steps, wing)
        helpers.same(runs.state(result), state)
        after = runs.records(result.folder.metrics)
        assert after == records
        assert before == after[: len(before)]

    def test_in_a_save(self, tmp_path: Path, wing: Stage) -> None:
        """A process that dies while a checkpoint is half on disk leaves the one before good."""
        code = (
            "import os, sys, pathlib\n"
            "from orbax.checkpoint._src.path import atomicity\n"
            "import orbax.checkpoint as ocp\n"
            "rename = os.rename\n"
            "def die(*args, **options):\n"
            "    if any('/3' in str(a) or '3.orbax' in str(a) for a in args[:1]):\n"
            "        os.kill(os.getpid(), 9)\n"
            "    return rename(*args, **options)\n"
            "os.rename = os.replace = die\n"
            "from maxmig.cli import main\n"
            "main.run()\n"
        )
        argv = runs.arguments(
            tmp_path,
            *RUN,
            "steps=50",
            "checkpoint_period=2",
            "max_num_checkpoints_to_keep=2",
            stage=wing,
        )
        config = helpers.ROOT / "configs" / "tiny_llama2.yml"
        died = subprocess.run(
            [sys.executable, "-c", code, "train", str(config), *argv],
            cwd=tmp_path,
            env=helpers.environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert died.returncode == -signal.SIGKILL, died.stderr
        checkpoints = tmp_path / "out" / "run" / "checkpoints"
        left = sorted(path.name for path in checkpoints.iterdir())
        assert any(name.startswith("3") and name != "3" for name in left), left
        with Store(checkpoints) as store:
            assert store.latest() == 1
        result = runs.train(runs.config(tmp_path, *RUN, "steps=6", stage=wing))
        assert result.first == 2
        state, records = uninterrupted(tmp_path, 6, wing)
        helpers.same(runs.state(result), state)
        assert runs.records(result.folder.metrics) == records
        assert not [p.name for p in checkpoints.iterdir() if not p.name.isdigit()]


def read_whole(path: Path) -> list[dict[str, Any]]:
    """The records of a file whose last line may be cut off."""
    lines = path.read_text().splitlines(keepends=True)
    return [
        {key: value for key, value in json.loads(line).items() if key not in runs.TIMES}
        for line in lines
        if line.endswith("\n")
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True
    )
    if not made or made.returncode:
        pytest.skip("only root can make a small disk here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("asynchronous", ["true", "false"])
def test_a_full_disk(small_disk: Path, one_device: None, wing: Stage, asynchronous: str) -> None:
    more = (*RUN, f"async_checkpointing={asynchronous}", "enable_tensorboard=true")
    first = runs.train(runs.config(small_disk, *more, "steps=2", stage=wing))
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    with filler.open("r+b") as file:  # room for the metrics, not for a checkpoint
        file.truncate(filler.stat().st_size - 12 * 1024)
    cfg = runs.config(small_disk, *more, "steps=20", "checkpoint_period=2", stage=wing)
    with pytest.raises(errors.CheckpointError, match="the disk is full; free some space") as told:
        runs.train(cfg)
    assert "the last good checkpoint is step 1, untouched" in str(told.value)
    assert told.value.exit_code == 4
    filler.unlink()
    again = runs.train(runs.config(small_disk, *more, "steps=4", stage=wing))
    assert again.first == first.step == 2
    straight = runs.config(small_disk, *more, "steps=4", "run_name=straight", stage=wing)
    helpers.same(runs.state(again), runs.state(runs.train(straight)))


def test_no_room_for_metrics(
    tmp_path: Path, one_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maxmig.train import metrics

    def dumps(record: dict[str, Any]) -> str:
        if record["step"] == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return json.dumps(record)

    monkeypatch.setattr(metrics, "json", SimpleNamespace(dumps=dumps, loads=json.loads))
    cfg = runs.config(tmp_path, *RUN, "steps=5", "checkpoint_period=2")
    with pytest.raises(errors.DataError, match=r"metrics\.jsonl: .*No space left") as told:
        runs.train(cfg)
    assert told.value.exit_code == 4
    monkeypatch.undo()
    runs.alone(monkeypatch)
    again = runs.train(cfg)
    assert (again.first, again.step) == (2, 5)
    assert [r["step"] for r in runs.records(again.folder.metrics)] == [1, 2, 3, 4, 5]


def test_a_signal_before_the_first_step_loses_nothing(
    tmp_path: Path, one_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to save yet, so it stops at once."""

    def begin(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(loop.start, "begin", begin)
    with pytest.raises(KeyboardInterrupt):
        runs.train(runs.config(tmp_path, "steps=5"))
    assert signal.getsignal(signal.SIGTERM) is before
    assert not (tmp_path / "out").exists()


def test_without_checkpoints_the_farewell_says_so(tmp_path: Path, one_device: None) -> None:
    class Stops(loop.Silent):
        def progress(self, step: int, total: int, values: Any) -> None:
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    cfg = runs.config(tmp_path, *RUN, "steps=50", "enable_checkpointing=false")
    with pytest.raises(errors.Interrupted, match="nothing is saved, for enable_checkpointing"):
        runs.train(cfg, Stops())


def test_a_run_in_another_thread_leaves_the_signals_alone(tmp_path: Path, one_device: None) -> None:
    done: list[loop.Result] = []
    before = signal.getsignal(signal.SIGINT)
    cfg = runs.config(tmp_path, "steps=2")
    thread = threading.Thread(target=lambda: done.append(runs.train(cfg)))
    thread.start()
    thread.join()
    assert done[0].step == 2
    assert signal.getsignal(signal.SIGINT) is before
