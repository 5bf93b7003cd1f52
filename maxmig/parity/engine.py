"""Runs two rungs on the same weights and the same batches, and compares all that they compute."""

import dataclasses
import datetime
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np

from maxmig import errors
from maxmig.config import Config, Stage
from maxmig.parity import attest, checks, measure
from maxmig.parity import inputs as batches
from maxmig.parity import start as starts
from maxmig.parity.faults import Broken, Fault
from maxmig.parity.observe import Observation, observe
from maxmig.parity.report import Report
from maxmig.parity.results import Measurement
from maxmig.train.runtime import Runtime

Key = tuple[str, str, str]


def run(
    cfg: Config,
    *,
    control: Stage | str = Stage.LINEN,
    candidate: Stage | str = Stage.NNX,
    checkpoint: str | Path | None = None,
    steps: int = 5,
    allow_same: bool = False,
    devices: Sequence[jax.Device] | None = None,
    fault: Fault | None = None,
    config_name: str = "",
    command: str = "",
    note: Callable[[str], object] = lambda text: None,
) -> Report:
    """Compares two rungs: logits, loss, every gradient, and `steps` optimizer steps.

    The sides run one after the other. The control's results stay in host memory until the candidate
    is held against them: about (3 + 3 * steps) times the size of the parameters with Adam.

    Args:
        cfg: the configuration; its flags are replaced by each rung's.
        control: the rung that is trusted.
        candidate: the rung that is examined.
        checkpoint: a directory of steps, or one step, in any layout; None initialises once.
        steps: optimizer steps; 0 leaves them out.
        allow_same: compare a rung with itself, which measures noise and proves nothing else.
        devices: all of this host by default.
        fault: what to break in the candidate, to see that it is found.
        config_name: what to call the configuration in the report.
        command: what repeats the run.
        note: is told what is going on.

    Raises:
        CheckpointError, DataError, ConfigError: an input cannot be used.
        PreflightError: there is more than one host.
    """
    began = time.monotonic()
    request = _Request(
        cfg, Stage(control), Stage(candidate), checkpoint, steps, devices, fault, note
    )
    request.check()
    pair = request.runtimes()
    report = attest.describe(cfg, pair, config_name, devices)
    report = dataclasses.replace(
        report,
        steps=steps,
        command=command,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notes=attest.notes(pair, allow_same, fault),
        doubts=attest.doubts(report.control, report.candidate, allow_same),
    )
    if not report.doubts:
        report = _compare(report, request, pair)
    return dataclasses.replace(report, seconds=time.monotonic() - began)


@dataclasses.dataclass(frozen=True)
class _Request:
    """What `run` was asked for."""

    cfg: Config
    control: Stage
    candidate: Stage
    checkpoint: str | Path | None
    steps: int
    devices: Sequence[jax.Device] | None
    fault: Fault | None
    note: Callable[[str], object]

    def check(self) -> None:
        if self.steps < 0:
            raise errors.ConfigError(f"steps: expected 0 or more, got {self.steps}")
        if jax.process_count() > 1:
            raise errors.PreflightError(
                "parity holds whole arrays against one another and runs on one host, but there are "
                f"{jax.process_count()}; run it on one, with --simulate-devices for the mesh"
            )

    def runtimes(self) -> tuple[Runtime, Runtime]:
        """The programs of both sides; they hold no arrays yet."""
        settings = dict(self.fault.settings) if self.fault else {}
        control = Runtime(self.cfg.replace(**self.control.flags.as_dict()), self.devices)
        flags = self.candidate.flags.as_dict()
        candidate = Runtime(self.cfg.replace(**settings, **flags), self.devices)
        if self.fault and self.fault.params:
            candidate.backend = Broken(candidate.backend, self.fault.params)
        return control, candidate

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


def _compare(report: Report, request: _Request, pair: tuple[Runtime, Runtime]) -> Report:
    steps, note = request.steps, request.note
    start = request.start(pair[0])
    if longer := request.schedule_end(pair[0], start.origin.step):
        room = {"learning_rate_schedule_steps": longer}
        pair = dataclasses.replace(request, cfg=request.cfg.replace(**room)).runtimes()
        report = attest.with_longer_schedule(report, pair, start.origin.step)
    control, candidate = pair
    given = batches.make(control.cfg, num_devices=control.devices, steps=steps)
    note(f"control   {report.control.proved}: logits, loss, gradients, {steps} steps")
    recorded = {o.key: o.array for o in observe(control, start.state, given)}
    unmoved = checks.unmoved(recorded, steps)
    note(f"candidate {report.candidate.proved}: the same, held against the control")
    fault = request.fault
    state = fault.state(dict(start.state)) if fault and fault.state else start.state
    found = _hold(recorded, observe(candidate, state, given))
    found["configuration"] = checks.settings(control.cfg, candidate.cfg)
    parameters = len(control.param_paths)
    return dataclasses.replace(
        report,
        checks=checks.build(found, report.policy, steps, unmoved, parameters),
        coverage=checks.coverage(found, steps, unmoved, parameters),
        inputs=given.described,
        origin=start.origin,
    )


def _hold(
    recorded: dict[Key, np.ndarray], candidate: Iterable[Observation]
) -> dict[str, list[Measurement]]:
    """Compares as the candidate computes; each array of the control is freed after its use."""
    found: dict[str, list[Measurement]] = {}
    for o in candidate:
        here = found.setdefault(o.check, [])
        if o.key in recorded:
            here.append(measure.compare(o.item, o.path, recorded.pop(o.key), o.array))
        else:
            here.append(
                measure.missing(o.item, o.path, "the control does not have it", o.array.size)
            )
    for (check, item, path), array in recorded.items():
        text = "the candidate does not have it"
        found.setdefault(check, []).append(measure.missing(item, path, text, array.size))
    return found
