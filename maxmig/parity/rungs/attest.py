"""What was run, on what, and which rung each side really is: told before anything is compared."""

import dataclasses
import platform as machine

import jax
import numpy as np

import maxmig
from maxmig.checkpoint import store
from maxmig.parity.faults.fault import Fault
from maxmig.parity.findings import policy
from maxmig.parity.findings.subject import Side, Subject
from maxmig.parity.reports import card
from maxmig.parity.reports.report import Report
from maxmig.parity.rungs.request import Pair, Request
from maxmig.train.runtime import Runtime


def describe(request: Request, pair: Pair, config_name: str) -> Report:
    """A report without checks: the subject, and what the objects of both sides prove."""
    cfg = request.cfg
    device = _device(request)
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
        rungs_digest=card.config_digest(cfg),
        code_digest=card.code_digest(),
    )
    control, candidate = (prove(runtime) for runtime in pair)
    return Report(
        subject,
        control,
        candidate,
        policy.choose(cfg, device.platform, request.policy),
        levels=request.levels,
        only=request.only,
        steps=request.steps,
        environment=environment(),
    )


def with_rewritten(report: Report, request: Request) -> Report:
    """The report under the policy for sides that write the same in other words."""
    platform = _device(request).platform
    chosen = policy.choose(request.cfg, platform, request.policy, rewritten=True)
    return dataclasses.replace(report, policy=chosen)


def _device(request: Request) -> jax.Device:
    return (jax.devices() if request.devices is None else request.devices)[0]


def prove(runtime: Runtime) -> Side:
    """What the objects of a side prove that it is."""
    proof = runtime.proof
    return Side(
        runtime.cfg.flags.stage.value,
        proof.stage.value,
        proof.state,
        dict(proof.modules),
        runtime.cfg.digest,
    )


def doubts(control: Side, candidate: Side, allow_same: bool) -> tuple[str, ...]:
    """Why a comparison would prove nothing, known before it starts."""
    found = [
        f"asked for {side.asked}, but the objects that were built are {side.proved}"
        for side in (control, candidate)
        if side.asked != side.proved
    ]
    if control.proved == candidate.proved and not allow_same:
        found.append(
            f"both sides are {control.proved}, so nothing was compared; choose two rungs, or "
            "measure noise with --allow-same"
        )
    return tuple(found)


def notes(pair: Pair, allow_same: bool, fault: Fault | None) -> tuple[str, ...]:
    """What a reader of the report must know besides."""
    found = []
    if allow_same and pair[0].cfg.flags.stage is pair[1].cfg.flags.stage:
        found.append("A/A: the same rung on both sides; this measures noise, not a migration")
    if fault:
        found.append(f"a fault was put in on purpose: {fault.name}")
    if pair[0].settings.dropout:
        found.append("dropout is on in the optimizer steps, off in logits, loss and gradients")
    return tuple(found)


def with_longer_schedule(report: Report, pair: Pair, step: int) -> Report:
    """The report, now of sides whose learning-rate schedule was made longer."""
    length = pair[0].cfg.schedule_steps
    note = (
        f"the learning rate is 0 from step {step} on, where these weights are from; both sides ran "
        f"with learning_rate_schedule_steps={length}, so that the optimizer steps move them"
    )
    sides = [
        dataclasses.replace(side, config_digest=runtime.cfg.digest)
        for side, runtime in zip((report.control, report.candidate), pair, strict=True)
    ]
    return dataclasses.replace(
        report, control=sides[0], candidate=sides[1], notes=(*report.notes, note)
    )


def environment() -> dict[str, str]:
    """Versions of what computes, and the platform."""
    return {
        **store.versions(),
        "maxmig": maxmig.__version__,
        "python": machine.python_version(),
        "platform": f"{machine.system()} {machine.machine()}",
    }
