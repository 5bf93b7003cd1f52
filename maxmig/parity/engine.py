"""Runs two rungs on the same weights and the same batches, and compares all that they compute."""

import dataclasses
import datetime
import platform as machine
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import maxmig
from maxmig import errors
from maxmig.checkpoint import store
from maxmig.config import Config, Stage
from maxmig.parity import inputs as batches
from maxmig.parity import measure, policy
from maxmig.parity import start as starts
from maxmig.parity.faults import Broken, Fault
from maxmig.parity.observe import STEP, Observation, observe
from maxmig.parity.report import Report
from maxmig.parity.results import Check, Coverage, Measurement, Side, Subject, by_path
from maxmig.train.runtime import Runtime

Key = tuple[str, str, str]
_TITLES = {
    "configuration": "settings besides the three flags",
    "start": "weights, optimizer state and counters before the first step",
    "logits": "logits",
    "loss": "loss, by component",
    "gradients": "gradient of every parameter",
    "metrics": "loss, learning rate and norms of each step",
    "params": "every parameter after each step",
    "moments": "optimizer state after each step",
    "counters": "step counts after each step",
}
_OF_STEPS = ("metrics", "params", "moments", "counters")


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
        allow_same: compare a rung with itself, which measures noise and is evidence of nothing else.
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
    _check_request(steps)
    pair = _runtimes(cfg, (Stage(control), Stage(candidate)), devices, fault)
    report = _describe(cfg, pair, config_name, devices)
    report = dataclasses.replace(
        report,
        steps=steps,
        command=command,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notes=_notes(pair, allow_same, fault),
        doubts=_doubts(report.control, report.candidate, allow_same),
    )
    if not report.doubts:
        report = _compare(report, pair, checkpoint, steps, fault, note)
    return dataclasses.replace(report, seconds=time.monotonic() - began)


def _check_request(steps: int) -> None:
    if steps < 0:
        raise errors.ConfigError(f"steps: expected 0 or more optimizer steps, got {steps}")
    if jax.process_count() > 1:
        raise errors.PreflightError(
            f"parity holds whole arrays against one another and runs on one host, but there are "
            f"{jax.process_count()}; run it on one of them, with --simulate-devices for the mesh"
        )


def _runtimes(
    cfg: Config,
    rungs: tuple[Stage, Stage],
    devices: Sequence[jax.Device] | None,
    fault: Fault | None,
) -> tuple[Runtime, Runtime]:
    """The programs of both sides; they hold no arrays yet."""
    control = Runtime(cfg.replace(**rungs[0].flags.as_dict()), devices)
    settings = dict(fault.settings) if fault else {}
    candidate = Runtime(cfg.replace(**settings, **rungs[1].flags.as_dict()), devices)
    if fault and fault.params:
        candidate.backend = Broken(candidate.backend, fault.params)  # type: ignore[assignment]
    return control, candidate


