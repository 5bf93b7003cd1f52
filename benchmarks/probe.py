"""Compile time and memory of one candidate, in a process of its own.

Only a fresh process has empty caches and a peak memory that is nobody else's. The parent calls
`run`; the child is `python -m maxmig.benchmarks.probe REQUEST`, both as JSON.
"""

import contextlib
import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.benchmarks import programs

_STEPS = 10


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a fresh process measured.

    Attributes:
        trace, lower, compile: seconds of Python to jaxpr, jaxpr to StableHLO, XLA.
        cpu: processor seconds of all three, all threads: the same on a busy machine.
        program_bytes: peak memory of the compiled program; None where XLA does not tell.
        process_bytes: peak resident memory of the process while it takes a few steps, what the
            compiler left behind given back; None if unknown.
    """

    trace: float
    lower: float
    compile: float
    cpu: float
    program_bytes: int | None
    process_bytes: int | None

    @property
    def total(self) -> float:
        """Seconds from a Python function to a program."""
        return self.trace + self.lower + self.compile


def run(case: programs.Case, candidate: str) -> Probe:
    """Measures in a fresh process, JAX's persistent compilation cache off.

    Raises:
        MaxmigError: the process failed; the message has what it said.
    """
    request = json.dumps({"case": dataclasses.asdict(case), "candidate": candidate})
    env = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "maxmig.benchmarks.probe", request],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip()[-2000:]
        raise errors.MaxmigError(f"measuring {candidate} on {case.name} failed:\n{said}")
    return Probe(**json.loads(done.stdout.splitlines()[-1]))


def measure(program: programs.Program, *, steps: int = 0) -> Probe:
    """Measures in this process; its peak memory means something only if nothing else ran in it."""
    import jax

    cpu, start = time.process_time(), time.perf_counter()
    traced = program.step.trace(program.state, program.batch)
    was_traced = time.perf_counter()
    lowered = traced.lower()
    was_lowered = time.perf_counter()
    compiled = lowered.compile()
    end, cpu_end = time.perf_counter(), time.process_time()
    _forget_peak()
    for _ in range(steps):  # the jitted call finds what was compiled
        jax.block_until_ready(program())
    return Probe(
        trace=was_traced - start,
        lower=was_lowered - was_traced,
        compile=end - was_lowered,
        cpu=cpu_end - cpu,
        program_bytes=programs.memory(compiled),
        process_bytes=_peak_resident(),
    )


def _forget_peak() -> None:
    """Gives freed memory back and starts a new peak, where the system can.

    XLA compiles in several threads, each with an arena of its own: the peak of a compilation
    varies by a twentieth between two runs of the same program, and hides what the steps need.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # Linux with glibc
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "utf-8")


def _peak_resident() -> int | None:
    """Peak resident memory of this process, from Linux.

    `getrusage` is no help: a child starts with the peak of the process that forked it.
    """
    try:
        status = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        return None
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else None


def main(request: str) -> None:
    """The child: measures what the request says and prints one line of JSON."""
    asked: dict[str, Any] = json.loads(request)
    case = asked["case"]
    case = programs.Case(case["name"], case["path"], tuple(case["overrides"]))
    found = measure(programs.build(case, asked["candidate"]), steps=_STEPS)
    print(json.dumps(dataclasses.asdict(found)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
