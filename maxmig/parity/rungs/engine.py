"""Runs two rungs on the same weights and the same batches, and compares all that they compute."""

import dataclasses
import datetime
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from maxmig.config import Config, Stage
from maxmig.parity import levels as levels_
from maxmig.parity.faults.fault import Fault
from maxmig.parity.findings import doubts as doubts_
from maxmig.parity.findings.check import Check
from maxmig.parity.findings.repeats import Noise
from maxmig.parity.reports.report import Report
from maxmig.parity.rungs import attest, behaviour, native, proofs
from maxmig.parity.rungs.request import Pair, Request
from maxmig.parity.sides import inputs as batches


def run(
    cfg: Config,
    *,
    control: Stage | str = Stage.LINEN,
    candidate: Stage | str = Stage.NNX,
    checkpoint: str | Path | None = None,
    steps: int = 5,
    levels: Sequence[str] = levels_.DEFAULT,
    only: Sequence[str] = (),
    tokens: int | None = None,
    policy: str = "auto",
    noise: Noise | None = None,
    gate_performance: float | None = None,
    allow_same: bool = False,
    devices: Sequence[jax.Device] | None = None,
    fault: Fault | None = None,
    config_name: str = "",
    command: str = "",
    note: Callable[[str], object] = lambda text: None,
) -> Report:
    """Compares two rungs, level by level: proof, float64, real arrays, behaviour.

    The sides run one after the other. The control's results stay in host memory until the candidate
    is held against them: about (3 + 3 * steps) times the size of the parameters with Adam.

    Args:
        cfg: the configuration; its flags are replaced by each rung's.
        control: the rung that is trusted.
        candidate: the rung that is examined.
        checkpoint: a directory of steps, or one step, in any layout; None initialises once.
        steps: optimizer steps; 0 leaves them out.
        levels: `L0` static, `L1` semantic, `L2` native, `L3` behaviour.
        only: names of checks (`maxmig.parity.levels.CHECKS`); all by default.
        tokens: length of a further batch, one unbroken segment a row.
        policy: `bitwise`, `ratio`, or `auto`.
        noise: of the control, as `maxmig parity noise` measured it.
        gate_performance: how much more time and memory a step of the candidate may cost, as a
            ratio; None only reports.
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
    request = Request(
        cfg,
        Stage(control),
        Stage(candidate),
        checkpoint,
        steps,
        levels_.parse(",".join(levels)) if levels else (),
        levels_.parse_only(",".join(only)) if only else (),
        tokens,
        policy,
        noise,
        gate_performance,
        devices,
        fault,
        note,
    )
    request.check()
    report = _run(request, allow_same, config_name, command)
    return dataclasses.replace(report, seconds=time.monotonic() - began)


def _run(request: Request, allow_same: bool, config_name: str, command: str) -> Report:
    pair = request.runtimes()
    report = attest.describe(request, pair, config_name)
    report = dataclasses.replace(
        report,
        command=command,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notes=attest.notes(pair, allow_same, request.fault),
        doubts=attest.doubts(report.control, report.candidate, allow_same),
    )
    return report if report.doubts else _compare(report, request, pair)


def _compare(report: Report, request: Request, pair: Pair) -> Report:
    start = request.start(pair[0])
    if longer := request.schedule_end(pair[0], start.origin.step):
        request = request.with_schedule(longer)
        pair = request.runtimes()
        report = attest.with_longer_schedule(report, pair, start.origin.step)
    control = pair[0]
    given = batches.make(
        control.cfg, num_devices=control.devices, steps=request.steps, tokens=request.tokens
    )
    report = dataclasses.replace(
        report, inputs=given.described, origin=start.origin, checkpoint_hash=start.hash
    )
    checks: list[Check] = []
    if {"L0", "L1"} & set(request.levels):
        checks += proofs.run(request, pair, start, given)
        if proofs.rewritten(checks):
            report = attest.with_rewritten(report, request)
    if "L2" in request.levels:
        found = native.compare(request, pair, start, given, report.policy)
        settings, *rest = found.checks
        checks = [settings, *checks, *rest]
        report = dataclasses.replace(
            report,
            coverage=found.coverage,
            doubts=(*report.doubts, *found.doubts),
            performance=found.performance,
        )
    if "L3" in request.levels:
        more, skipped = behaviour.compare(request, pair, start, given, report.policy)
        checks += more
        coverage = report.coverage
        coverage = dataclasses.replace(coverage, skipped=(*coverage.skipped, *skipped))
        report = dataclasses.replace(report, coverage=coverage)
    doubts = (*report.doubts, *doubts_.of(checks, ()))
    return dataclasses.replace(report, checks=tuple(checks), doubts=doubts)
