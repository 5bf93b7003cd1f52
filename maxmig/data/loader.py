"""The loader: a Grain pipeline over planned rows, whose whole state is how many rows it gave out.

Batches are random access, so the state does not depend on worker processes or the number of hosts,
and a resume is exact and reads nothing twice.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grain
from absl import flags

from maxmig.data import batches as batching
from maxmig.data import corpus as corpora
from maxmig.data import files, packing, synthetic
from maxmig.errors import ConfigError, DataError

if TYPE_CHECKING:
    from maxmig.config import Config

FORMAT = "maxmig-data/1"
_ANEW = "To start the data anew, load only the parameters (load_parameters_path)."


def make(
    cfg: Config, *, global_batch: int, split: str, shard_index: int = 0, shard_count: int = 1
) -> Loader:
    """See `maxmig.data.make`."""
    _check_shape(global_batch, split, shard_index, shard_count)
    data, length = cfg.data, cfg.train.max_target_length
    seed: int = cfg.train.data_shuffle_seed
    random = data.dataset_type == "synthetic"
    if random:
        source = synthetic.corpus(
            seed=seed + (split == "eval"),
            rows=global_batch,
            length=length,
            vocab_size=cfg.model.vocab_size,
        )
    else:
        source = _text(cfg, split)
    packed = data.packing and not random
    shuffled = data.shuffle and not random and split == "train"
    rows = packing.Rows(source.tokens, source.spans, length, packed=packed)
    _check_size(source, rows, split, global_batch, length)
    return Loader(
        batching.Batches(
            rows,
            global_batch=global_batch,
            shard=(shard_index, shard_count),
            shuffle_seed=seed if shuffled else None,
            repeat=split == "train",
        ),
        workers=data.grain_worker_count,
        identity={
            "split": split,
            "files": source.name,
            "corpus": f"{source.num_tokens} tokens, digest {source.digest}",
            "max_target_length": length,
            "packing": packed,
            "shuffle": shuffled,
            **({"data_shuffle_seed": seed} if shuffled else {}),
            **({"global_batch": global_batch} if split == "eval" else {}),
        },
        summary=(
            f"{split} data: {source.name}, {len(source.spans)} documents, "
            f"{source.num_tokens} tokens, {rows.num_rows} rows of {length}, "
            f"{1 - rows.num_targets / (rows.num_rows * length):.1%} padding"
        ),
    )


class Loader:
    """An iterator of batches that can say where it is and go there.

    A batch is a dict of int32 arrays [global_batch // shard_count, max_target_length].

    Attributes:
        summary: One line for a log: what is loaded and how much.
        rows_per_epoch: Rows that hold text in one pass.
    """

    def __init__(
        self,
        batches: batching.Batches,
        *,
        workers: int,
        identity: Mapping[str, Any],
        summary: str,
    ):
        self.summary = summary
        self.rows_per_epoch = batches.rows.num_rows
        self._batches = batches
        self._workers = workers
        self._identity = dict(identity)
        self._given = 0
        self._iterator: Any = None
        if workers:
            folder = tempfile.TemporaryDirectory(prefix="maxmig-data-")
            self._cleanup = weakref.finalize(self, folder.cleanup)
            batches.rows.share(Path(folder.name) / "tokens.npy")

    @property
    def epoch(self) -> float:
        """How many times the data have been given out."""
        return self._given / self.rows_per_epoch

    def __iter__(self) -> Iterator[packing.Batch]:
        return self

    def __next__(self) -> packing.Batch:
        if self._iterator is None:
            with _children_ignore_sigint() if self._workers else contextlib.nullcontext():
                self._iterator = iter(self._open())
                batch = next(self._iterator)
        else:
            batch = next(self._iterator)
        self._given += self._batches.global_batch
        return batch

    def batches(self, n: int) -> Iterator[packing.Batch]:
        """The next `n` batches, or fewer where the data end; goes on from the present place."""
        return itertools.islice(self, n)

    def reset(self) -> None:
        """Goes back to the first batch."""
        self._go(0)

    def state(self) -> dict[str, Any]:
        """Where the loader is, as a JSON document: what follows the last batch given out."""
        return {"format": FORMAT, "rows": self._given, "identity": dict(self._identity)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes where `state` was taken: the next batch is the one that would have followed.

        A state holds for any number of hosts and workers. For training the size of the batch may
        change too; the rows then follow in the same order.

        Raises:
            DataError: The state is damaged, or was taken from other data or settings.
        """
        fields = state if isinstance(state, Mapping) else {}
        rows, identity = fields.get("rows"), fields.get("identity")
        if (
            fields.get("format") != FORMAT
            or not isinstance(identity, Mapping)
            or not isinstance(rows, int)
            or rows < 0
        ):
            raise DataError(
                f"the data state is not one of maxmig: expected format {FORMAT!r} with 'rows' and "
                f"'identity', got {_brief(state)}. {_ANEW}"
            )
        now = self._identity
        different = {key for key in {*now, *identity} if identity.get(key) != now.get(key)}
        found = [
            f"  {key}: {identity.get(key)} in the state, {now.get(key)} now"
            for key in sorted(different)
        ]
        if different - {"files"}:  # Files may move, so long as what is in them stays.
            raise DataError(
                "the data state belongs to another configuration:\n"
                + "\n".join(found)
                + "\nResume with the settings and files of that run (the built-in corpus differs "
                f"between versions of Python). {_ANEW}"
            )
        self._go(rows)

    def close(self) -> None:
        """Ends worker processes and removes their files. The loader must not be used afterwards."""
        self._go(self._given)
        if self._workers:
            self._cleanup()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _go(self, rows: int) -> None:
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None
        self._given = rows

    def _open(self) -> Any:
        """The pipeline from the present place."""
        pipeline = grain.MapDataset.source(self._batches.starting_at(self._given))
        # Rows are in memory: a thread would only take the interpreter from the training loop.
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        stream = pipeline.to_iter_dataset(options)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # Grain's workers read flags; a library may have none.
                flags.FLAGS.mark_as_parsed()
            processes = grain.MultiprocessingOptions(
                num_workers=self._workers, per_worker_buffer_size=2
            )
            stream = stream.mp_prefetch(processes)
        return stream


@contextlib.contextmanager
def _children_ignore_sigint() -> Iterator[None]:
    """Processes that are started here are not interrupted by Ctrl-C, which a terminal sends to all.

    Only their parent knows when to end, and ends them. What is ignored is inherited by a child.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _text(cfg: Config, split: str) -> corpora.Corpus:
    data = cfg.data
    apart = bool(data.eval_files)
    evaluating = split == "eval"
    key = "eval_files" if apart and evaluating else "train_files"
    patterns = getattr(data, key)
    if not patterns and data.dataset_type != "text":
        raise ConfigError(
            f"dataset_type={data.dataset_type} needs {key}, which is empty. Give its files; only "
            "text (the built-in corpus) and synthetic can run without."
        )
    whole = corpora.read(
        corpora.Spec(
            kind=data.dataset_type,
            files=tuple(map(corpora.stamp, files.find(patterns, key))) if patterns else (),
            field=data.text_field,
            tokenizer_type=data.tokenizer_type,
            tokenizer_path=data.tokenizer_path,
            vocab_size=cfg.model.vocab_size,
            add_bos=data.add_bos,
            add_eos=data.add_eos,
        )
    )
    if apart:
        return whole
    if evaluating and data.eval_split_fraction <= 0:
        raise ConfigError(
            "there are no evaluation data: eval_files is empty and eval_split_fraction=0. Set one "
            "of them, or eval_interval=-1."
        )
    return corpora.split(whole, data.eval_split_fraction)[evaluating]


def _check_shape(global_batch: int, split: str, shard_index: int, shard_count: int) -> None:
    if split not in ("train", "eval"):
        raise ConfigError(f"split: expected 'train' or 'eval', got {split!r}.")
    if global_batch < 1 or shard_count < 1 or global_batch % shard_count:
        raise ConfigError(
            f"a global batch of {global_batch} rows cannot be divided among {shard_count} hosts. "
            "Set per_device_batch_size so that each host has the same whole number of rows."
        )
    if not 0 <= shard_index < shard_count:
        raise ConfigError(f"shard_index: expected 0 to {shard_count - 1}, got {shard_index}.")


def _check_size(
    source: corpora.Corpus, rows: packing.Rows, split: str, global_batch: int, length: int
) -> None:
    if rows.num_rows >= (global_batch if split == "train" else 1):
        return
    has = f"the {split} data ({source.name}) have {source.num_tokens} tokens"
    if split == "eval":
        raise DataError(
            f"{has}, expected at least one document of 2. Set eval_files, or a larger "
            "eval_split_fraction."
        )
    raise DataError(
        f"{has} in {rows.num_rows} rows: less than one batch, which needs {global_batch * length} "
        f"tokens ({global_batch} rows of {length}). Give more text, or lower per_device_batch_size "
        "or max_target_length."
    )


def _brief(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
