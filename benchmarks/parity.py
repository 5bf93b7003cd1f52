"""How long a proof takes, and how much memory: each case in a process of its own.

The proof is of a whole training step, Linen against NNX: loss, every gradient, every parameter and
moment after the update. The time is that of tracing both sides and comparing them, imports left
out; the memory is the peak of the process, imports included.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from maxmig import errors

_PROGRAM = "train_step"


@dataclasses.dataclass(frozen=True)
class Case:
    """What is proved, and the most that it may take.

    Attributes:
        name: for the command line.
        config: a configuration file or name.
        settings: `key=value`.
        seconds: the most that it may take.
        mib: the most memory, in MiB.
    """

    name: str
    config: str
    settings: tuple[str, ...]
    seconds: float
    mib: float = 1024.0


CASES = (
    Case("demo", "demo", (), 3.0),
    Case("demo-unscanned", "demo", ("scan_layers=false",), 3.0),
    Case("70b", "models/llama2-70b", (), 10.0),
    Case("70b-unscanned", "models/llama2-70b", ("scan_layers=false",), 60.0),
)


@dataclasses.dataclass(frozen=True)
class Result:
    """One case, measured.

    Attributes:
        case: what was proved.
        seconds: of each run.
        mib: peak memory of each run.
        proved, outputs: how many outputs were proved, and how many there are.
        equations: of both sides.
        parameters: numbers in the model.
    """

    case: Case
    seconds: tuple[float, ...]
    mib: tuple[float, ...]
    proved: int
    outputs: int
    equations: tuple[int, int]
    parameters: int

    def __bool__(self) -> bool:
        return self.proved == self.outputs and not self.missed

    @property
    def missed(self) -> tuple[str, ...]:
        """The targets that the median run does not reach."""
        found = []
        if self.time > self.case.seconds:
            found.append(f"{self.time:.1f} s, at most {self.case.seconds:g}")
        if self.memory > self.case.mib:
            found.append(f"{self.memory:.0f} MiB, at most {self.case.mib:g}")
        return tuple(found)

    @property
    def time(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def memory(self) -> float:
        """Median MiB."""
        return statistics.median(self.mib)


def run(
    names: Sequence[str], repeats: int, note: Callable[[str], object] = lambda text: None
) -> Iterator[Result]:
    """Measures cases, one after the other.

    Args:
        names: of cases.
        repeats: processes for each.
        note: is told what is going on.

    Raises:
        ConfigError: there is no such case.
    """
    known = {case.name: case for case in CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise errors.ConfigError(f"case {unknown[0]!r} is not one of {', '.join(known)}")
    for name in names:
        told = []
        for number in range(repeats):
            note(f"{name}: run {number + 1} of {repeats}")
            told.append(_process(known[name]))
        last = told[-1]
        yield Result(
            known[name],
            tuple(t["seconds"] for t in told),
            tuple(t["mib"] for t in told),
            last["proved"],
            last["outputs"],
            (last["equations"][0], last["equations"][1]),
            last["parameters"],
        )


def prove(case: Case) -> dict[str, Any]:
    """Proves in this process, and tells what it took."""
    from maxmig import config
    from maxmig.parity import programs, static

    began = time.perf_counter()
    cfg = config.load(case.config, list(case.settings))
    control, candidate = (
        programs.of_rung(cfg, stage, only=[_PROGRAM])[_PROGRAM] for stage in ("linen", "nnx")
    )
    proof = static.prove(control, candidate)
    seconds = time.perf_counter() - began
    sizes = zip(control.inputs, control.jaxpr.in_avals, strict=True)
    return {
        "seconds": seconds,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "proved": len(proof.proved),
        "outputs": proof.outputs,
        "equations": proof.equations,
        "parameters": sum(int(a.size) for name, a in sizes if name.startswith("params/")),
    }


def _process(case: Case) -> dict[str, Any]:
    words = [sys.executable, "-m", "maxmig.benchmarks.parity", case.name]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise errors.MaxmigError(f"the case {case.name} ended with {done.returncode}: {last}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


if __name__ == "__main__":
    print(json.dumps(prove({case.name: case for case in CASES}[sys.argv[1]])))
