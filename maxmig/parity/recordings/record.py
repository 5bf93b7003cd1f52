"""Saves what one side computes, to be held against another machine, or another day."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maxmig.config import Config, Stage
from maxmig.parity.recordings.recording import BATCH, CONFIG, MEBIBYTE, STATE, TRAINING, Writer
from maxmig.parity.reports import card
from maxmig.parity.rungs import attest
from maxmig.parity.rungs.request import Request
from maxmig.parity.sides import inputs as batches
from maxmig.parity.sides.inputs import Inputs
from maxmig.parity.sides.observe import observe


def run(
    cfg: Config,
    folder: str | Path,
    *,
    stage: Stage | str = Stage.LINEN,
    checkpoint: str | Path | None = None,
    steps: int = 5,
    tokens: int | None = None,
    max_bytes: int = 256 * MEBIBYTE,
    devices: Sequence[jax.Device] | None = None,
    command: str = "",
    note: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Records everything that L2 compares of one rung.

    Args:
        cfg: the configuration; its flags are replaced by the rung's.
        folder: where to; it must be new or empty.
        stage: the rung.
        checkpoint: the weights; None initialises once.
        steps: optimizer steps.
        tokens: length of a further, unbroken batch.
        max_bytes: of all arrays together; what does not fit is hashed and sampled. Batches and
            starting state come first, since nothing can be compared without them.
        devices: all of this host by default.
        command: what repeats it.
        note: is told what is going on.

    Returns:
        The manifest.

    Raises:
        DataError: the folder is not empty, cannot be written, or the batches and the starting state
            alone are larger than `max_bytes`.
    """
    rung = Stage(stage)
    request = Request(cfg, rung, rung, checkpoint, steps, tokens=tokens, devices=devices, note=note)
    request.check()
    store = Writer(Path(folder), max_bytes)
    runtime = request.runtimes()[0]
    start = request.start(runtime)
    given = batches.make(runtime.cfg, num_devices=runtime.devices, steps=steps, tokens=tokens)
    note(f"{rung.value}: logits, hidden states, losses, gradients, {steps} steps")
    for key, array in _given(start.state, given):
        store.add(key, array, required=True)
    for o in observe(runtime, start.state, given, request.wanted):
        if o.check != "start":  # the state is there already
            store.add(o.key, o.array)
    (store.folder / CONFIG).write_text(runtime.cfg.dump(), encoding="utf-8")
    side = attest.prove(runtime)
    manifest = {
        "command": command,
        "config_digest": card.config_digest(cfg),
        "side": dataclasses.asdict(side),
        "origin": dataclasses.asdict(start.origin),
        "inputs": [dataclasses.asdict(i) for i in given.described],
        "steps": steps,
    }
    return store.finish(manifest)


def _given(
    state: Mapping[str, np.ndarray], given: Inputs
) -> Iterable[tuple[tuple[str, str, str], np.ndarray]]:
    for item, batch in given.batches.items():
        yield from (((BATCH, item, key), array) for key, array in batch.items())
    for number, batch in enumerate(given.training):
        item = TRAINING.format(number)
        yield from (((BATCH, item, key), array) for key, array in batch.items())
    yield from (((STATE, STATE, path), leaf) for path, leaf in state.items())
