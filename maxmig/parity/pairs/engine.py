"""Runs a user's pair: the mapping, the proof, float64, and real arrays, under one verdict."""

import dataclasses
import datetime
import functools
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from maxmig.parity import levels as levels_
from maxmig.parity.findings import constants, doubts, known
from maxmig.parity.findings.policy import RATIO, Policy
from maxmig.parity.findings.repeats import Noise
from maxmig.parity.findings.subject import Input, Origin, Side, Subject
from maxmig.parity.pairs import (
    arguments,
    behaviour,
    confirm,
    drawn,
    gates,
    linen_side,
    nnx_side,
    propose,
    ruled,
    sown,
    steady,
    streams,
    tracing,
    unreached,
)
from maxmig.parity.pairs import pair as pairs
from maxmig.parity.pairs.compute import Computation
from maxmig.parity.pairs.confirm import Confirmed
from maxmig.parity.pairs.mapping import Mapping
from maxmig.parity.pairs.pair import Pair
from maxmig.parity.reports.report import Report

ITEMS = {"train": "train", "eval": "eval", arguments.CALL: "call"}


@dataclasses.dataclass(frozen=True)
class Traced:
    """A pair that is ready to be compared.

    Attributes:
        linen, nnx: the sides.
        units: the layers of both.
        mapping: as it was proposed, or given.
        modes: to compare in.
    """

    linen: linen_side.LinenSide
    nnx: nnx_side.NnxSide
    units: tuple[tuple[tracing.Unit, ...], tuple[tracing.Unit, ...]]
    mapping: Mapping
    modes: tuple[str, ...]

    @property
    def kinds(self) -> frozenset[str]:
        """Classes of layers that either side has, by the names of NNX."""
        return frozenset(unit.kind for units in self.units for unit in units)

    @functools.cached_property
    def computations(self) -> list[Computation]:
        """What is computed, mode by mode."""
        return [Computation(self.linen, self.nnx, self.mapping, mode) for mode in self.modes]


def trace(pair: Pair, mapping: Any = None) -> Traced:
    """Initialises the control, calls both sides once on abstract values, and maps the leaves.

    Args:
        pair: what the user gave.
        mapping: in place of the traced one; see `Pair.mapping`.

    Raises:
        ConfigError: a module raises, or cannot be called with the inputs.
        DataError: the mapping does not fit the modules, or an input is out of range.
    """
    calls = arguments.of_sides(pair.need("linen", "nnx"))
    modes = arguments.modes(pair, calls[0])
    ours = linen_side.make(pair, calls[0], modes)
    theirs = nnx_side.make(pair, calls[1])
    units = tracing.linen(ours), tracing.nnx_(theirs, modes[0])
    if pair.method != "__call__":  # what another method does not use is no part of the comparison
        units = units[0], tuple(unit for unit in units[1] if unit.calls)
    chosen = pair.mapping if mapping is None else mapping
    if chosen is None:
        found = propose.propose(*units)
    else:
        found = ruled.given(chosen, ours.variables, theirs.leaves)
    return Traced(ours, theirs, units, found, modes)


def mapped(traced: Traced, found: Confirmed) -> Traced:
    """The pair under the mapping that was confirmed."""
    return dataclasses.replace(traced, mapping=found.mapping)


def run(
    spec: "str | Pair | Callable[[], Any]",
    *,
    levels: Sequence[str] = levels_.DEFAULT,
    mapping: Any = None,
    save_mapping: str | Path | None = None,
    noise: Noise | None = None,
    command: str = "",
    note: Callable[[str], object] = lambda text: None,
) -> Report:
    """Compares a user's Linen module with the NNX module that shall replace it.

    Outputs, the gradients of a loss, the state after a call, and optimizer steps where the pair has
    an optimizer, in training and in evaluation. The weights of both sides are the Linen module's,
    initialised once and mapped.

    Args:
        spec: `pkg.module:function`, such a function, or a pair.
        levels: `L0` a proof, `L1` float64, `L2` real arrays, `L3` distributions and decoding.
        mapping: a mapping file, or a dict NNX leaf -> Linen leaf; traced by default.
        save_mapping: where to write the mapping.
        noise: what two runs of the control differ by; see `maxmig parity noise --pair`.
        command: what repeats the run.
        note: is told what is going on.

    Raises:
        ConfigError: the pair cannot be had, or a module raises.
        DataError: a mapping or an input cannot be used.
    """
    began = time.monotonic()
    pair = pairs.load(spec)
    note(f"pair {pair.title}: initialising the control, tracing both sides")
    traced = trace(pair, mapping)
    found = confirm.confirm(traced.computations)
    traced = mapped(traced, found)
    if save_mapping is not None:
        found.mapping.write(save_mapping)
        note(f"mapping: {save_mapping}")
    report = _describe(traced, levels, command)
    restless = steady.restless(traced.computations, noise=noise)
    if restless:
        report = dataclasses.replace(report, doubts=(restless,))
    else:
        report = _compare(report, traced, found, levels, noise, note)
    return dataclasses.replace(report, seconds=time.monotonic() - began)


