"""The checks of a pair: mapping, proof, float64, real arrays."""

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxmig import errors
from maxmig.parity import shadow
from maxmig.parity import static as proving
from maxmig.parity.findings import known, measure, words
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.findings.measurement import START, Measurement
from maxmig.parity.findings.policy import Policy
from maxmig.parity.findings.repeats import Noise
from maxmig.parity.pairs.compute import (
    GRADIENTS,
    NAMES,
    OF_INPUTS,
    OUTPUTS,
    STEP,
    Computation,
)
from maxmig.parity.pairs.confirm import CONFIRMED, Confirmed
from maxmig.parity.pairs.drawn import SUFFIX, Draw
from maxmig.parity.pairs.linen_side import LinenSide
from maxmig.parity.pairs.mapping import Mapping as Map
from maxmig.parity.pairs.nnx_side import NnxSide

Flat = dict[str, Any]

TITLES = {
    "outputs": "outputs of a call",
    "state": "state after a call: statistics, counters, caches",
    "loss": "the loss",
    "gradients": "gradient of every parameter",
    OF_INPUTS: "gradient of every float input",
    "params": "every parameter after the optimizer steps",
}
LIMITS = {"bfloat16": 5e-2, "float16": 6e-3, "float32": 2e-5}

# A constant that was rounded to float32 before it was used (a scale, an epsilon) leaves this much.
CONSTANTS = 1e-6


def mapping(linen: LinenSide, nnx: NnxSide, found: Confirmed) -> Check:
    """Whether every leaf has exactly one counterpart, and moves the outputs as that does."""
    m = found.mapping
    problems = dict(m.dropped) | dict(m.extra)
    targets = {path: entry.target for entry in m.entries for path in entry.sources}
    for entry in m.entries:
        trained = [p for p in entry.sources if p in linen.params]
        if trained and entry.target not in nnx.params:
            problems[entry.target] = (
                f"{trained[0]} is trained, but this is no nnx.Param: the optimizer will not see it"
            )
    hint = f"; exchanged weights? {found.hint}" if found.hint else ""
    problems |= _other_types(linen, nnx, m)
    given = {path for e in m.entries if e.how == "given" for path in e.sources}
    # A layer that computes something else moves its outputs otherwise too: that is no matter of
    # the mapping, unless there was a choice.
    blamed = [path for path in found.apart if found.hint or path in given]
    for path in blamed:
        problems.setdefault(
            path,
            f"moving it and {targets[path]} alike moves the outputs of the two sides in different "
            f"ways: they are not the same weight, or not used alike{hint}",
        )
    paths = dict.fromkeys([*problems, *linen.variables])
    measurements = tuple(
        Measurement(
            START, path, elements=1, differing=path in problems, problem=problems.get(path, "")
        )
        for path in paths
    )
    return Check(
        "mapping",
        "where each weight goes",
        measurements,
        may_be_zero=True,
        level="settings",
        concluded=None if measurements else Verdict.PASS,
        told=told(found) if measurements else "no weights on either side",
        doubt=_doubt(found) if not problems else "",
    )


def _other_types(linen: LinenSide, nnx: NnxSide, mapping: Map) -> dict[str, str]:
    """Leaves of another type than their counterparts: values that are handed over would hide it."""
    found = {}
    for entry in mapping.entries:
        theirs = nnx.leaves[entry.target].dtype
        for path in entry.sources:
            ours = jnp.asarray(linen.variables[path]).dtype
            if ours != theirs:
                found[path] = (
                    f"{path} is {ours} in the control, and {entry.target} {theirs} in the "
                    "candidate; give both sides one param_dtype"
                )
    return found


def _doubt(found: Confirmed) -> str:
    if not found.apart:
        return ""
    return (
        f"not confirmed: moving {found.apart[0]}{_more(found.apart, 1)} moves the outputs of the "
        "two sides in different ways"
    )


def told(found: Confirmed) -> str:
    """What was mapped, and how it was confirmed, in a line."""
    confirmed = sum(told == CONFIRMED for told in found.leaves.values())
    told = [f"{len(found.mapping.entries)} NNX leaves mapped"]
    if found.leaves:
        told[0] += (
            f"; of {len(found.leaves)} Linen leaves that were moved on both sides {confirmed} "
            "moved the outputs alike"
        )
    if found.mapping.ambiguous:
        told.append(words.counted(len(found.mapping.ambiguous), "ambiguous group"))
    if found.still:
        told.append(f"without effect: {', '.join(found.still[:4])}{_more(found.still, 4)}")
    return "; ".join(told)


