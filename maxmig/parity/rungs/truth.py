"""The float64 truth of what the control computes: its own programs with every float promoted.

Truth is asked for where the two sides' bits differ, and for hidden states. Only the last program's
results are kept, so memory stays at one state in float64.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from maxmig import errors
from maxmig.config import Config, Stage
from maxmig.parity import programs
from maxmig.parity.programs import Program
from maxmig.parity.sides import probes
from maxmig.parity.sides.inputs import Batch, Inputs
from maxmig.parity.sides.observe import STEP, UPDATE
from maxmig.train.runtime import Runtime

Flat = dict[str, Any]
Key = tuple[str, str, str]


class Truth:
    """Looks arrays up by (check, item, path).

    Attributes:
        unknown: why there is no truth, if there is none; empty as long as there was no trouble.
    """

    def __init__(
        self, cfg: Config, control: Stage, state: Mapping[str, np.ndarray], inputs: Inputs
    ):
        self._cfg, self._control = cfg, control
        self._state, self._inputs = dict(state), inputs
        self._kept: tuple[object, Flat] = (None, {})
        self._stepped: tuple[int, Flat] = (0, dict(state))
        self.unknown = ""

    def __call__(self, key: Key) -> np.ndarray | None:
        """The truth of an array; None where there is none."""
        if self.unknown:
            return None
        check, item, path = key
        try:
            found = self._of(check, item)
        except errors.InconclusiveError as error:
            self.unknown = str(error)
            return None
        name = path if check in ("logits", "hidden") or not found else _name(check, path)
        return found.get(name)

    def _of(self, check: str, item: str) -> Flat:
        if check in ("metrics", "params", "moments"):
            return self._steps(int(item.removeprefix(STEP.format(""))))
        program = {"logits": "forward", "loss": "gradients"}.get(check, check)
        if (program, item) != self._kept[0]:
            self._kept = (None, {})  # freed before the next is made
            self._kept = ((program, item), getattr(self, f"_{program}")(item))
        return self._kept[1]

    def _forward(self, item: str) -> Flat:
        return self._evaluate("forward", self._params() | _batch(self._inputs.batches[item]))

    def _gradients(self, item: str) -> Flat:
        return self._evaluate("gradients", self._params() | _batch(self._inputs.batches[item]))

    def _hidden(self, item: str) -> Flat:
        given = self._params() | _batch(self._inputs.batches[item])
        hidden = probes.Probes(self._runtime).hidden_states

        def fn(flat: Flat) -> Flat:
            return hidden(_below("params/", flat), _below("batch/", flat))

        return probes.layers(self._run(programs.trace("hidden", fn, _abstract(given)), given))

    def _update(self, item: str) -> Flat:
        assert item == UPDATE
        runtime = self._runtime
        made = probes.gradients(runtime, runtime.settings.seed)
        state = probes.amid(runtime, self._state, moments=True)
        given = state | {f"gradients/{path}": g for path, g in made.items()}

        def fn(flat: Flat) -> Flat:
            kept = {path: leaf for path, leaf in flat.items() if not path.startswith("gradients/")}
            return probes.Probes(runtime).updated(kept, _below("gradients/", flat))

        return self._run(programs.trace("update", fn, _abstract(given)), given)

    def _steps(self, number: int) -> Flat:
        at, found = self._stepped
        while at < number:
            batch = self._inputs.training[at]
            state = {path: found[path] for path in self._state}
            found = self._evaluate("train_step", state | _batch(batch))
            at += 1
            self._stepped = (at, found)
        return found

    def _evaluate(self, name: str, given: Flat) -> Flat:
        rows, length = given["batch/inputs"].shape
        return self._run(self._program(name, rows, length), given)

    @functools.cache  # noqa: B019 (a truth lives as long as its programs)
    def _program(self, name: str, rows: int, length: int) -> Program:
        return programs.Tracer(self._runtime, rows, length).all([name])[name]

    def _run(self, program: Program, given: Flat) -> Flat:
        from maxmig.parity import shadow

        return shadow.evaluate(program, given)

    @functools.cached_property
    def _runtime(self) -> Runtime:
        cfg = programs.on_one_device(self._cfg, self._control)
        return Runtime(cfg, jax.devices()[:1])

    def _params(self) -> Flat:
        return {path: leaf for path, leaf in self._state.items() if path.startswith("params/")}


def _name(check: str, path: str) -> str:
    return path if check in ("params", "moments", "update") else f"{check}/{path}"


def _batch(batch: Batch) -> Flat:
    return {f"batch/{key}": value for key, value in batch.items()}


def _below(prefix: str, flat: Mapping[str, Any]) -> Flat:
    return {p.removeprefix(prefix): leaf for p, leaf in flat.items() if p.startswith(prefix)}


def _abstract(given: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in given.items()}
