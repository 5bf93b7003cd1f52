"""Runs one side and yields, in a fixed order, everything that is to be compared."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from maxmig.parity import start as starts
from maxmig.parity.inputs import Inputs
from maxmig.parity.results import START
from maxmig.train.runtime import Runtime

STEP = "step {}"


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
    runtime: Runtime, state: Mapping[str, np.ndarray], inputs: Inputs
) -> Iterator[Observation]:
    """Starts from `state`; computes logits, losses, gradients and steps with the side's programs.

    Only one training state is alive at a time, and it dies with the iterator.
    """
    # Copies: on a CPU an array may share the host's memory, and the steps give theirs away.
    given = {path: np.array(leaf, copy=True) for path, leaf in state.items()}
    native = runtime.view.native({path: jax.numpy.asarray(leaf) for path, leaf in given.items()})
    yield from _leaves("start", START, runtime.view.flat(native))
    del native
    leaves = runtime.leaves(given)
    yield from _outputs(runtime, runtime.params(leaves), inputs)
    for number, batch in enumerate(inputs.training, 1):
        leaves, metrics = runtime.train(leaves, runtime.place(batch))
        item = STEP.format(number)
        yield from _leaves("metrics", item, metrics)
        for path, leaf in starts.host(runtime.state(leaves)).items():
            yield Observation(_kind(path, leaf), item, path, leaf)


def _outputs(runtime: Runtime, params: Any, inputs: Inputs) -> Iterator[Observation]:
    for item, batch in inputs.batches.items():
        placed = runtime.place(batch)
        yield from _leaves("logits", item, {"logits": runtime.logits(params, placed)})
        loss, gradients = runtime.gradients(params, placed)
        yield from _leaves("loss", item, dataclasses.asdict(loss))
        yield from _leaves("gradients", item, gradients)


def _leaves(check: str, item: str, flat: dict[str, Any]) -> Iterator[Observation]:
    for path, leaf in starts.host(flat).items():
        yield Observation(check, item, path, leaf)


def _kind(path: str, leaf: np.ndarray) -> str:
    if path.startswith("params/"):
        return "params"
    return "counters" if leaf.dtype.kind in "iub" else "moments"