def names(computations: Sequence[Computation]) -> tuple[str, ...]:
    """What can be computed: no gradients without floats, no steps without an optimizer."""
    first = computations[0]
    found = [OUTPUTS]
    floats = _floats(first)
    if floats or first.pair.loss is not None:
        if first.linen.params or first.differentiable:
            found.append(GRADIENTS)
        if first.linen.params and first.pair.optimizer is not None:
            found.append(STEP)
    return tuple(found)


def skipped(computations: Sequence[Computation], made: Sequence[str]) -> tuple[str, ...]:
    """What was not compared, and why."""
    first = computations[0]
    found = []
    if GRADIENTS not in made:
        why = "no output is a float" if first.linen.params else "the control has no parameters"
        found.append(f"gradients: {why}")
    elif own := first.alone:
        found.append(f"gradients of {', '.join(own[:4])}: the NNX module has inputs of its own")
    if STEP not in made:
        found.append("optimizer steps: the pair has no optimizer; return Pair(optimizer=...)")
    return tuple(found)


def static(computations: Sequence[Computation], made: Sequence[str]) -> list[Check]:
    """L0: which outputs are proved, and where the rest goes different ways."""
    found = []
    for c in computations:
        for name in of_mode(c, computations, made):
            began = time.monotonic()
            proof = proving.prove(c.program(name, 0), c.program(name, 1))
            missing = bool(proof.missing)
            verdict = Verdict.PASS if proof else Verdict.INCONCLUSIVE
            found.append(
                Check(
                    f"{name} ({c.mode})",
                    f"{name} as a program",
                    level="static",
                    concluded=Verdict.FAIL if missing else verdict,
                    told=proof.summary,
                    details=proof,
                    seconds=time.monotonic() - began,
                )
            )
    return found


def semantic(
    computations: Sequence[Computation],
    made: Sequence[str],
    draws: Mapping[str, Draw] | None = None,
) -> list[Check]:
    """L1: both programs in float64; on random inputs too, where they are given."""
    found = []
    for c in computations:
        runs = [(name, "", c.inputs) for name in of_mode(c, computations, made)]
        if draws and (other := draws[c.mode].inputs) is not None:
            runs += [(name, f", {SUFFIX} inputs", other) for name, _, _ in runs if name != STEP]
        for name, of_inputs, given in runs:
            began = time.monotonic()
            result = shadow.compare(c.program(name, 0), c.program(name, 1), given)
            verdict, told = result.verdict, result.summary
            worst = max((e.relative for e in result.failures if not e.problem), default=0.0)
            small = worst <= CONSTANTS and not any(e.problem for e in result.failures)
            if verdict is Verdict.FAIL and small and not result.missing:
                first = [result.first.divergence] if result.first else []
                explained = known.of_divergences(first)
                verdict = Verdict.PASS if explained else Verdict.INCONCLUSIVE
                told = f"equal up to the rounding of float32 constants: {told}"
            found.append(
                Check(
                    f"{name} ({c.mode}){of_inputs}",
                    f"{name} in float64",
                    level="semantic",
                    concluded=verdict,
                    told=told,
                    details=result,
                    seconds=time.monotonic() - began,
                )
            )
    return found


def native(
    computations: Sequence[Computation],
    made: Sequence[str],
    policy: Policy,
    noise: Noise | None = None,
    draws: Mapping[str, Draw] | None = None,
    proved: Collection[str] = (),
    note: Callable[[str], object] = lambda text: None,
) -> list[Check]:
    """L2: real arrays; what differs is held against the float64 truth, and the control's noise.

    Args:
        computations: mode by mode.
        made: the programs.
        policy: what counts as equal.
        noise: what two runs of the control differ by.
        draws: random inputs, by mode, for all programs but the optimizer's steps.
        proved: programs, as `outputs (train)`, that need no other inputs than the given ones.
        note: is told which program runs.
    """
    found: dict[str, list[Measurement]] = {}
    for c in computations:
        runs = [(name, c.item(name), c.inputs) for name in of_mode(c, computations, made)]
        if draws and (other := draws[c.mode].inputs) is not None:
            item = f"{c.mode} {SUFFIX}"
            left = [n for n, _, _ in runs if n != STEP and f"{n} ({c.mode})" not in proved]
            runs += [(name, item, other) for name in left]
        for name, item, given in runs:
            note(f"L2: {name}, {item}")
            control, candidate = (
                {p: host(x) for p, x in c.compiled(name, side)(given).items()} for side in (0, 1)
            )
            truth = _Truth(c, name, given)
            for path, array in control.items():
                check, rest = check_of(path)
                if path not in candidate:
                    m = measure.missing(item, rest, "the candidate does not have it", array.size)
                else:
                    both = array, candidate[path]
                    m = measured(item, check, path, both, truth, policy, noise)
                found.setdefault(check, []).append(m)
            for path in candidate.keys() - control.keys():
                check, rest = check_of(path)
                size = candidate[path].size
                text = "the control does not have it"
                found.setdefault(check, []).append(measure.missing(item, rest, text, size))
    return native_checks(found, policy)


