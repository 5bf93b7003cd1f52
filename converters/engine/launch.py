"""Starts a conversion as several processes of this machine, which find each other through JAX."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from maxmig import errors

_GRACE = 10.0  # seconds for the others to end by themselves when one has failed, then by a signal
_ASKED = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def launch(count: int, command: Sequence[str], *, capture: bool = False) -> tuple[int, str]:
    """Runs a command in several processes; the first one speaks.

    They are in sessions of their own: what asks this process to stop, a terminal or a cluster's
    manager, is passed on, so that all of them stop alike, whoever was asked.

    Args:
        count: how many.
        command: what each of them runs.
        capture: keep what the first one writes to stdout instead of showing it.

    Returns:
        The exit code (130 if it was stopped, else of the first process that failed, else 0), and
        what was captured.

    Raises:
        CheckpointError: a process was killed.
    """
    address = f"127.0.0.1:{_free_port()}"
    running: list[subprocess.Popen] = []
    with tempfile.TemporaryFile() as kept, _passed_on(running):
        try:
            for index in range(count):
                shown = kept if capture else None
                running.append(_start(command, address, count, index, shown))
            code = _wait(running)
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        kept.seek(0)
        return code, kept.read().decode()


@contextlib.contextmanager
def _passed_on(running: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Passes on to all processes what asks this one to stop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, frame: Any) -> None:
        for process in running:
            process.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, pass_on) for number in _ASKED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(
    command: Sequence[str], address: str, count: int, index: int, shown: Any
) -> subprocess.Popen:
    told = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
        "JAX_PLATFORMS": "cpu",
    }
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux: nobody goes on without this process

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(
        command,
        env={**os.environ, **told},
        stdout=shown if index == 0 else subprocess.DEVNULL,
        preexec_fn=prepare,
        start_new_session=True,
    )


def _wait(running: Sequence[subprocess.Popen]) -> int:
    """Waits for all; when one has failed, the others are asked to end, and then made to."""
    first: int | None = None
    until = 0.0
    ways = iter((subprocess.Popen.terminate, subprocess.Popen.kill))
    while None in (codes := [process.poll() for process in running]):
        bad = [index for index, code in enumerate(codes) if code]
        if bad and first is None:
            first, until = bad[0], time.monotonic() + _GRACE
        if first is not None and time.monotonic() > until:
            until = time.monotonic() + _GRACE
            end = next(ways, subprocess.Popen.kill)
            for process in running:
                end(process)
        time.sleep(0.05)
    ended = [process.returncode for process in running]
    if any(code in (-signal.SIGINT, 128 + signal.SIGINT) for code in ended):
        return 128 + signal.SIGINT  # they were stopped, whatever the others made of it
    if first is None:
        first = next((index for index, code in enumerate(ended) if code), 0)
    if ended[first] < 0:
        raise errors.CheckpointError(
            f"process {first} of {len(ended)} was ended by signal {-ended[first]} "
            f"({signal.Signals(-ended[first]).name}); nothing was put in place. Go on with the "
            "same command and --resume"
        )
    return ended[0] if ended[0] > 0 else ended[first]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
