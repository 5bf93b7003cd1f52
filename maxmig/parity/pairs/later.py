"""Holds a recorded side of a pair against the other side as it is now, or as it was recorded."""

import dataclasses
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maxmig import errors
from maxmig.parity import attest
from maxmig.parity.pairs import (
    arguments,
    confirm,
    drawn,
    engine,
    gates,
    held,
    linen_side,
    nnx_side,
    propose,
    recording,
    seen,
    steady,
    streams,
    tracing,
)
from maxmig.parity.pairs import mapping as mappings
from maxmig.parity.pairs import pair as pairs
from maxmig.parity.pairs.compute import STEP
from maxmig.parity.pairs.confirm import Confirmed
from maxmig.parity.pairs.linen_side import LinenSide
from maxmig.parity.pairs.pair import Pair
from maxmig.parity.pairs.recording import INPUTS, SIDES, WEIGHTS, Alone
from maxmig.parity.pairs.seen import Seen
from maxmig.parity.record import Recording
from maxmig.parity.report import Report
from maxmig.parity.results import (
    Check,
    Coverage,
    Input,
    Origin,
    Side,
    Subject,
)

Flat = dict[str, Any]


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
        now = _Now(Side(**other.manifest["side"]), seen.read(other), str(versions["jax"]))
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
        now = _Runs(first, pairs.load(spec).need(side), side, mapping, note).look()
        report = _describe(first, now, command)
        problem = now.problem
    doubts = (problem,) if problem else attest.doubts(report.control, now.side, allow_same=False)
    report = dataclasses.replace(report, doubts=doubts)
    if not doubts:
        report = _hold(report, first, now)
    return dataclasses.replace(report, seconds=time.monotonic() - began)


@dataclasses.dataclass(frozen=True)
class _Now:
    """The other side.

    Attributes:
        side: which, proved from its objects.
        seen: what it computes.
        jax: the version that traced it.
        checks: of the mapping.
        problem: why comparing proves nothing.
        notes: what else to tell.
    """

    side: Side
    seen: Seen
    jax: str
    checks: tuple[Check, ...] = ()
    problem: str = ""
    notes: tuple[str, ...] = ()


