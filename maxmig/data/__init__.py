"""Text in, batches out: `make` opens a loader, `maxmig.data.tokenizer.load` the matching tokenizer.

A batch is a dict of int32 NumPy arrays [batch, length] under MaxText's keys; see docs/data.md.
Nothing heavy is imported here: a command line that only parses its arguments stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from maxmig.config import Config
    from maxmig.data.loader import Loader

KEYS = (
    "inputs",
    "inputs_position",
    "inputs_segmentation",
    "targets",
    "targets_position",
    "targets_segmentation",
)


def make(
    cfg: Config,
    *,
    global_batch: int,
    split: Literal["train", "eval"] = "train",
    shard_index: int = 0,
    shard_count: int = 1,
) -> Loader:
    """Opens the data that a configuration names.

    Args:
        cfg: The configuration (groups `data`, `train` and `model` are read).
        global_batch: Rows of one batch over all hosts.
        split: "train" repeats for ever, shuffled anew each epoch; "eval" ends after one pass.
        shard_index: Which host this is (`jax.process_index()`).
        shard_count: How many hosts there are (`jax.process_count()`); each loads its own
            `global_batch // shard_count` rows, and their concatenation is the global batch.

    Raises:
        ConfigError: The settings contradict each other or the tokenizer.
        DataError: A file is missing, unreadable or empty, or there is less than one batch in it.
    """
    from maxmig.data import loader

    return loader.make(
        cfg,
        global_batch=global_batch,
        split=split,
        shard_index=shard_index,
        shard_count=shard_count,
    )
