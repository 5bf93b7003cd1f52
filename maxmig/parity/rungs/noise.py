"""A/A: one side against itself, again, compiled anew, in parts, and with weights moved by an ulp.

What differs here is no difference between two sides. The first three kinds are the floor of every
comparison; the last tells how much the model itself enlarges the smallest possible change.
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maxmig import errors
from maxmig.config import Config, Stage
from maxmig.parity.findings import measure
from maxmig.parity.findings.measurement import Measurement
from maxmig.parity.reports import card
from maxmig.parity.rungs import attest
from maxmig.parity.rungs.request import Request
from maxmig.parity.sides import inputs as batches
from maxmig.parity.sides.inputs import Inputs
from maxmig.parity.sides.observe import observe
from maxmig.parity.sides.start import Start
from maxmig.train.runtime import Runtime

SCHEMA_VERSION = 1
KINDS = {
    "rerun": "the same compiled program, run twice",
    "rejit": "the same program, traced and compiled again",
    "split": "a batch row by row instead of whole",
    "jitter": "every weight moved up or down by one unit in its last place",
}
_WANTED = frozenset({"logits", "loss", "gradients"})

Flat = Mapping[str, np.ndarray]
Key = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Scatter:
    """What one kind of repetition changed.

    Attributes:
        kind: one of `KINDS`.
        measurements: by check.
    """

    kind: str
    measurements: Mapping[str, Sequence[Measurement]]

    @property
    def exact(self) -> bool:
        """Whether nothing changed."""
        return all(m.exact for ms in self.measurements.values() for m in ms)

    @property
    def largest(self) -> Mapping[str, Measurement]:
        """The measurement of each check that changed most."""
        return {
            check: max(ms, key=lambda m: m.rel_l2) for check, ms in self.measurements.items() if ms
        }

    def document(self) -> dict[str, Any]:
        """For the file: arrays that did not change are not listed."""
        worst: dict[tuple[str, str], float] = {}
        for check, ms in self.measurements.items():
            for m in ms:
                if m.rel_l2:
                    key = (check, m.path)
                    worst[key] = max(worst.get(key, 0.0), m.rel_l2)
        rows = [{"check": c, "path": p, "rel_l2": value} for (c, p), value in worst.items()]
        compared = sum(len(ms) for ms in self.measurements.values())
        return {
            "meaning": KINDS[self.kind],
            "exact": self.exact,
            "compared": compared,
            "arrays": rows,
        }


@dataclasses.dataclass(frozen=True)
class Scatters:
    """All kinds of one side."""

    kinds: tuple[Scatter, ...]
    document: Mapping[str, Any]

    def write(self, path: str | Path) -> Path:
        """Writes the file that `parity run --noise` reads.

        Raises:
            DataError: it cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.document, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise errors.DataError(f"{path}: expected to write the noise there: {error}") from error
        return path


def run(
    cfg: Config,
    *,
    stage: Stage | str = Stage.LINEN,
    checkpoint: str | Path | None = None,
    devices: Sequence[jax.Device] | None = None,
    command: str = "",
    note: Callable[[str], object] = lambda text: None,
) -> Scatters:
    """Measures the noise of one rung: logits, loss and gradients.

    Args:
        cfg: the configuration; its flags are replaced by the rung's.
        stage: the rung.
        checkpoint: the weights; None initialises once.
        devices: all of this host by default.
        command: what repeats it, for the file.
        note: is told what is going on.
    """
    rung = Stage(stage)
    request = Request(cfg, rung, rung, checkpoint, steps=0, devices=devices, note=note)
    request.check()
    runtime, again = request.runtimes()
    start = request.start(runtime)
    given = batches.make(runtime.cfg, num_devices=runtime.devices, steps=0)
    note(f"{rung.value}: once")
    first = _seen(runtime, start.state, given)
    found = []
    for kind, other in _others(runtime, again, start, given, note):
        found.append(Scatter(kind, _hold(first, other)))
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": "maxmig.parity.noise",
        "command": command,
        "stage": runtime.proof.stage.value,
        "config_digest": card.config_digest(cfg),
        "checkpoint_hash": start.hash,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": attest.environment(),
        "noise": {scatter.kind: scatter.document() for scatter in found},
    }
    return Scatters(tuple(found), document)


def _others(
    runtime: Runtime,
    again: Runtime,
    start: Start,
    given: Inputs,
    note: Callable[[str], object],
) -> Iterator[tuple[str, Mapping[Key, np.ndarray]]]:
    note(KINDS["rerun"])
    yield "rerun", _seen(runtime, start.state, given)
    note(KINDS["split"])
    yield "split", _by_row(runtime, start.state, given)
    note(KINDS["jitter"])
    yield "jitter", _seen(runtime, jittered(start.state), given)
    note(KINDS["rejit"])
    jax.clear_caches()
    yield "rejit", _seen(again, start.state, given)


def _seen(runtime: Runtime, state: Flat, given: Inputs) -> dict[Key, np.ndarray]:
    found = observe(runtime, state, given, _WANTED)
    return {o.key: o.array for o in found if o.check in _WANTED}


def _by_row(runtime: Runtime, state: Flat, given: Inputs) -> dict[Key, np.ndarray]:
    """Logits, a row a device at a time."""
    params = runtime.params(runtime.leaves({p: np.array(a) for p, a in state.items()}))
    found = {}
    for item, batch in given.batches.items():
        rows = batch["inputs"].shape[0]
        parts = [
            np.asarray(
                runtime.logits(
                    params,
                    runtime.place({k: x[at : at + runtime.devices] for k, x in batch.items()}),
                )
            )
            for at in range(0, rows, runtime.devices)
        ]
        found["logits", item, "logits"] = np.concatenate(parts)
    return found


def jittered(state: Flat) -> dict[str, np.ndarray]:
    """Every parameter moved up or down by one unit in its last place."""
    rng = np.random.default_rng(0)
    found = {}
    for path, leaf in state.items():
        if path.startswith(("params/", "nnx/params/")) and leaf.dtype.kind not in "iub":
            up = rng.integers(0, 2, leaf.shape).astype(bool)
            ends = [np.full_like(leaf, end) for end in (np.inf, -np.inf)]
            found[path] = np.where(up, np.nextafter(leaf, ends[0]), np.nextafter(leaf, ends[1]))
        else:
            found[path] = leaf
    return found


def _hold(
    first: Mapping[Key, np.ndarray], other: Mapping[Key, np.ndarray]
) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = {}
    for (check, item, path), array in other.items():
        m = measure.compare(item, path, first[check, item, path], array)
        found.setdefault(check, []).append(m)
    return found
