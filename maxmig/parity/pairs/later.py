"""Holds a recorded side of a pair against the other side as it is now, or as it was recorded."""

import dataclasses
import datetime
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from maxmig import errors
from maxmig.parity.findings.subject import Input, Origin, Side, Subject
from maxmig.parity.pairs import drawn, engine, held, seen, unreached
from maxmig.parity.pairs import pair as pairs
from maxmig.parity.pairs.compute import STEP
from maxmig.parity.pairs.pair import Pair
from maxmig.parity.pairs.recording import INPUTS, SIDES, WEIGHTS
from maxmig.parity.pairs.rerun import Now, Rerun
from maxmig.parity.recordings.recording import Recording
from maxmig.parity.reports.report import Report
from maxmig.parity.rungs import attest


def compare(
    first: Recording,
    other: "Recording | str | Pair | Callable[[], Any] | None" = None,
    *,
    side: str = "nnx",
    mapping: Any = None,
    command: str = "",
    note: Callable[[str], object] = lambda text: None,
) -> Report:
    """Compares, with the recording as the control: a proof, float64, and real arrays.

    Args:
        first: of the trusted side.
        other: a recording of the other side; or a pair that has the other side, which runs now,
            with the recorded weights and inputs. None takes the pair that was recorded.
        side: which one runs now.
        mapping: a mapping file, or a dict; by default the recorded one, or traced.
        command: what repeats it.
        note: is told what is going on.

    Raises:
        ConfigError: the side cannot be had, or raises.
        DataError: the recording, the mapping or the inputs do not fit.
    """
    began = time.monotonic()
    told = first.manifest["pair"]
    if isinstance(other, Recording):
        versions = other.manifest["versions"]
        now = Now(Side(**other.manifest["side"]), seen.read(other), str(versions["jax"]))
        report = _describe(first, now, command)
        problem = _unlike(first, other)
    else:
        if side not in SIDES:
            raise errors.ConfigError(f"--candidate {side}: a pair has the sides linen and nnx")
        spec = other or told["spec"]
        if not spec:
            raise errors.ConfigError(
                f"{first.folder}: give --pair pkg.module:function, which returns the side to run"
            )
        now = Rerun(first, pairs.load(spec).need(side), side, mapping, note).look()
        report = _describe(first, now, command)
        problem = now.problem
    doubts = (problem,) if problem else attest.doubts(report.control, now.side, allow_same=False)
    report = dataclasses.replace(report, doubts=doubts)
    if not doubts:
        report = _hold(report, first, now)
    return dataclasses.replace(report, seconds=time.monotonic() - began)


def _hold(report: Report, first: Recording, now: Now) -> Report:
    ours, theirs = seen.read(first), now.seen
    told = first.manifest["pair"]
    programs = [
        (name, mode)
        for mode in told["modes"]
        for name in told["names"]
        if any((p, m) == (name, mode) for p, m, _ in ours.arrays)
    ]
    gone = [name for name in told["names"] if not any(p == name for p, _, _ in theirs.arrays)]
    left = [(name, mode) for name, mode in programs if name not in gone]
    checks = list(now.checks)
    versions = first.manifest["versions"]["jax"]
    comparable = now.jax == versions
    if comparable:
        checks += [held.proof(name, mode, ours, theirs) for name, mode in left]
    checks += [held.float64(name, mode, ours, theirs) for name, mode in left]
    native = held.native(left, first.manifest["steps"], ours, theirs, report.policy)
    checks += native
    skipped = []
    if not comparable:
        skipped.append(
            f"L0: a proof needs one version of jax on both sides; recorded with {versions}"
        )
    doubts = []
    if gone:
        doubts.append(
            f"{', '.join(gone)}: was recorded, and this side does not compute it (an optimizer in "
            "the pair?)"
        )
    values = {
        path: first.load(entry)
        for (check, side, path), entry in first.entries.items()
        if (check, side) == (INPUTS, "linen")
    }
    proofs = [c for c in checks if c.level == "static" and c.name.startswith("outputs")]
    if (flat := drawn.constant(values)) and not (proofs and all(proofs)):
        doubts.append(f"{', '.join(flat)}: one number throughout; record with other inputs")
    weights = [path for (check, _, path) in first.entries if check == WEIGHTS]
    return dataclasses.replace(
        report,
        checks=tuple(checks),
        doubts=(*report.doubts, *doubts),
        notes=(*report.notes, *now.notes),
        coverage=unreached.coverage(checks, weights, skipped),
    )


def _describe(first: Recording, now: Now, command: str) -> Report:
    manifest = first.manifest
    told = manifest["pair"]
    weights = {p: e for (c, _, p), e in first.entries.items() if c == WEIGHTS}
    kinds = sorted({e.dtype for e in weights.values()})
    row = dict(manifest["origin"])
    policy = engine.policy({p: np.zeros(0, jax.numpy.dtype(e.dtype)) for p, e in weights.items()})
    subject = Subject(
        config=told["title"],
        config_digest=manifest["seal"],
        model=f"{told['linen'] or '-'} and {told['nnx'] or '-'}, {len(weights)} leaves",
        parameters=sum(
            int(np.prod(e.shape)) for p, e in weights.items() if p.startswith("params/")
        ),
        dtypes={"dtype": policy.coarsest, "leaves": ", ".join(kinds)},
        devices=f"1 x {jax.devices()[0].platform}",
    )
    v = manifest["versions"]
    note = (
        f"the control is a recording of {manifest['made']}: jax {v['jax']}, flax {v['flax']}, "
        f"{v['platform']}; {first.folder}; weights and inputs are the recorded ones"
    )
    return Report(
        subject,
        Side(**manifest["side"]),
        now.side,
        policy,
        inputs=tuple(_inputs(first)),
        origin=Origin(**row | {"nudged": tuple(row["nudged"])}),
        notes=(note,),
        steps=manifest["steps"] if STEP in told["names"] else 0,
        levels=("L0", "L1", "L2"),
        environment=attest.environment(),
        command=command,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _inputs(first: Recording) -> list[Input]:
    shapes = {
        p: e.shape for (c, side, p), e in first.entries.items() if (c, side) == (INPUTS, "linen")
    }
    told = ", ".join(f"{p.removeprefix('inputs/')} {list(s)}" for p, s in shapes.items())
    shape = next((s for s in shapes.values() if s), (1,))
    size = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    return [
        Input(engine.ITEMS[mode], f"recorded: {told or 'no arrays'}", shape[0], size, 1, 0, 0)
        for mode in first.manifest["pair"]["modes"]
    ]


def _unlike(first: Recording, other: Recording) -> str:
    if not other.of_pair:
        return "one recording is of a pair, the other of a configuration"
    given = [
        {key: e.sha256 for key, e in r.entries.items() if key[0] in (INPUTS, WEIGHTS)}
        for r in (first, other)
    ]
    if given[0] == given[1]:
        return ""
    apart = next(key for key in [*given[0], *given[1]] if given[0].get(key) != given[1].get(key))
    return f"the recordings are of different weights or inputs, first {apart[2]}"
