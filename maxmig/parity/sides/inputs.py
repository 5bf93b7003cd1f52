"""What both sides are fed: batches of the configuration's own data, and one made to be awkward."""

import dataclasses
import itertools

import numpy as np

from maxmig import data, errors
from maxmig.config import Config
from maxmig.parity.findings.subject import Input

Batch = dict[str, np.ndarray]

REAL, PACKED, LONG = "real", "packed", "long"


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


def make(cfg: Config, *, num_devices: int, steps: int, tokens: int | None = None) -> Inputs:
    """The first batches of the training data, a packed and padded one, and perhaps a long one.

    Args:
        cfg: the configuration.
        num_devices: on how many devices a batch is spread.
        steps: batches for as many optimizer steps.
        tokens: length of one more batch, of random tokens without a break: faults of rotary
            positions grow with the distance. None leaves it out.

    Raises:
        ConfigError: the data settings contradict each other, or the model has no positions for
            `tokens`.
        DataError: there are not enough data, or a token is outside the vocabulary.
    """
    rows = cfg.train.global_batch(num_devices)
    with data.make(cfg, global_batch=rows) as loader:
        real = tuple(loader.batches(max(steps, 1)))
        source = loader.summary
    for number, batch in enumerate(real):
        check_tokens(f"{source}, batch {number}", batch, cfg.model.vocab_size)
    seed = cfg.train.init_weights_seed
    made = f"random tokens, seed {seed}"
    length, vocab = cfg.train.max_target_length, cfg.model.vocab_size
    batches = {REAL: real[0], PACKED: packed(rows, length, vocab, seed=seed)}
    sources = {REAL: source, PACKED: made}
    if tokens is not None:
        _check_length(cfg, tokens)
        batches[LONG] = unbroken(num_devices, tokens, vocab, seed=seed)
        sources[LONG] = f"{made}, one segment a row"
    described = tuple(describe(name, sources[name], batch) for name, batch in batches.items())
    return Inputs(batches, real[:steps], described)


def check_tokens(name: str, batch: Batch, vocab: int) -> None:
    """Refuses tokens that the model has no row for: a lookup would clip them, and hide it.

    Raises:
        DataError: there is one.
    """
    for key in ("inputs", "targets"):
        outside = (batch[key] < 0) | (batch[key] >= vocab)
        if outside.any():
            row, place = (int(i) for i in np.argwhere(outside)[0])
            raise errors.DataError(
                f"{name}: {key}[{row}, {place}] is {int(batch[key][row, place])}, but the "
                f"vocabulary is 0 to {vocab - 1} (vocab_size); {int(outside.sum())} tokens are "
                "outside of it: tokenizer and model do not belong together"
            )


def _check_length(cfg: Config, tokens: int) -> None:
    from maxmig import models

    table = models.build(cfg).decoder.positions
    if table is not None and tokens > table.rows:
        raise errors.ConfigError(
            f"--tokens {tokens}: the model has positions for {table.rows} tokens only "
            "(trainable_position_size); ask for at most as many"
        )


def unbroken(rows: int, length: int, vocab: int, *, seed: int) -> Batch:
    """Random tokens in rows of one segment each, without padding."""
    rng = np.random.default_rng([seed, length])
    tokens = rng.integers(min(1, vocab - 1), vocab, (rows, length + 1)).astype(np.int32)
    places = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    ones = np.ones((rows, length), np.int32)
    values = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "inputs_position": places,
        "targets_position": places + 1,
        "inputs_segmentation": ones,
        "targets_segmentation": ones,
    }
    return {key: np.array(values[key], np.int32) for key in data.KEYS}


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
