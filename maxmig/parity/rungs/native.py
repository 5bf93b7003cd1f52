"""L2: everything that both sides compute at the real type, held against one another."""

import dataclasses
import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from maxmig.parity import levels
from maxmig.parity.findings import measure
from maxmig.parity.findings.check import Check
from maxmig.parity.findings.measurement import Measurement
from maxmig.parity.findings.policy import FREE, RATIO, Policy
from maxmig.parity.findings.repeats import Noise
from maxmig.parity.findings.subject import Coverage
from maxmig.parity.rungs import checks
from maxmig.parity.rungs.request import Pair, Request
from maxmig.parity.rungs.truth import Truth
from maxmig.parity.sides import performance
from maxmig.parity.sides.inputs import PACKED, Inputs
from maxmig.parity.sides.observe import Observation, observe
from maxmig.parity.sides.start import Start

_QUIET = 5.0  # seconds between two words on the way

Key = tuple[str, str, str]
Found = dict[str, list[Measurement]]


@dataclasses.dataclass(frozen=True)
class Native:
    """What L2 found.

    Attributes:
        checks: settings first, then in the order of cause and effect.
        coverage: what was reached.
        doubts: why it proves nothing.
        performance: the costs of both sides' train step; None without steps.
    """

    checks: tuple[Check, ...]
    coverage: Coverage
    doubts: tuple[str, ...] = ()
    performance: Check | None = None


def compare(request: Request, pair: Pair, start: Start, given: Inputs, policy: Policy) -> Native:
    """Runs the control, then the candidate; the control's arrays wait for the candidate's."""
    control, candidate = pair
    wanted, steps = request.wanted, request.steps
    meters = performance.Meter(), performance.Meter()
    again = Noise(dict(request.noise.found) if request.noise else {})
    told_before = bool(again.found)
    request.note(f"control   {control.cfg.flags.stage.value}: {_plan(wanted, steps)}")
    seen = observe(control, start.state, given, wanted, noise=again, meter=meters[0])
    recorded = {o.key: o.array for o in _telling(seen, request, "control")}
    unmoved = checks.unmoved(recorded, steps)
    request.note(f"candidate {candidate.cfg.flags.stage.value}: held against the control")
    fault = request.fault
    state = fault.state(dict(start.state)) if fault and fault.state else start.state
    truth = Truth(control.cfg, request.control, start.state, given)
    found = hold(
        recorded,
        _telling(observe(candidate, state, given, wanted, meter=meters[1]), request, "candidate"),
        policy=policy,
        truth=truth,
        noise=again,
    )
    for name in FREE:
        found[name] = _pooled(found[name]) if name in found else []
    found = {name: ms for name, ms in found.items() if ms}
    found["configuration"] = checks.settings(control.cfg, candidate.cfg)
    parameters = len(control.param_paths)
    moved = unmoved if "params" in wanted else ()
    doubts = []
    if again.source and not told_before:
        doubts.append(
            f"the control is not deterministic: {again.source}; make it so, or measure the noise "
            "with `maxmig parity noise` and give it with --noise"
        )
    gate = request.gate_performance
    costs = performance.check(meters[0].cost, meters[1].cost, gate)
    made = checks.build(found, policy, wanted, moved, parameters)
    return Native(
        tuple(_remarked(check, truth) for check in made),
        checks.coverage(found, steps, moved, parameters),
        tuple(doubts),
        costs if steps or gate is not None else None,
    )


def _telling(seen: Iterable[Observation], request: Request, side: str) -> Iterator[Observation]:
    """The same, with a word now and then on how far it is."""
    last = time.monotonic()
    for o in seen:
        if time.monotonic() - last >= _QUIET:
            request.note(f"L2: {side}, {o.check} ({o.item})")
            last = time.monotonic()
        yield o


def hold(
    recorded: dict[Key, np.ndarray],
    candidate: Iterable[Observation],
    *,
    policy: Policy,
    truth: Truth | None = None,
    noise: Noise | None = None,
) -> Found:
    """Compares as the candidate computes; each array of the control is freed after its use."""
    found: Found = {}
    for o in candidate:
        here = found.setdefault(o.check, [])
        if o.key in recorded:
            here.append(_measure(o, recorded.pop(o.key), policy, truth, noise or Noise()))
        else:
            here.append(
                measure.missing(o.item, o.path, "the control does not have it", o.array.size)
            )
    for (check, item, path), array in recorded.items():
        text = "the candidate does not have it"
        found.setdefault(check, []).append(measure.missing(item, path, text, array.size))
    return found


def _measure(
    o: Observation, control: np.ndarray, policy: Policy, truth: Truth | None, noise: Noise
) -> Measurement:
    m = measure.compare(o.item, o.path, control, o.array)
    if o.check == "state":
        return _fact(m, control, o.array)
    m = dataclasses.replace(m, noise=noise.of(o.check, o.path))
    shown = o.check == "hidden" and o.item == PACKED  # the figure of errors against depth
    if m.problem or truth is None or not (shown or (policy.name == RATIO and not m.exact)):
        return m
    if policy.limit(o.check) is None and policy.name == RATIO:
        return m  # the start is exact in any case
    true = truth(o.key)
    if true is None or true.shape != control.shape:
        return m
    return measure.triangulate(
        m,
        control,
        o.array,
        true,
        factor=policy.factor(o.check, m.elements, free=o.check in FREE),
        floor=policy.floor(m.dtype, m.elements),
        spared=policy.spared(o.check, m.elements),
    )


def _pooled(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Grants each leaf of a free-running step what is usual among the leaves of that step.

    Adam turns the sign of a tiny gradient into a whole step, so that rounding moves a few numbers
    far, in one leaf or another by chance: a leaf's own error is no yardstick for its twin.
    """
    errors: dict[str, list[float]] = {}
    for m in measurements:
        if m.truth is not None:
            errors.setdefault(m.item, []).append(m.truth.control)
    usual = {item: math.sqrt(sum(e * e for e in es) / len(es)) for item, es in errors.items()}
    return [
        dataclasses.replace(
            m, truth=dataclasses.replace(m.truth, floor=max(m.truth.floor, usual[m.item]))
        )
        if m.truth is not None
        else m
        for m in measurements
    ]


def _fact(m: Measurement, control: np.ndarray, candidate: np.ndarray) -> Measurement:
    """A boolean that must be true on both sides."""
    broken = [s for s, x in (("control", control), ("candidate", candidate)) if not bool(x)]
    problem = f"does not hold in the {' and the '.join(broken)}" if broken else ""
    return dataclasses.replace(m, problem=problem)


def _remarked(check: Check, truth: Truth) -> Check:
    if check.name == "hidden" and truth.unknown:
        return dataclasses.replace(check, told=f"no float64 truth: {truth.unknown}")
    if check.name in ("hidden", "logits") and any(
        m.truth is not None and m.truth.finer for m in check.measurements
    ):
        told = "the candidate is more exact than the control: another precision policy"
        return dataclasses.replace(check, told=told)
    return check


def _plan(wanted: Collection[str], steps: int) -> str:
    names = [name for name in checks.TITLES if name in wanted and name not in levels.OF_STEPS]
    return ", ".join(names) + (f", {steps} steps" if "params" in wanted else "")