def native_checks(found: Mapping[str, Sequence[Measurement]], policy: Policy) -> list[Check]:
    """The checks of L2 from what was measured."""
    return [
        Check(
            name,
            title,
            tuple(found[name]),
            policy.limit(name),
            may_be_zero=name in ("state", OF_INPUTS),
            doubt=(nan := _nan(found[name])),
            concluded=Verdict.INCONCLUSIVE if nan and not _any(found[name]) else None,
        )
        for name, title in TITLES.items()
        if name in found
    ]


class _Truth:
    """The control's program in float64, evaluated when it is needed."""

    def __init__(self, computation: Computation, name: str, given: Flat) -> None:
        self._computation, self._name, self._given = computation, name, given
        self._found: Flat | None = None

    def __call__(self, path: str) -> np.ndarray | None:
        if self._found is None:
            c = self._computation
            try:
                self._found = dict(shadow.evaluate(c.program(self._name, 0), self._given))
            except errors.InconclusiveError:
                self._found = {}
        return self._found.get(path)


def measured(
    item: str,
    check: str,
    path: str,
    arrays: tuple[np.ndarray, np.ndarray],
    truth: Callable[[str], np.ndarray | None],
    policy: Policy,
    noise: Noise | None = None,
) -> Measurement:
    """One array of both sides, against the float64 truth where they differ."""
    control, candidate = arrays
    rest = check_of(path)[1]
    both_nan = _not_finite_alike(control, candidate)
    if both_nan:
        m = measure.compare(item, rest, np.nan_to_num(control), np.nan_to_num(candidate))
        return dataclasses.replace(m, elements=0 if both_nan == control.size else m.elements)
    m = measure.compare(item, rest, control, candidate)
    if m.exact or m.problem or not np.issubdtype(np.asarray(control).dtype, np.inexact):
        if not m.exact and not m.problem and control.dtype.kind not in "fV":
            return dataclasses.replace(m, problem="whole numbers differ")
        if m.exact or m.problem:
            return m
    if noise is not None:
        m = dataclasses.replace(m, noise=noise.of(check, rest))
    true = truth(path)
    if true is None or true.shape != control.shape:
        return m
    factor, floor = policy.factor(check, m.elements), policy.floor(m.dtype, m.elements)
    return measure.triangulate(m, control, candidate, true, factor=factor, floor=floor)


def _not_finite_alike(control: np.ndarray, candidate: np.ndarray) -> int:
    """How many numbers are not finite, if they are the same ones on both sides."""
    if control.shape != candidate.shape or control.dtype != candidate.dtype:
        return 0
    try:
        bad = ~np.isfinite(control), ~np.isfinite(candidate)
    except TypeError:
        return 0
    if not bad[0].any() or (bad[0] != bad[1]).any():
        return 0
    same = np.asarray(control[bad[0]], np.float64), np.asarray(candidate[bad[1]], np.float64)
    return int(bad[0].sum()) if np.array_equal(*same, equal_nan=True) else 0


def _nan(measurements: Sequence[Measurement]) -> str:
    """Why numbers that are not finite on both sides leave a doubt."""
    empty = [m for m in measurements if not m.elements and not m.problem]
    if not empty:
        return ""
    if 0 in empty[0].shape:
        return f"{empty[0].path} ({empty[0].item}) has no numbers on either side; give other inputs"
    return (
        f"{empty[0].path} ({empty[0].item}) is NaN or infinite throughout on both sides, so "
        "nothing is compared there; give other inputs"
    )


def _any(measurements: Sequence[Measurement]) -> bool:
    return any(m.elements or m.problem for m in measurements)


def check_of(path: str) -> tuple[str, str]:
    """The check that an output belongs to, and its name there."""
    head, _, rest = path.partition("/")
    return (head, rest or path) if head in TITLES else ("outputs", path)


def of_mode(
    c: Computation, computations: Sequence[Computation], made: Sequence[str]
) -> tuple[str, ...]:
    """Optimizer steps are made in the first mode only."""
    first = c.mode == computations[0].mode
    return tuple(name for name in NAMES if name in made and (first or name != STEP))


def _floats(c: Computation) -> bool:
    shapes = jax.eval_shape(c.functions(OUTPUTS)[0], c.inputs)
    return any(
        jnp.issubdtype(leaf.dtype, jnp.floating)
        for name, leaf in shapes.items()
        if name.startswith(OUTPUTS)
    )


def host(leaf: Any) -> np.ndarray:
    """An array on the host; of random keys their data."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _more(items: Sequence[str], shown: int) -> str:
    return f", and {len(items) - shown} more" if len(items) > shown else ""
