"""Runs one side and yields, in a fixed order, everything that is to be compared."""

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from maxmig.parity import levels
from maxmig.parity.findings.measurement import START
from maxmig.parity.findings.repeats import Noise
from maxmig.parity.sides import performance, probes
from maxmig.parity.sides import start as starts
from maxmig.parity.sides.inputs import LONG, Inputs
from maxmig.train.runtime import Leaves, Runtime

STEP = "step {}"
UPDATE = "equal gradients"
DECAYED, TRAINED = "moved by no gradient", "moved by a gradient"

Flat = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Observation:
    """One array that a side computed, on the host: of a check, of a batch or step, of a leaf."""

    check: str
    item: str
    path: str
    array: np.ndarray

    @property
    def key(self) -> tuple[str, str, str]:
        """What pairs it with the other side's."""
        return self.check, self.item, self.path


def observe(
    runtime: Runtime,
    state: Flat,
    inputs: Inputs,
    wanted: Collection[str] | None = None,
    *,
    noise: Noise | None = None,
    meter: performance.Meter | None = None,
) -> Iterator[Observation]:
    """Starts from `state`; computes logits, losses, gradients and steps with the side's programs.

    Only one training state is alive at a time, and it dies with the iterator.

    Args:
        runtime: the side.
        state: a whole training state on the host.
        inputs: the batches.
        wanted: the checks to observe; all by default.
        noise: runs what has no side effects a second time, and is told both results.
        meter: is told times and sizes.
    """
    wanted = levels.wanted((), len(inputs.training)) if wanted is None else wanted
    side = _Side(runtime, state, inputs, wanted, noise)
    yield from side.start()
    leaves = runtime.leaves(_copies(state))
    params = runtime.params(leaves)
    yield from side.outputs(params)
    yield from side.updates()
    yield from side.invariants(params)
    del params
    yield from side.steps(leaves, meter or performance.Meter())


@dataclasses.dataclass(frozen=True)
class _Side:
    runtime: Runtime
    state: Flat
    inputs: Inputs
    wanted: Collection[str]
    noise: Noise | None

    def start(self) -> Iterator[Observation]:
        """The state, put into the side's own containers and taken out again."""
        view = self.runtime.view
        given = {path: jax.numpy.asarray(leaf) for path, leaf in _copies(self.state).items()}
        yield from _leaves("start", START, view.flat(view.native(given)))

    def outputs(self, params: Leaves) -> Iterator[Observation]:
        """Logits, hidden states, losses and gradients of each batch."""
        runtime, programs = self.runtime, probes.Probes(self.runtime)
        named = dict(zip(runtime.param_paths, params, strict=True))
        for item, batch in self.inputs.batches.items():
            placed = runtime.place(batch)
            if "logits" in self.wanted:
                run = lambda b=placed: {"logits": runtime.logits(params, b)}  # noqa: E731
                yield from self._twice("logits", item, run)
            if "hidden" in self.wanted:
                hidden = starts.host(programs.hidden(named, placed))
                yield from _leaves("hidden", item, probes.layers(hidden))
            if item == LONG or not {"loss", "gradients"} & set(self.wanted):
                continue  # differentiated at one length only, which saves a compilation
            loss, gradients = runtime.gradients(params, placed)
            if "loss" in self.wanted:
                yield from _leaves("loss", item, loss.named())
            if "gradients" in self.wanted:
                if self.noise is not None:
                    again = runtime.gradients(params, placed)[1]
                    self.noise.add("gradients", starts.host(gradients), starts.host(again))
                yield from _leaves("gradients", item, gradients)

    def updates(self) -> Iterator[Observation]:
        """One optimizer step from equal gradients; which weights decay, and which are frozen."""
        if not {"update", "masks"} & set(self.wanted):
            return
        runtime, program = self.runtime, probes.Probes(self.runtime).update
        made = probes.gradients(runtime, runtime.settings.seed)
        if "update" in self.wanted:
            full = probes.amid(runtime, self.state, moments=True)
            yield from _leaves("update", UPDATE, program(full, made))
        if "masks" not in self.wanted:
            return
        empty = probes.amid(runtime, self.state, moments=False)
        nothing = {path: np.zeros_like(g) for path, g in made.items()}
        for item, gradients in ((DECAYED, nothing), (TRAINED, made)):
            after = starts.host(program(empty, gradients))
            for path in runtime.param_paths:
                moved = after[f"params/{path}"].tobytes() != self.state[f"params/{path}"].tobytes()
                yield Observation("masks", item, path, np.array(moved))

    def invariants(self, params: Leaves) -> Iterator[Observation]:
        """What must hold on each side by itself; every array is a boolean that should be true."""
        if "state" not in self.wanted:
            return
        runtime = self.runtime
        batch = runtime.place(next(iter(self.inputs.batches.values())))
        before = _hash(params)
        first, second = (runtime.logits(params, batch) for _ in range(2))
        equal = np.asarray(first).tobytes() == np.asarray(second).tobytes()
        yield _fact("evaluation", "twice gives the same bits", equal)
        yield _fact("evaluation", "leaves the weights as they were", before == _hash(params))
        if runtime.settings.dropout:
            named = dict(zip(runtime.param_paths, params, strict=True))
            draw = probes.Probes(runtime).draw
            losses = [float(draw(named, batch, np.int32(step))) for step in (1, 2, 1)]
            yield _fact("dropout", "other masks at the next step", losses[0] != losses[1])
            yield _fact("dropout", "the same masks at the same step", losses[0] == losses[2])

    def steps(
        self, leaves: tuple[jax.Array, ...], meter: performance.Meter
    ) -> Iterator[Observation]:
        """Optimizer steps, each from the state that the one before left."""
        runtime = self.runtime
        if not self.inputs.training or not set(levels.OF_STEPS) & set(self.wanted):
            return
        train = meter.compile(runtime.train, leaves, runtime.place(self.inputs.training[0]))
        began = int(self.state["step"])
        for number, batch in enumerate(self.inputs.training, 1):
            leaves, metrics = meter.step(train, leaves, runtime.place(batch))
            item = STEP.format(number)
            yield from _leaves("metrics", item, metrics)
            after = starts.host(runtime.state(leaves))
            for path, leaf in after.items():
                yield Observation(_kind(path, leaf), item, path, leaf)
            if "state" in self.wanted:
                advanced = int(after["step"]) == began + number
                yield _fact("counters", f"step {number} counted once", advanced)

    def _twice(self, check: str, item: str, run: Any) -> Iterator[Observation]:
        found = starts.host(run())
        if self.noise is not None:
            self.noise.add(check, found, starts.host(run()))
        yield from _leaves(check, item, found)


def _leaves(check: str, item: str, flat: Mapping[str, Any]) -> Iterator[Observation]:
    for path, leaf in starts.host(dict(flat)).items():
        yield Observation(check, item, path, leaf)


def _fact(item: str, path: str, held: bool) -> Observation:
    return Observation("state", item, path, np.array(held))


def _kind(path: str, leaf: np.ndarray) -> str:
    if path.startswith("params/"):
        return "params"
    return "counters" if leaf.dtype.kind in "iub" else "moments"


def _copies(state: Flat) -> dict[str, np.ndarray]:
    """Copies: on a CPU an array may share the host's memory, and the steps give theirs away."""
    return {path: np.array(leaf, copy=True) for path, leaf in state.items()}


def _hash(leaves: Leaves) -> str:
    found = hashlib.blake2b(digest_size=16)
    for leaf in leaves:
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()