class _Runs:
    """Runs one side with what was recorded of the other."""

    def __init__(
        self,
        first: Recording,
        pair: Pair,
        side: str,
        mapping: Any,
        note: Callable[[str], object],
    ) -> None:
        self.told = first.manifest["pair"]
        self.first, self.side, self.note = first, side, note
        self.pair = dataclasses.replace(pair, steps=first.manifest["steps"])
        self.chosen = pair.mapping if mapping is None else mapping
        self.traced = False
        self.variables = {
            p: first.load(e) for (c, _, p), e in first.entries.items() if c == WEIGHTS
        }

    def look(self) -> _Now:
        computations, found, units = self._nnx() if self.side == "nnx" else self._linen()
        place = SIDES.index(self.side)
        module = (self.pair.linen, self.pair.nnx)[place]
        side = recording.side_of(self.side, module, units)
        wanted = [n for n in self.told["names"] if n != STEP or self.pair.optimizer is not None]
        problem = steady.restless(computations, (place,)) or self._random(computations)
        if problem:
            return _Now(side, Seen({}, {}, {}), jax.__version__, problem=problem)
        saw = seen.look(computations, wanted, place, self.note)
        checks: tuple[Check, ...] = ()
        if found is not None:
            check = gates.mapping(computations[0].linen, computations[0].nnx, found)
            if not self.traced and self.chosen is None and not check.failures:
                text = f"when it was recorded: {self.told['confirmed']}"
                check = dataclasses.replace(check, told=text)
            checks = (check,)
        notes = [f"ambiguous: {group}" for group in self.told["ambiguous"]]
        if found is not None and self.traced:
            notes = [f"ambiguous: {group}" for group in found.mapping.ambiguous]
            notes.append(
                "the mapping was found from the recorded layers, and confirmed by outputs and "
                "gradients alone: the control is not there to be moved"
            )
        return _Now(side, saw, jax.__version__, checks, notes=tuple(notes))

    def _nnx(self) -> tuple[list[Alone], Confirmed, tuple[tracing.Unit, ...]]:
        pair = self.pair
        call = arguments.of_nnx(pair, self.told["arguments"])
        theirs = nnx_side.make(pair, call)
        nudged = tuple(self.first.manifest["origin"]["nudged"])
        past = arguments.Call((), {}, tuple(self.told["arguments"]))
        ours = LinenSide(pair, past, self.variables, nudged, (None, ()))
        units = tracing.nnx_(theirs, self.told["modes"][0])
        if self.chosen is not None:
            where = str(self.chosen) if isinstance(self.chosen, str | Path) else "the mapping"
            found = mappings.check(mappings.of(self.chosen), self.variables, theirs.leaves, where)
        else:
            found = self._recorded(theirs.leaves) or propose.propose(
                [recording.unit(row) for row in self.told["units"]], units
            )
            self.traced = "recorded" not in {entry.how for entry in found.entries}
        made = []
        for mode in self.told["modes"]:
            arrays = self._arrays(arguments.arrays(call, mode), pair)
            outputs = {name: tuple(shape) for name, shape in self.told["outputs"][mode]}
            made.append(Alone(ours, theirs, found, mode, arrays, {}, outputs))
        made = [dataclasses.replace(c, table=self._table(c, 1) or {}) for c in made]
        if not self.traced:
            return made, Confirmed(found, 0.0, {}), units
        confirmed = confirm.by_outputs(made, self._outputs())
        made = [dataclasses.replace(c, mapping=confirmed.mapping) for c in made]
        return made, confirmed, units

    def _recorded(self, leaves: Mapping[str, Any]) -> mappings.Mapping | None:
        """The mapping that was recorded, if it still fits the NNX module."""
        if self.told["mapping"] is None:
            return None
        read = mappings.of_document(self.told["mapping"], str(self.first.folder))
        entries = tuple(dataclasses.replace(entry, how="recorded") for entry in read.entries)
        try:
            return mappings.check(
                dataclasses.replace(read, entries=entries), self.variables, leaves, "the recording"
            )
        except errors.DataError:
            return None

    def _linen(self) -> tuple[list[Alone], None, tuple[tracing.Unit, ...]]:
        pair = dataclasses.replace(self.pair, variables=self._tree())
        call = arguments.of_linen(pair)
        side = linen_side.make(pair, call, tuple(self.told["modes"]))
        if side.variables.keys() != self.variables.keys():
            apart = sorted(side.variables.keys() ^ self.variables.keys())
            raise errors.DataError(
                f"{self.first.folder}: expected the weights of this module, but they differ in "
                f"{', '.join(apart[:4])}"
            )
        made = []
        for mode in self.told["modes"]:
            arrays = self._arrays(arguments.arrays(call, mode), pair)
            outputs = {name: tuple(shape) for name, shape in self.told["outputs"][mode]}
            made.append(Alone(side, None, mappings.Mapping(()), mode, arrays, {}, outputs))  # type: ignore[arg-type]
        made = [dataclasses.replace(c, table=self._table(c, 0) or {}) for c in made]
        return made, None, tracing.linen(side)

    def _tree(self) -> Flat:
        tree: Flat = {}
        for path, leaf in self.variables.items():
            *parents, last = path.split("/")
            node = tree
            for part in parents:
                node = node.setdefault(part, {})
            node[last] = leaf
        return tree

    def _arrays(
        self, own: arguments.Arrays, pair: Pair
    ) -> tuple[arguments.Arrays, arguments.Arrays]:
        """The recorded inputs, in the place of those that the pair has now."""
        given: dict[str, Flat] = {"linen": {}, "nnx": {}}
        for name, path, kind in self.told["inputs"]:
            array = self.first.load(self.first.entries[INPUTS, name, path])
            plain = jax.numpy.asarray(array)
            given[name][path] = jax.random.wrap_key_data(plain, impl=kind) if kind else plain
        mine = given["nnx"] if self.side == "nnx" and given["nnx"] else given["linen"]
        shapes = [
            [(tuple(x.shape), str(x.dtype)) for x in side.values()] for side in (mine, own.values)
        ]
        if shapes[0] != shapes[1]:
            raise errors.DataError(
                f"{self.first.folder}: expected inputs as they were recorded, "
                f"{_shapes(mine)}, got {_shapes(own.values)}"
            )
        if self.side == "nnx" and given["nnx"]:
            if pair.nnx_inputs is None:
                pair = self.pair = dataclasses.replace(pair, nnx_inputs=pair.inputs)
            return arguments.Arrays(given["linen"], (), (), None), dataclasses.replace(
                own, values=mine
            )
        past = arguments.Arrays(mine, (), (), None)
        return (past, own) if self.side == "nnx" else (dataclasses.replace(own, values=mine), past)

    def _table(self, c: Alone, place: int) -> streams.Table | None:
        control = recording.requests(self.told["random"][c.mode])
        return streams.follow(control, c.asks(place))

    def _random(self, computations: Sequence[Alone]) -> str:
        """Why the random keys of both sides cannot be made to be the same."""
        place = SIDES.index(self.side)
        for c in computations:
            if self._table(c, place) is None:
                control = [
                    request for request, _ in recording.requests(self.told["random"][c.mode])
                ]
                told = streams.names(control, c.asks(place))
                return told or (
                    "the recorded side drew a mask for each of several layers, and this side scans "
                    "them: record again with both sides in the pair, or compare without dropout"
                )
        return ""

    def _outputs(self) -> dict[str, dict[str, np.ndarray]]:
        found: dict[str, dict[str, np.ndarray]] = {}
        for (program, mode, name), kept in seen.read(self.first).arrays.items():
            if program == "outputs":
                found.setdefault(mode, {})[name] = kept.array
        return found


def _shapes(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{n} {x.dtype} {list(x.shape)}" for n, x in values.items()) or "none"


def _hold(report: Report, first: Recording, now: _Now) -> Report:
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
    params = [
        path
        for (check, _, path) in first.entries
        if check == WEIGHTS and path.startswith("params/")
    ]
    gradients = {m.path for c in native if c.name == "gradients" for m in c.measurements}
    zero = tuple(m.path for c in native if c.name == "gradients" for m in c.measurements if m.zero)
    return dataclasses.replace(
        report,
        checks=tuple(checks),
        doubts=(*report.doubts, *doubts),
        notes=(*report.notes, *now.notes),
        coverage=Coverage(
            parameters=len(params),
            gradients=len(gradients & set(params)),
            zero_gradients=tuple(dict.fromkeys(zero)),
            skipped=tuple(skipped),
        ),
    )


def _describe(first: Recording, now: _Now, command: str) -> Report:
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
