"""Measures training: the cases one after the other, the candidates of a case side by side."""

import dataclasses
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from maxmig.benchmarks import probe, programs, timing
from maxmig.benchmarks.results import CaseResult, Growth

Tell = Callable[[str], None]

LAYERS = (2, 8, 32)
_GROWTH = (  # case, candidate, repetitions: the unscanned contrast is slow, and judged by nothing
    ("tiny", "linen", 3),
    ("tiny", "nnx", 3),
    ("tiny-unscanned", "linen", 1),
    ("tiny-unscanned", "nnx", 1),
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        cases: in this order.
        candidates: of each case.
        steps: timed steps of each candidate; None: from the length of a step.
        repeats: fresh processes for compile time and memory; 0 measures in this process alone.
        growth: whether compile time is measured over the number of layers.
    """

    cases: Sequence[programs.Case]
    candidates: Sequence[str]
    steps: int | None
    repeats: int
    growth: bool


def run_case(plan: Plan, case: programs.Case, tell: Tell) -> CaseResult:
    """All that is measured about one case."""
    jax.config.update("jax_enable_compilation_cache", False)
    probes: dict[str, list[probe.Probe]] = {name: [] for name in plan.candidates}
    for repeat in range(plan.repeats):
        for name in plan.candidates:
            tell(f"{case.name}: compiling {name} in a fresh process, {repeat + 1}/{plan.repeats}")
            probes[name].append(probe.run(case, name))
    built = {name: programs.build(case, name) for name in plan.candidates}
    for name, program in built.items():
        tell(f"{case.name}: compiling {name}")
        inside = probe.measure(program)
        if not plan.repeats:  # this process has run other things too
            probes[name].append(dataclasses.replace(inside, process_bytes=None))
    rounds = plan.steps or _rounds(built)
    done = iter(range(1, rounds + 1))
    samples = timing.interleave(
        built, rounds, lambda: tell(f"{case.name}: step {next(done)}/{rounds} of each")
    )
    return CaseResult(case.name, samples, probes)


def growths(tell: Tell) -> Iterator[Growth]:
    """Compile time over the number of layers, scanned and not."""
    for name, candidate, repeats in _GROWTH:
        case = programs.Case(name, programs.CASES[name])
        seconds: dict[int, list[float]] = {layers: [] for layers in LAYERS}
        for repeat in range(repeats):
            for layers in LAYERS:
                tell(f"{name}: {candidate}, {layers} layers, compiling {repeat + 1}/{repeats}")
                deep = case.with_overrides(f"base_num_decoder_layers={layers}")
                seconds[layers].append(probe.run(deep, candidate).cpu)
        shortest = {layers: min(times) for layers, times in seconds.items()}
        yield Growth(candidate, name == "tiny", shortest)


def machine() -> dict[str, Any]:
    """Where this ran: what a reader needs to compare numbers."""
    device = jax.devices()[0]
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": f"{device.device_kind} x {jax.device_count()}",
        "load": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
        "optimised": not jax.config.read("jax_disable_most_optimizations"),
    }


def _rounds(built: dict[str, programs.Program]) -> int:
    """As many steps as fit into about a minute and a half, at least 20, at most 300."""
    warm = timing.interleave(built, 2)
    seconds = sum(min(samples.step) for samples in warm.values())
    return int(min(300, max(24, 90 / seconds)))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
