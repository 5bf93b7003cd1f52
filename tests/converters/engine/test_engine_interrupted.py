"""Killed or stopped: the source is as it was, and the result is absent or whole."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from engine_cases import contents, convert, renamed, save, unstacked

from maxmig import errors
from maxmig.converters import storage
from maxmig.converters.engine import journal, pieces, pool

SCRIPT = """
import sys
from engine_cases import convert, unstacked
from maxmig import errors
todo = unstacked(sys.argv[1])
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
    _, result = convert(unstacked(sizable), tmp_path / "whole")
    wanted = contents(tmp_path / "whole")
    work = tmp_path / "work"
    work.mkdir()
    assert kill_and_resume(sizable, work, wanted, [0.02, 0.1, 0.2]) >= 1
    assert files_of(sizable) == before and result.resumed == 0


@pytest.mark.slow
def test_kill_minus_nine_at_fifty_random_moments(sizable, tmp_path):
    before = files_of(sizable)
    begin = time.monotonic()
    convert(unstacked(sizable), tmp_path / "whole", threads=1)
    took = time.monotonic() - begin
    work = tmp_path / "work"
    work.mkdir()
    moments = [random.Random(seed).uniform(0, 1.5 * took) for seed in range(50)]
    assert kill_and_resume(sizable, work, contents(tmp_path / "whole"), moments) >= 10
    assert files_of(sizable) == before


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
    _, fresh = convert(unstacked(sizable), tmp_path / "other")
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
        convert(unstacked(sizable), tmp_path / "dst", threads=1)
    monkeypatch.setattr(pieces, "perform", perform)
    _, result = convert(unstacked(sizable), tmp_path / "dst", resume=True)
    assert result.resumed == 4
    convert(unstacked(sizable), tmp_path / "other")
    assert contents(tmp_path / "dst") == contents(tmp_path / "other")


def test_a_journal_of_another_conversion_does_not_count(sizable, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "perform", lambda *args: (_ for _ in ()).throw(pool.Stopped()))
    with pytest.raises(errors.Interrupted):
        convert(unstacked(sizable), tmp_path / "dst")
    monkeypatch.undo()
    _, result = convert(renamed(storage.open(sizable)), tmp_path / "dst", resume=True)
    assert result.resumed == 0
