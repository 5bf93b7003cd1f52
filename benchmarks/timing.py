"""Times programs in turn, so that whatever the machine does meanwhile hits all of them alike.

One round calls each program once; the order runs through all permutations, so that none always
follows the same neighbour. Programs are compared round by round: the median of the ratios of one
round knows nothing of a drift from round to round.
"""

import dataclasses
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import jax

from maxmig.benchmarks.programs import Program

WARM_UP = 2


@dataclasses.dataclass
class Samples:
    """Seconds of each step of one program.

    Attributes:
        step: from the call until all results are there.
        dispatch: until the call returned. The device was idle before and JAX's CPU client computes
            in threads of its own, so this is the host's part: flattening the arguments, checking
            them, transferring the batch, launching, wrapping the results.
        cpu: processor time of the whole process in that time, all threads. Another process on the
            machine makes a step longer, but takes no processor time in our name.
    """

    step: list[float] = dataclasses.field(default_factory=list)
    dispatch: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.step)


def interleave(
    programs: Mapping[str, Program], rounds: int, tick: Callable[[], None] = lambda: None
) -> dict[str, Samples]:
    """Takes `rounds` steps of each program, after two that are not counted.

    Args:
        programs: by name.
        rounds: number of steps of each.
        tick: called after each round.
    """
    samples = {name: Samples() for name in programs}
    orders = _orders(list(programs))
    for program in list(programs.values()) * WARM_UP:
        jax.block_until_ready(program())
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name in next(orders):
                _time(programs[name], samples[name])
            tick()
    finally:
        if collecting:
            gc.enable()
    return samples


def ratio(a: list[float], b: list[float]) -> "Estimate":
    """The median of a / b, round by round."""
    return estimate([x / y for x, y in zip(a, b, strict=True)])


def difference(a: list[float], b: list[float]) -> "Estimate":
    """The median of a - b, round by round."""
    return estimate([x - y for x, y in zip(a, b, strict=True)])


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A median, and the interval in which the true one lies with 95 % confidence."""

    median: float
    low: float
    high: float


def estimate(values: list[float]) -> Estimate:
    """The median and its interval, from order statistics (no assumption about the distribution)."""
    ordered = sorted(values)
    n = len(ordered)
    # The number of values below the true median is binomial(n, 1/2).
    margin = math.ceil(0.98 * math.sqrt(n))
    low, high = max(0, n // 2 - margin), min(n - 1, (n - 1) // 2 + margin)
    return Estimate(statistics.median(ordered), ordered[low], ordered[high])


def _time(program: Program, samples: Samples) -> None:
    cpu, start = time.process_time(), time.perf_counter()
    written = program()
    returned = time.perf_counter()
    jax.block_until_ready(written)
    end, cpu_end = time.perf_counter(), time.process_time()
    samples.step.append(end - start)
    samples.dispatch.append(returned - start)
    samples.cpu.append(cpu_end - cpu)


def _orders(names: list[str]) -> Iterator[tuple[str, ...]]:
    return itertools.cycle(itertools.permutations(names))
