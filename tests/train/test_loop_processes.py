"""Two real processes on the loopback, training data-parallel as one run."""

import socket
import subprocess
from pathlib import Path

import helpers
import numpy as np
import pytest
import runs

from maxmig import errors
from maxmig.config.flags import Stage
from maxmig.train import distributed

RUN = ("dropout_rate=0.1", "log_period=1", "ici_data_parallelism=2", "per_device_batch_size=2")
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
TINY = str(helpers.ROOT / "configs" / "tiny_llama2.yml")


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def together(folder: Path, *argv: str) -> list[tuple[int, str, str]]:
    """Runs a command line in two processes: exit code, stdout and stderr of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for index in range(2):
        env = helpers.environment()
        env |= dict(zip(VARIABLES, (f"127.0.0.1:{port}", "2", str(index)), strict=True))
        processes.append(runs.start(*argv, cwd=folder, env=env))
    try:
        ends = [process.communicate(timeout=180) for process in processes]
    except subprocess.TimeoutExpired:
        for process in processes:
            process.kill()
        raise AssertionError([process.communicate() for process in processes]) from None
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, ends, strict=True)]


def check(ends: list[tuple[int, str, str]]) -> None:
    (code, out, err), (other_code, other_out, other_err) = ends
    assert (code, other_code) == (0, 0), (err, other_err)
    assert "trained steps" in out and "rung" in err
    assert other_out == "" and "step " not in other_err, "only one process speaks"


def test_two_processes_are_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wing: Stage, no_variables: None
) -> None:
    import jax

    argv = runs.arguments(tmp_path, *RUN, "checkpoint_period=2", "eval_interval=2", stage=wing)
    check(together(tmp_path, "train", TINY, *argv, "steps=3"))
    root = tmp_path / "out" / "run"
    found = runs.records(root / "metrics.jsonl")
    two = jax.devices()[:2]
    monkeypatch.setattr(jax, "devices", lambda *_: two)
    more = ("run_name=alone", "eval_interval=2", "checkpoint_period=2")
    alone = runs.train(runs.config(tmp_path, *RUN, *more, "steps=3", stage=wing))
    wanted = runs.records(alone.folder.metrics)
    assert [r["step"] for r in found] == [r["step"] for r in wanted] == [1, 2, 2, 3]
    for one, other in zip(found, wanted, strict=True):
        assert set(one) == set(other)
        for key, value in other.items():
            assert one[key] == pytest.approx(value, rel=1e-5 if "norm" in key else 1e-6), key
    # What two processes saved, one process reads and goes on with.
    runs.alone(monkeypatch)
    again = runs.train(
        runs.config(tmp_path, *RUN[:2], "per_device_batch_size=4", "steps=4", stage=wing)
    )
    assert (again.first, again.step) == (3, 4)
    # And two go on from what one has saved.
    check(together(tmp_path, "train", TINY, *argv, "steps=5"))
    assert runs.records(root / "metrics.jsonl")[-1]["step"] == 5
    assert runs.stored(root / "checkpoints")["stage"] == wing.value


def test_a_name_is_needed(tmp_path: Path) -> None:
    argv = runs.arguments(tmp_path, *RUN, "run_name=", "steps=1")
    for code, _, err in together(tmp_path, "train", TINY, *argv):
        assert code == 2 and "give run_name=NAME to each" in err


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (("h:1", "", ""), "JAX_COORDINATOR_ADDRESS is set and JAX_NUM_PROCESSES, JAX_PROCESS_ID"),
        (("h:1", "two", "0"), "JAX_NUM_PROCESSES: expected a whole number, got 'two'"),
        (("h:1", "2", "-1"), "JAX_PROCESS_ID: expected a whole number"),
        (("h:1", "2", "2"), r"JAX_PROCESS_ID: expected 0 to 1 \(JAX_NUM_PROCESSES=2\), got 2"),
        (("h", "2", "0"), "JAX_COORDINATOR_ADDRESS: expected host:port, got 'h'"),
    ],
)
def test_variables_that_make_no_sense(
    values: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(errors.ConfigError, match=says):
        distributed.start()


def test_a_process_that_is_alone(no_variables: None) -> None:
    assert not distributed.start()
    assert distributed.first()
    assert [distributed.agree(asked, now=False) for asked in (True, False)] == [True, False]


@pytest.mark.parametrize("asked", [(False, True), (True, False), (False, False)])
def test_processes_agree(asked: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is asked to stop stops all, at the same step."""
    import jax
    from jax.experimental import multihost_utils

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: np.asarray(asked))
    assert distributed.agree(asked[0], now=True) == any(asked)
    assert not distributed.agree(True, now=False), "nothing is said between"