def _compare(
    report: Report,
    pair: tuple[Runtime, Runtime],
    checkpoint: str | Path | None,
    steps: int,
    fault: Fault | None,
    note: Callable[[str], object],
) -> Report:
    control, candidate = pair
    given = batches.make(control.cfg, num_devices=control.devices, steps=steps)
    note(f"weights from {checkpoint or 'the seed, initialised once'}")
    start = (
        starts.from_seed(control)
        if checkpoint is None
        else starts.from_checkpoint(control, checkpoint)
    )
    note(f"control   {report.control.proved}: logits, loss, gradients, {steps} steps")
    recorded = {o.key: o.array for o in observe(control, start.state, given)}
    unmoved = _unmoved(recorded, steps)
    note(f"candidate {report.candidate.proved}: the same, held against the control")
    state = fault.state(dict(start.state)) if fault and fault.state else start.state
    found = _hold(recorded, observe(candidate, state, given))
    found["configuration"] = _settings(control.cfg, candidate.cfg)
    parameters = len(control.param_paths)
    return dataclasses.replace(
        report,
        checks=_checks(found, report.policy, steps, unmoved, parameters),
        coverage=_coverage(found, parameters, steps, unmoved),
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


def _settings(control: Config, candidate: Config) -> list[Measurement]:
    """All keys but the three flags must have one value on both sides."""
    flags = Stage.LINEN.flags.as_dict()
    ours, theirs = control.flat(), candidate.flat()
    found = []
    for key in ours:
        if key in flags:
            continue
        differs = ours[key] != theirs[key]
        text = f"{ours[key]!r} in the control, {theirs[key]!r} in the candidate"
        found.append(
            Measurement(
                "start", key, elements=1, differing=differs, problem=text if differs else ""
            )
        )
    return found


def _checks(
    found: dict[str, list[Measurement]],
    policy: policy.Policy,
    steps: int,
    unmoved: Sequence[str],
    parameters: int,
) -> tuple[Check, ...]:
    made = []
    for name, title in _TITLES.items():
        if name in _OF_STEPS and (not steps or (name == "moments" and name not in found)):
            continue  # not asked for, or an optimizer without moments
        doubt = ""
        if name == "params" and len(unmoved) == parameters:
            doubt = (
                "no optimizer step moved any parameter (learning rate 0?); give the schedule room, "
                "for example learning_rate_schedule_steps=1000"
            )
        made.append(
            Check(
                name,
                title,
                tuple(found.get(name, ())),
                policy.limit(name),
                may_be_zero=name in ("configuration", "counters"),
                doubt=doubt,
                level="settings" if name == "configuration" else "native",
            )
        )
    return tuple(made)


def _unmoved(recorded: dict[Key, np.ndarray], steps: int) -> tuple[str, ...]:
    """Parameters of the control that are after all steps what they were at the start."""
    last = STEP.format(steps)
    return tuple(
        path.removeprefix("params/")
        for (check, item, path), array in recorded.items()
        if (check, item) == ("params", last)
        and array.tobytes() == recorded["start", "start", path].tobytes()
    )


def _coverage(
    found: dict[str, list[Measurement]], parameters: int, steps: int, unmoved: tuple[str, ...]
) -> Coverage:
    gradients = by_path(tuple(found.get("gradients", ())))
    zero = {
        f"{check}: {path}": None
        for check in ("logits", "loss", "metrics")
        for path, ms in by_path(tuple(found.get(check, ()))).items()
        if all(m.zero for m in ms)
    }
    skipped = () if steps else ("optimizer steps: none were asked for (--steps 0)",)
    return Coverage(
        parameters=parameters,
        gradients=len(gradients),
        zero_gradients=tuple(p for p, ms in gradients.items() if all(m.zero for m in ms)),
        zero_outputs=tuple(zero),
        unmoved=unmoved,
        skipped=skipped,
    )


def _describe(
    cfg: Config,
    pair: tuple[Runtime, Runtime],
    config_name: str,
    devices: Sequence[jax.Device] | None,
) -> Report:
    device = (jax.devices() if devices is None else devices)[0]
    m, spec = cfg.model, pair[0].backend.spec
    stack = "scanned" if cfg.stack.scan_layers else "unscanned"
    kind = f"{device.platform}" + (f" ({device.device_kind})" if device.platform != "cpu" else "")
    subject = Subject(
        config=config_name or cfg.run.run_name or cfg.run.model_name,
        config_digest=cfg.digest,
        model=f"{m.decoder_block}, {m.num_decoder_layers} layers {stack}, width {m.emb_dim}, "
        f"vocabulary {m.vocab_size}",
        parameters=sum(int(np.prod(param.shape)) for param in spec.values()),
        dtypes=policy.dtypes(cfg),
        devices=f"{pair[0].devices} x {kind}",
    )
    control, candidate = (_prove(runtime) for runtime in pair)
    return Report(
        subject,
        control,
        candidate,
        policy.choose(cfg, device.platform),
        environment=_environment(),
    )


def _prove(runtime: Runtime) -> Side:
    proof = runtime.proof
    return Side(
        runtime.cfg.flags.stage.value,
        proof.stage.value,
        proof.state,
        dict(proof.modules),
        runtime.cfg.digest,
    )


def _doubts(control: Side, candidate: Side, allow_same: bool) -> tuple[str, ...]:
    found = [
        f"asked for {side.asked}, but the objects that were built are {side.proved}"
        for side in (control, candidate)
        if side.asked != side.proved
    ]
    if control.proved == candidate.proved and not allow_same:
        found.append(
            f"both sides are {control.proved}, so nothing was compared; choose two rungs, or measure "
            "noise with --allow-same"
        )
    return tuple(found)


def _notes(pair: tuple[Runtime, Runtime], allow_same: bool, fault: Fault | None) -> tuple[str, ...]:
    found = []
    if allow_same and pair[0].cfg.flags.stage is pair[1].cfg.flags.stage:
        found.append("A/A: the same rung on both sides; this measures noise, not a migration")
    if fault:
        found.append(f"a fault was put in on purpose: {fault.name}")
    if pair[0].settings.dropout:
        found.append("dropout is on in the optimizer steps, off in logits, loss and gradients")
    return tuple(found)


def _environment() -> dict[str, Any]:
    return {
        **store.versions(),
        "maxmig": maxmig.__version__,
        "python": machine.python_version(),
        "platform": f"{machine.system()} {machine.machine()}",
    }
