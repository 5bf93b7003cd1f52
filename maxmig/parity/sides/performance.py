"""Performance parity: times and sizes of both sides' train step; reported, gated on request."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from maxmig.parity.findings.check import Check, Verdict

# What is compared: (attribute, title, unit, divisor).
_ROWS = (
    ("step_seconds", "step time", "ms", 1e-3),
    ("compile_seconds", "compile time", "s", 1.0),
    ("peak_bytes", "peak memory", "MiB", 2.0**20),
    ("instructions", "program size", "instructions", 1.0),
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one side's train step costs.

    Attributes:
        step_seconds: median of the steps after the first; None with fewer than two.
        compile_seconds: tracing and compiling.
        peak_bytes: arguments, outputs and temporary buffers, by the compiler's own account.
        instructions: of the compiled program.
        steps: seconds of each step after the first.
    """

    step_seconds: float | None = None
    compile_seconds: float | None = None
    peak_bytes: float | None = None
    instructions: float | None = None
    steps: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Costs:
    """Both sides', as a row for each quantity: (title, unit, control, candidate, ratio)."""

    control: Cost
    candidate: Cost

    @property
    def rows(self) -> tuple[tuple[str, str, float, float, float], ...]:
        """Quantities that both sides have."""
        found = []
        for name, title, unit, divisor in _ROWS:
            a, b = getattr(self.control, name), getattr(self.candidate, name)
            if a and b:
                found.append((title, unit, a / divisor, b / divisor, b / a))
        return tuple(found)

    @property
    def spread(self) -> str:
        """How far single steps are apart: a ratio of medians of a few says little by itself."""
        ours, theirs = self.control.steps, self.candidate.steps
        count = min(len(ours), len(theirs))
        if count < 2:
            return "of one step"
        low, high = min(theirs) / max(ours), max(theirs) / min(ours)
        return f"{low:.2f}x to {high:.2f}x in {count} steps"


class Meter:
    """Compiles and runs one side's train step with a watch in hand."""

    def __init__(self) -> None:
        self._compile_seconds: float | None = None
        self._seconds: list[float] = []
        self._compiled: Any = None

    def compile(self, program: Any, *args: Any) -> Callable[..., Any]:
        """The program, compiled for these arguments; it is compiled once, and then also run."""
        began = time.monotonic()
        self._compiled = program.lower(*args).compile()
        self._compile_seconds = time.monotonic() - began
        return self._compiled

    def step(self, program: Callable[..., Any], *args: Any) -> Any:
        """Runs a step to its end."""
        began = time.monotonic()
        done = jax.block_until_ready(program(*args))
        self._seconds.append(time.monotonic() - began)
        return done

    @property
    def cost(self) -> Cost:
        """What was measured."""
        later = self._seconds[1:]
        memory = getattr(self._compiled, "memory_analysis", lambda: None)()
        peak = None
        if memory is not None:
            peak = (
                memory.argument_size_in_bytes
                + memory.output_size_in_bytes
                + memory.temp_size_in_bytes
                - memory.alias_size_in_bytes
            )
        text = self._compiled.as_text() if self._compiled is not None else ""
        return Cost(
            statistics.median(later) if later else None,
            self._compile_seconds,
            peak,
            text.count(" = ") or None,
            tuple(later),
        )


def check(control: Cost, candidate: Cost, gate: float | None) -> Check:
    """The costs of both sides; with `gate`, step time and memory may grow by that ratio at most.

    Compile time and program size are never gated: they are paid once.
    """
    costs = Costs(control, candidate)
    told = ", ".join(
        f"{title} {ratio:.2f}x{f' ({costs.spread})' if title == 'step time' else ''}"
        for title, _, _, _, ratio in costs.rows
    )
    worst = [row for row in costs.rows if row[0] in ("step time", "peak memory")]
    verdict = Verdict.PASS
    if gate is not None:
        over = [f"{row[0]} {row[4]:.2f}x" for row in worst if row[4] > gate]
        if over:
            verdict = Verdict.FAIL
            told = f"{', '.join(over)}: more than {gate:g}x ({told})"
        elif len(worst) < 2:
            verdict = Verdict.INCONCLUSIVE
            told = "step time and memory were not both measured; ask for --steps 3 or more"
    return Check(
        "performance",
        "step time, compile time, memory and program size",
        level="performance",
        concluded=verdict,
        told=told or "not measured: no optimizer steps were run",
        details=costs if costs.rows else None,
        gates=gate is not None,
    )
