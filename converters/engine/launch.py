"""Starts a conversion as several processes of this machine, which find each other through JAX."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

_GRACE = 10.0  # seconds for the others to end by themselves when one has failed


def launch(count: int, command: Sequence[str], *, capture: bool = False) -> tuple[int, str]:
    """Runs a command in several processes; the first one speaks.

    Args:
        count: how many.
        command: what each of them runs.
        capture: keep what the first one writes to stdout instead of showing it.

    Returns:
        The exit code (of the first process that failed, else 0), and what was captured.
    """
    address = f"127.0.0.1:{_free_port()}"
    running: list[subprocess.Popen] = []
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal asks each of them itself
    try:
        with tempfile.TemporaryFile() as kept:
            for index in range(count):
                shown = kept if capture else None
                running.append(_start(command, address, count, index, shown))
            code = _wait(running)
            kept.seek(0)
            return code, kept.read().decode()
    finally:
        signal.signal(signal.SIGINT, before)
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def _start(
    command: Sequence[str], address: str, count: int, index: int, shown: Any
) -> subprocess.Popen:
    told = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        command,
        env={**os.environ, **told},
        stdout=shown if index == 0 else subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def _wait(running: Sequence[subprocess.Popen]) -> int:
    failed_at: float | None = None
    first = 0
    while any(process.poll() is None for process in running):
        codes = [process.poll() for process in running]
        bad = [code for code in codes if code not in (None, 0)]
        if bad and failed_at is None:
            failed_at, first = time.monotonic(), bad[0] or 0
        if failed_at is not None and time.monotonic() - failed_at > _GRACE:
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
        time.sleep(0.05)
    # A process that a signal ended has minus its number; a shell says 128 and the number.
    ended = [code if code >= 0 else 128 - code for code in (p.returncode or 0 for p in running)]
    first = first if first >= 0 else 128 - first
    if 128 + signal.SIGINT in ended:  # the user stopped all of them, whatever the others made of it
        return 128 + signal.SIGINT
    return ended[0] or first or max(ended, key=abs)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
