"""Runs one side of a pair now, with the weights and inputs that were recorded of the other."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from maxmig import errors
from maxmig.parity.findings.check import Check
from maxmig.parity.findings.subject import Side
from maxmig.parity.pairs import (
    arguments,
    confirm,
    gates,
    linen_side,
    nnx_side,
    propose,
    recording,
    ruled,
    seen,
    steady,
    streams,
    tracing,
)
from maxmig.parity.pairs import mapping as mappings
from maxmig.parity.pairs.compute import STEP
from maxmig.parity.pairs.confirm import Confirmed
from maxmig.parity.pairs.linen_side import LinenSide
from maxmig.parity.pairs.pair import Pair
from maxmig.parity.pairs.recording import INPUTS, SIDES, WEIGHTS, Alone
from maxmig.parity.pairs.seen import Seen
from maxmig.parity.recordings.recording import Recording

Flat = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Now:
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


class Rerun:
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

    def look(self) -> Now:
        computations, found, units = self._nnx() if self.side == "nnx" else self._linen()
        place = SIDES.index(self.side)
        module = (self.pair.linen, self.pair.nnx)[place]
        side = recording.side_of(self.side, module, units)
        wanted = [n for n in self.told["names"] if n != STEP or self.pair.optimizer is not None]
        problem = steady.restless(computations, (place,)) or self._random(computations)
        if problem:
            return Now(side, Seen({}, {}, {}), jax.__version__, problem=problem)
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
        return Now(side, saw, jax.__version__, checks, notes=tuple(notes))

    def _nnx(self) -> tuple[list[Alone], Confirmed, tuple[tracing.Unit, ...]]:
        pair = self.pair
        call = arguments.of_nnx(pair, self.told["arguments"])
        theirs = nnx_side.make(pair, call)
        nudged = tuple(self.first.manifest["origin"]["nudged"])
        past = arguments.Call((), {}, tuple(self.told["arguments"]))
        ours = LinenSide(pair, past, self.variables, nudged, (None, ()))
        units = tracing.nnx_(theirs, self.told["modes"][0])
        if self.chosen is not None:
            found = ruled.given(self.chosen, self.variables, theirs.leaves)
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
