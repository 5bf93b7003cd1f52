"""A/A of a user's pair: one side against itself, and what makes it differ."""

import dataclasses
import datetime
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from maxmig.parity.findings import measure
from maxmig.parity.findings.measurement import Measurement
from maxmig.parity.pairs import confirm, engine, gates, recording, steady
from maxmig.parity.pairs import pair as pairs
from maxmig.parity.pairs.compute import GRADIENTS, OUTPUTS, Computation
from maxmig.parity.pairs.pair import Pair
from maxmig.parity.rungs import attest, noise
from maxmig.parity.rungs.noise import Scatter, Scatters

KINDS = tuple(kind for kind in noise.KINDS if kind != "split")  # a row may depend on its batch

Flat = Mapping[str, Any]
Arrays = Mapping[tuple[str, str, str], np.ndarray]


def run(
    spec: "str | Pair | Callable[[], Any]",
    *,
    side: str = "linen",
    mapping: Any = None,
    command: str = "",
    note: Callable[[str], object] = lambda text: None,
) -> Scatters:
    """Measures the noise of one side: outputs, state, loss and gradients, in all modes.

    Args:
        spec: `pkg.module:function`, such a function, or a pair; the NNX module may be None.
        side: `linen` or `nnx`.
        mapping: a mapping file, or a dict NNX leaf -> Linen leaf; traced by default.
        command: what repeats it, for the file.
        note: is told what is going on.

    Raises:
        ConfigError: the pair cannot be had, or a module raises.
        DataError: the mapping does not fit.
    """
    place = recording.SIDES.index(side)
    pair = pairs.load(spec).need("linen", *(("nnx",) if side == "nnx" else ()))
    if pair.nnx is None:
        computations, _ = recording.linen_alone(pair)
    else:
        traced = engine.trace(pair, mapping)
        computations = engine.mapped(traced, confirm.confirm(traced.computations)).computations
    note(f"{side}: once")
    first = _seen(computations, place)
    found = []
    for kind in KINDS:
        note(noise.KINDS[kind])
        if kind == "rejit":
            jax.clear_caches()
        found.append(Scatter(kind, _hold(first, _again(kind, computations, place))))
    document = {
        "schema_version": noise.SCHEMA_VERSION,
        "kind": "maxmig.parity.noise",
        "command": command,
        "stage": side,
        "pair": pair.title,
        "source": steady.restless(computations, (place,)),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": attest.environment(),
        "noise": {scatter.kind: scatter.document() for scatter in found},
    }
    return Scatters(tuple(found), document)


def _again(kind: str, computations: list[Computation], place: int) -> Arrays:
    if kind == "rerun":
        return _seen(computations, place)
    fresh = [dataclasses.replace(c) for c in computations]  # forgets what was traced
    if kind == "rejit":
        return _seen(fresh, place)
    return _seen(computations, place, _jittered)


def _seen(
    computations: list[Computation], place: int, change: Callable[[Flat], Flat] = lambda flat: flat
) -> Arrays:
    names = [n for n in gates.names(computations) if n in (OUTPUTS, GRADIENTS)]
    found = {}
    for c in computations:
        for name in gates.of_mode(c, computations, names):
            for path, array in c.compiled(name, place)(change(c.inputs)).items():
                check, rest = gates.check_of(path)
                found[check, c.mode, rest] = gates.host(array)
    return found


def _jittered(flat: Flat) -> dict[str, Any]:
    """Every weight moved by one unit in its last place."""
    weights = {
        p: np.asarray(x) for p, x in flat.items() if p.startswith(("params/", "nnx/params/"))
    }
    return {**flat, **noise.jittered(weights)}


def _hold(first: Arrays, other: Arrays) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = {}
    for key, array in other.items():
        check, item, path = key
        found.setdefault(check, []).append(measure.compare(item, path, first[key], array))
    return found