def _compare(
    report: Report,
    traced: Traced,
    found: Confirmed,
    levels: Sequence[str],
    noise: Noise | None,
    note: Callable[[str], object],
) -> Report:
    checks = [gates.mapping(traced.linen, traced.nnx, found)]
    computations = traced.computations
    names = gates.names(computations)
    if "L0" in levels:
        note("L0: proving")
        checks += gates.static(computations, names)
    numbers = {"L1", "L2"}.intersection(levels)
    draws = {c.mode: drawn.of(c, names) for c in computations} if numbers else {}
    if "L1" in levels:
        note("L1: both sides in float64")
        checks += gates.semantic(computations, names, {} if "L2" in levels else draws)
    if "L2" in levels:
        note("L2: real arrays")
        proved = {check.name for check in checks if check.level == "static" and check}
        checks += gates.native(computations, names, report.policy, noise, draws, proved, note)
    skipped = gates.skipped(computations, names)
    if "L3" in levels:
        note("L3: distributions, decoding")
        more, left = behaviour.compare(computations, traced.units[0], report.policy)
        checks, skipped = checks + more, (*skipped, *left)
    explained, notes = known.explain(constants.settled(doubts.settled(checks)), traced.kinds)
    if any("nan" in m.problem or "NaN" in c.doubt for c in explained for m in c.measurements):
        place = steady.first_nan(traced.linen, traced.modes[0])
        notes += [place] if place else []
    params = traced.linen.params
    return dataclasses.replace(
        report,
        checks=tuple(explained),
        doubts=(
            *doubts.of(explained, [path for path in found.still if path in params]),
            *sown.doubts(c.sown for c in computations),
            *unreached.constant(explained, computations, draws),
            *unreached.guarded(explained, computations, draws),
        ),
        notes=(
            *drawn.notes(draws, explained),
            *notes,
            *doubts.notes(explained),
            *_notes(traced, found),
        ),
        inputs=(*report.inputs, *drawn.described(draws, report.inputs, explained)),
        coverage=unreached.coverage(explained, params, skipped),
    )


def _notes(traced: Traced, found: Confirmed) -> tuple[str, ...]:
    told = [f"ambiguous: {group}" for group in found.mapping.ambiguous]
    apart = dict.fromkeys(streams.names(*c.asked) for c in traced.computations)
    told += [
        f"stream-names: {text}: the module draws other masks than before when its streams are "
        "seeded, split or fixed by name; `maxmig parity explain stream-names`"
        for text in apart
        if text
    ]
    if found.hint:
        told.append(f"both sides' names say otherwise, but {found.hint}")
    told += sown.notes(c.sown for c in traced.computations)
    if traced.modes == (arguments.CALL,) and traced.nnx.training:
        told.append(
            "the NNX module is in training mode, which is NNX's default: "
            f"{', '.join(traced.nnx.training[:3])}; if the Linen module evaluates, call .eval()"
        )
    return tuple(told)


def _describe(traced: Traced, levels: Sequence[str], command: str) -> Report:
    pair = traced.linen.pair
    variables = traced.linen.variables
    kinds = Counter(str(leaf.dtype) for leaf in variables.values())
    title = pair.title
    digest = hashlib.sha256(
        "\n".join([title, repr(pair.linen), *map(str, traced.mapping.entries)]).encode()
    ).hexdigest()
    subject = Subject(
        config=title,
        config_digest=digest,
        model=f"{type(pair.linen).__name__} and {type(pair.nnx).__name__}, {len(variables)} leaves",
        parameters=sum(int(np.prod(variables[p].shape)) for p in traced.linen.params),
        dtypes={"dtype": policy(variables).coarsest, "leaves": _counted(kinds)},
        devices=f"1 x {jax.devices()[0].platform}",
    )
    census = Counter(unit.module for unit in traced.units[0] if unit.module)
    others = Counter(type(module).__name__ for _, module in nnx.iter_modules(pair.nnx))
    from maxmig.parity.rungs import attest

    return Report(
        subject,
        Side("linen", "linen", "flax.linen variables", dict(census), digest),
        Side("nnx", "nnx", "flax.nnx module", dict(others), digest),
        policy(variables),
        inputs=tuple(_input(mode, traced) for mode in traced.modes),
        origin=Origin(f"seed {pair.seed}", 0, "fresh", nudged=traced.linen.nudged),
        steps=pair.steps if pair.optimizer is not None else 0,
        levels=tuple(levels),
        environment=attest.environment(),
        command=command,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in kinds.items())


def policy(variables: Any) -> Policy:
    """Equal up to rounding: the control's own error against float64 is the yardstick."""
    used = {str(leaf.dtype) for leaf in variables.values()}
    coarsest = next((d for d in ("bfloat16", "float16", "float32") if d in used), "float32")
    text = (
        "bit for bit, or else the candidate's error against float64 is at most 2 times the "
        "control's (3 below 1,000 numbers, 10 for up to 10)"
    )
    return Policy(RATIO, text, dict.fromkeys(gates.TITLES, gates.LIMITS[coarsest]), coarsest)


def _input(mode: str, traced: Traced) -> Input:
    given = arguments.arrays(traced.linen.call, mode).values
    told = ", ".join(f"{n.removeprefix('inputs/')} {list(x.shape)}" for n, x in given.items())
    first = next((x.shape for x in given.values() if x.ndim), (1,))
    size = int(np.prod(first[1:])) if len(first) > 1 else 1
    return Input(ITEMS[mode], f"the pair's own: {told or 'no arrays'}", first[0], size, 1, 0, 0)
