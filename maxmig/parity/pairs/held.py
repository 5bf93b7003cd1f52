"""What a recorded side computed, held against what the other side computes: level by level."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from maxmig.parity.findings import measure
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.findings.measurement import Measurement
from maxmig.parity.findings.policy import Policy
from maxmig.parity.pairs import gates
from maxmig.parity.pairs.compute import STEP
from maxmig.parity.pairs.seen import Kept, Seen
from maxmig.parity.shadow import Shadow
from maxmig.parity.shadow.comparison import held as errors_of
from maxmig.parity.static import Proof

Flat = dict[str, Any]


def proof(name: str, mode: str, ours: Seen, theirs: Seen) -> Check:
    """L0 from what each output is a result of."""
    proved: list[str] = []
    different: list[str] = []
    unprovable: list[tuple[str, tuple[str, ...]]] = []
    b = theirs.names(name, mode)
    for path in (n for n in ours.names(name, mode) if n in b):
        one, two = ours.prints.get((name, mode, path)), theirs.prints.get((name, mode, path))
        if one is None or two is None:
            unprovable.append((path, ("something in it cannot be told by its content",)))
        else:
            (proved if one == two else different).append(path)
    missing = _missing(name, mode, ours, theirs)
    program = f"{name} ({mode})"
    found = Proof(program, tuple(proved), tuple(different), tuple(unprovable), missing)
    verdict = Verdict.FAIL if missing else Verdict.PASS if found else Verdict.INCONCLUSIVE
    told = f"{found.summary}; the rest is written otherwise" if different else found.summary
    return Check(
        program,
        f"{name} as a program",
        level="static",
        concluded=verdict,
        told=told,
        details=found,
    )


def float64(name: str, mode: str, ours: Seen, theirs: Seen) -> Check:
    """L1 from the float64 values of both sides."""
    program = f"{name} ({mode})"
    dark = [
        f"{why} in the {side}"
        for side, s in (("control", ours), ("candidate", theirs))
        if (why := s.unshadowable.get((name, mode), ""))
    ]
    arrays: list[Flat] = [{}, {}]
    for (p, m, path), kept in ours.truths.items():
        other = theirs.truths.get((p, m, path))
        if (p, m) == (name, mode) and other is not None:
            whole = kept.whole and other.whole
            for side, x in zip(arrays, (kept, other), strict=True):
                side[path] = x.numbers(whole=whole)
    result = Shadow(program, unshadowable=tuple(dark))
    if not dark:
        result = Shadow(program, errors_of(*arrays), _missing(name, mode, ours, theirs))
    worst = max((e.relative for e in result.failures if not e.problem), default=0.0)
    verdict, told = result.verdict, result.summary
    small = worst <= gates.CONSTANTS and not any(e.problem for e in result.failures)
    if verdict is Verdict.FAIL and small and not result.missing:
        verdict, told = Verdict.INCONCLUSIVE, f"equal up to rounding of constants: {told}"
    return Check(
        program,
        f"{name} in float64",
        level="semantic",
        concluded=verdict,
        told=told,
        details=result,
    )


def _missing(name: str, mode: str, ours: Seen, theirs: Seen) -> tuple[str, ...]:
    a, b = ours.names(name, mode), theirs.names(name, mode)
    return (
        *(f"control: {n}" for n in a if n not in b),
        *(f"candidate: {n}" for n in b if n not in a),
    )


def native(
    programs: Sequence[tuple[str, str]], steps: int, ours: Seen, theirs: Seen, policy: Policy
) -> list[Check]:
    """L2: the arrays of both sides, against the float64 truth of the control where they differ."""
    found: dict[str, list[Measurement]] = {}
    for name, mode in programs:
        item = f"step {steps}" if name == STEP else mode
        for path in dict.fromkeys([*ours.names(name, mode), *theirs.names(name, mode)]):
            key = (name, mode, path)
            check, rest = gates.check_of(path)
            a, b = ours.arrays.get(key), theirs.arrays.get(key)
            if a is None or b is None:
                text = f"the {'candidate' if b is None else 'control'} does not have it"
                m = measure.missing(item, rest, text, int(np.prod((a or b).shape)))  # type: ignore[union-attr]
            else:
                m = _measure(item, check, path, (a, b), ours.truths.get(key), policy)
            found.setdefault(check, []).append(m)
    return gates.native_checks(found, policy)


def _measure(
    item: str,
    check: str,
    path: str,
    kept: tuple[Kept, Kept],
    truth: Kept | None,
    policy: Policy,
) -> Measurement:
    ours, theirs = kept
    rest = gates.check_of(path)[1]
    if ours.array.dtype != theirs.array.dtype or ours.shape != theirs.shape:
        both = [f"{k.array.dtype} {list(k.shape)}" for k in kept]
        text = f"{both[0]} in the control, {both[1]} in the candidate"
        return measure.missing(item, rest, text, elements=int(np.prod(ours.shape)))
    whole = ours.whole and theirs.whole and (truth is None or truth.whole)
    arrays = ours.numbers(whole=whole), theirs.numbers(whole=whole)
    true = None if truth is None else truth.numbers(whole=whole)
    m = gates.measured(item, check, path, arrays, lambda _: true, policy)
    if not whole and m.exact and ours.sha256 != theirs.sha256:
        return dataclasses.replace(m, problem="other bits, outside of the sample that was kept")
    return m
