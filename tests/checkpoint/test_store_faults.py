"""Saves that die or run out of space: the last good checkpoint stays, and the error says so."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from maxmig import errors
from maxmig.checkpoint import Store, faults
from maxmig.converters import places

SAVER = """
    import sys
    import numpy as np
    from maxmig import errors
    from maxmig.checkpoint import Store
    from maxmig.converters import checkpoint

    def flat(step, size):
        noise = np.random.default_rng(step).normal(size=size).astype(np.float32)
        return {"params/w": noise, "step": np.int32(step + 1)}

    directory = sys.argv[1]
    store = Store(directory, keep=2)
"""


def start(code: str, *args: object) -> "subprocess.Popen[str]":
    program = textwrap.dedent(SAVER) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kill_in_a_save_leaves_the_last_good_one(tmp_path):
    """Saves without end, killed at different moments; what `steps` calls complete is complete."""
    code = """
    print("ready", flush=True)
    for step in range((store.latest() or 0) + 1, 10_000):
        store.save(step, flat(step, 300_000))
    """
    reached = 0
    for delay in (0.05, 0.12, 0.21):
        child = start(code, tmp_path / "run")
        assert child.stdout is not None
        child.stdout.readline()
        while not (good := places.steps(tmp_path / "run")) or good[-1] <= reached:
            assert child.poll() is None, child.stderr and child.stderr.read()
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        step = Store(tmp_path / "run").latest()
        assert step is not None and step > reached
        reached = step
        _check_content(tmp_path / "run", step)


def _check_content(directory: Path, step: int) -> None:
    import jax
    import numpy as np

    target = {
        "params/w": jax.ShapeDtypeStruct((300_000,), "float32"),
        "step": jax.ShapeDtypeStruct((), "int32"),
    }
    restored = Store(directory).restore(step, target)
    noise = np.random.default_rng(step).normal(size=300_000).astype(np.float32)
    np.testing.assert_array_equal(restored.flat["params/w"], noise)
    assert int(restored.flat["step"]) == step + 1


@pytest.mark.parametrize("asynchronous", [True, False])
def test_no_room_for_a_save(asynchronous, tmp_path):
    """The kernel refuses to write, by a limit of file sizes: the same path as a full disk."""
    code = f"""
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = Store(directory, asynchronous={asynchronous}, keep=1)
    store.save(0, flat(0, 10_000)); store.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    try:
        store.save(1, flat(1, 2_000_000)); store.wait()
    except errors.CheckpointError as error:
        print(error)
    print(store.steps())
    store.save(2, flat(2, 10_000)); store.close()
    print(store.steps(), [path.name for path in store.directory.iterdir()])
    """
    out, err = start(code, tmp_path / "run").communicate(timeout=120)
    first, *rest = out.splitlines()
    assert "the save failed: the limit of file sizes is reached" in first, out + err
    assert first.endswith("the last good checkpoint is step 0, untouched")
    assert rest == ["[0]", "[2] ['2']"]  # keep=1, and the remains of step 1 are gone
    assert "RESOURCE_EXHAUSTED" not in err  # Orbax's own account of it, many tracebacks long


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device"), "the disk is full; free some space"),
        (ValueError("RESOURCE_EXHAUSTED: No space left on device"), "the disk is full"),
        (OSError(122, "Disk quota exceeded"), "the disk quota is used up"),
        (PermissionError(13, "Permission denied", "/x/9"), "no permission to write /x/9"),
        (RuntimeError("something else"), "RuntimeError: something else"),
    ],
)
def test_what_a_failed_save_says(error, told, flat, tmp_path, monkeypatch):
    store = Store(tmp_path / "run", asynchronous=False)
    store.save(0, flat)

    def fail(*args, **kwargs):
        raise RuntimeError("wrapped") from error

    monkeypatch.setattr(store._manager, "save", fail)
    with pytest.raises(errors.CheckpointError) as caught:
        store.save(1, flat)
    if "something else" not in told:
        assert told in str(caught.value)
    assert "the last good checkpoint is step 0, untouched" in str(caught.value)
    assert caught.value.exit_code == 4
    assert store.save(1, flat) and store.steps() == [0, 1]  # and the store works on


def test_the_first_save_fails(tmp_path):
    told = pytest.raises(errors.CheckpointError, match="there is no earlier checkpoint")
    with told, faults.writing(tmp_path, lambda: None, lambda: None):
        raise OSError(28, "No space left on device")


def test_a_directory_that_cannot_be_made(flat, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(errors.CheckpointError, match="the save failed"):
        Store(tmp_path / "file" / "run").save(0, flat)
