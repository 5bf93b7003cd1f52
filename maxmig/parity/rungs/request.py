"""What a parity run was asked for, and the two sides that it builds."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from maxmig import errors
from maxmig.config import Config, Stage
from maxmig.parity import levels
from maxmig.parity.faults.fault import Fault
from maxmig.parity.findings.measurement import SIDES
from maxmig.parity.findings.repeats import Noise
from maxmig.parity.sides import start as starts
from maxmig.train.runtime import Runtime

Pair = tuple[Runtime, Runtime]


def _silent(text: str) -> object:
    return None


@dataclasses.dataclass(frozen=True)
class Request:
    """See `maxmig.parity.run` for what each of these is."""

    cfg: Config
    control: Stage
    candidate: Stage
    checkpoint: str | Path | None = None
    steps: int = 5
    levels: tuple[str, ...] = levels.DEFAULT
    only: tuple[str, ...] = ()
    tokens: int | None = None
    policy: str = "auto"
    noise: Noise | None = None
    gate_performance: float | None = None
    devices: Sequence[jax.Device] | None = None
    fault: Fault | None = None
    note: Callable[[str], object] = _silent

    def check(self) -> None:
        """Refuses what cannot be run.

        Raises:
            ConfigError: a number is out of range; PreflightError: there is more than one host.
        """
        if self.steps < 0:
            raise errors.ConfigError(f"steps: expected 0 or more, got {self.steps}")
        if not self.levels:
            raise errors.ConfigError(f"levels: expected some of {', '.join(levels.ALL)}, got none")
        if self.tokens is not None and self.tokens < 1:
            raise errors.ConfigError(f"tokens: expected 1 or more, got {self.tokens}")
        if jax.process_count() > 1:
            raise errors.PreflightError(
                "parity holds whole arrays against one another and runs on one host, but there are "
                f"{jax.process_count()}; run it on one, with --simulate-devices for the mesh"
            )

    @property
    def wanted(self) -> frozenset[str]:
        """The checks of L2."""
        return levels.wanted(self.only, self.steps)

    def runtimes(self) -> Pair:
        """The programs of both sides; they hold no arrays yet."""
        control, candidate = (
            self._runtime(stage, self.fault if self.fault and self.fault.side == side else None)
            for side, stage in zip(SIDES, (self.control, self.candidate), strict=True)
        )
        return control, candidate

    def _runtime(self, stage: Stage, fault: Fault | None) -> Runtime:
        settings = dict(fault.settings) if fault else {}
        runtime = Runtime(self.cfg.replace(**settings, **stage.flags.as_dict()), self.devices)
        if fault:
            runtime.backend = fault.broken(runtime.backend)
        return runtime

    def start(self, control: Runtime) -> starts.Start:
        """The state of both sides."""
        self.note(f"weights from {self.checkpoint or 'the seed, initialised once'}")
        if self.checkpoint is None:
            return starts.from_seed(control)
        return starts.from_checkpoint(control, self.checkpoint)

    def schedule_end(self, control: Runtime, step: int) -> int | None:
        """A longer schedule, if the weights are from its end, where no step would move them."""
        rates = [control.settings.schedule(step + i) for i in range(self.steps)]
        return 2 * (step + self.steps) if step and rates and not any(rates) else None

    def with_schedule(self, steps: int) -> "Request":
        """The same request with a learning-rate schedule of that length."""
        cfg = self.cfg.replace(learning_rate_schedule_steps=steps)
        return dataclasses.replace(self, cfg=cfg)


def read_noise(path: str | Path) -> Noise:
    """The file that `maxmig parity noise` wrote.

    Raises:
        DataError: it is not there, or is no such file.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        kinds = document["noise"]
        found: dict[tuple[str, str], float] = {}
        for kind in ("rerun", "rejit", "split"):
            for row in kinds.get(kind, {}).get("arrays", ()):
                key = (str(row["check"]), str(row["path"]))
                found[key] = max(found.get(key, 0.0), float(row["rel_l2"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.DataError(
            f"{path}: expected a file that `maxmig parity noise` wrote, but: "
            f"{type(error).__name__}: {error}"
        ) from error
    return Noise(found)
