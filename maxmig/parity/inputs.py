"""What both sides are fed: batches of the configuration's own data, and one made to be awkward."""

import dataclasses
import itertools

import numpy as np

from maxmig import data
from maxmig.config import Config
from maxmig.parity.results import Input

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The batches of a run.

    Attributes:
        batches: {name: batch} for logits, loss and gradients.
        training: a batch for each optimizer step.
        described: what they are, for a report.
    """

    batches: dict[str, Batch]
    training: tuple[Batch, ...]
    described: tuple[Input, ...]


def make(cfg: Config, *, num_devices: int, steps: int) -> Inputs:
    """The first batches of the training data, and a packed and padded one of the same shape.

    Raises:
        ConfigError: the data settings contradict each other; DataError: there are not enough data.
    """
    rows = cfg.train.global_batch(num_devices)
    with data.make(cfg, global_batch=rows) as loader:
        real = tuple(loader.batches(max(steps, 1)))
        source = loader.summary
    awkward = packed(
        rows,
        cfg.train.max_target_length,
        cfg.model.vocab_size,
        seed=cfg.train.init_weights_seed,
    )
    batches = {"real": real[0], "packed": awkward}
    made = f"random tokens, seed {cfg.train.init_weights_seed}"
    return Inputs(
        batches,
        real[:steps],
        (describe("real", source, real[0]), describe("packed", made, awkward)),
    )


def packed(rows: int, length: int, vocab: int, *, seed: int) -> Batch:
    """Random tokens in rows of several segments with a padded tail; the last of many rows is empty.

    Positions start again in each segment, so that masks, positions and loss weights all matter.
    """
    rng = np.random.default_rng(seed)
    batch = {key: np.zeros((rows, length), np.int32) for key in data.KEYS}
    for row in range(rows):
        if rows >= 4 and row == rows - 1:
            break
        used = max(1, length - int(rng.integers(1, max(2, length // 4 + 1))))
        pieces = min(used, 2 + row % 3)
        inner = np.sort(rng.choice(np.arange(1, used), pieces - 1, replace=False))
        borders = [0, *inner.tolist(), used]
        for number, (start, end) in enumerate(itertools.pairwise(borders), 1):
            tokens = rng.integers(min(1, vocab - 1), vocab, end - start + 1)
            batch["inputs"][row, start:end] = tokens[:-1]
            batch["targets"][row, start:end] = tokens[1:]
            batch["inputs_position"][row, start:end] = np.arange(end - start)
            batch["targets_position"][row, start:end] = np.arange(1, end - start + 1)
            batch["inputs_segmentation"][row, start:end] = number
    batch["targets_segmentation"][:] = batch["inputs_segmentation"]
    return batch


def describe(name: str, source: str, batch: Batch) -> Input:
    """A batch in numbers."""
    segments = batch["inputs_segmentation"]
    return Input(
        name,
        source,
        rows=segments.shape[0],
        length=segments.shape[1],
        segments=sum(len(set(row.tolist()) - {0}) for row in segments),
        targets=int((batch["targets_segmentation"] != 0).sum()),
        padding=int((segments == 0).sum()),
    )
