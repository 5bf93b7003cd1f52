"""The loader: order, epochs, state and resume, hosts, workers, evaluation, synthetic data."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxmig import data
from maxmig.data import packing
from maxmig.data.loader import Loader
from maxmig.errors import DataError

Settings = Callable[..., Any]
Jsonl = Callable[[Sequence[str]], str]
BATCH = 4


@pytest.fixture
def small(settings: Settings, jsonl: Jsonl) -> Settings:
    """A corpus of 30 rows, which 4 does not divide: batches cross the border of epochs."""
    path = jsonl([f"{i:02d}" + chr(65 + i) * 31 for i in range(30)])
    return lambda **keys: settings(
        **{"dataset_type": "jsonl", "train_files": path, "eval_split_fraction": 0.0, **keys}
    )


def same(a: packing.Batch, b: packing.Batch) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def all_same(a: Sequence[packing.Batch], b: Sequence[packing.Batch]) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def names(batches: Sequence[packing.Batch]) -> list[str]:
    """The two first characters of each row: which document it is in the small corpus."""
    return [bytes(row[:2].tolist()).decode() for batch in batches for row in batch["inputs"]]


def test_batches_have_the_contract_shape(settings: Settings) -> None:
    batch = next(data.make(settings(), global_batch=BATCH))
    assert tuple(batch) == data.KEYS
    for array in batch.values():
        assert array.dtype == np.int32
        assert array.shape == (BATCH, 32)
        assert array.flags.c_contiguous and array.flags.writeable


def test_same_seed_same_batches(small: Settings) -> None:
    first, second = (list(data.make(small(), global_batch=BATCH).batches(20)) for _ in range(2))
    assert all_same(first, second)
    other = list(data.make(small(data_shuffle_seed=1), global_batch=BATCH).batches(20))
    assert not all_same(first, other)


def test_each_epoch_has_all_rows_in_an_order_of_its_own(small: Settings) -> None:
    given_out = names(list(data.make(small(), global_batch=BATCH).batches(15 * 3)))
    epochs = [tuple(given_out[i : i + 30]) for i in range(0, 180, 30)]
    assert all(Counter(epoch) == Counter(epochs[0]) for epoch in epochs)
    assert max(Counter(epochs[0]).values()) == 1
    assert len(set(epochs)) == 6


def test_seeds_do_not_repeat_each_others_epochs(small: Settings) -> None:
    def epochs(seed: int) -> set[tuple[str, ...]]:
        loader = data.make(small(data_shuffle_seed=seed), global_batch=30)
        return {tuple(names([batch])) for batch in loader.batches(5)}

    assert not epochs(0) & epochs(1)


def test_without_shuffle_rows_keep_the_order_of_the_corpus(small: Settings) -> None:
    loader = data.make(small(shuffle=False), global_batch=BATCH)
    expected = [f"{i % 30:02d}" for i in range(40)]
    assert names(list(loader.batches(10))) == expected


@pytest.mark.parametrize("taken", [0, 1, 6, 7, 8, 15, 23])
def test_resume_gives_the_batches_that_would_have_followed(small: Settings, taken: int) -> None:
    loader = data.make(small(), global_batch=BATCH)
    list(loader.batches(taken))
    state = json.loads(json.dumps(loader.state()))
    expected = list(loader.batches(20))
    fresh = data.make(small(), global_batch=BATCH)
    fresh.restore(state)
    assert fresh.state() == state
    assert all_same(list(fresh.batches(20)), expected)
    assert fresh.state() == loader.state()


@pytest.fixture(scope="module")
def walker(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Loader, list[packing.Batch]]:
    """A loader, and the batches that it gives from the start."""
    path = tmp_path_factory.mktemp("walk") / "corpus.txt"
    path.write_text("".join(chr(33 + i * 7 % 90) for i in range(700)))
    cfg = settings(train_files=str(path), eval_split_fraction=0.0)
    whole = list(data.make(cfg, global_batch=3).batches(70))
    return data.make(cfg, global_batch=3), whole


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6))
def test_any_walk_ends_where_its_state_says(
    walker: tuple[Loader, list[packing.Batch]], walk: list[tuple[int, bool]]
) -> None:
    loader, whole = walker
    loader.reset()
    place = 0
    states = [loader.state()]
    places = [0]
    for steps, back in walk:
        if back:
            loader.restore(states[steps % len(states)])
            place = places[steps % len(places)]
        got = list(loader.batches(steps))
        assert all_same(got, whole[place : place + steps])
        place += steps
        states.append(loader.state())
        places.append(place)


def test_state_counts_what_was_given_not_what_was_prepared(small: Settings) -> None:
    loader = data.make(small(), global_batch=BATCH)
    assert loader.state()["rows"] == 0
    next(loader)
    assert loader.state()["rows"] == BATCH
    assert loader.epoch == BATCH / 30


def test_training_may_resume_with_another_batch_size(small: Settings) -> None:
    loader = data.make(small(), global_batch=4)
    list(loader.batches(3))
    wide = data.make(small(), global_batch=6)
    wide.restore(loader.state())
    assert names(list(wide.batches(4))) == names(list(loader.batches(6)))


def test_hosts_load_parts_of_one_batch(small: Settings) -> None:
    whole = data.make(small(), global_batch=6)
    parts = [data.make(small(), global_batch=6, shard_index=i, shard_count=3) for i in range(3)]
    for expected in whole.batches(12):
        got = [next(part) for part in parts]
        joined = {key: np.concatenate([part[key] for part in got]) for key in data.KEYS}
        assert same(joined, expected)
    assert {json.dumps(part.state()) for part in parts} == {json.dumps(whole.state())}


def test_hosts_end_evaluation_together(settings: Settings) -> None:
    parts = [
        list(data.make(settings(), global_batch=10, split="eval", shard_index=i, shard_count=2))
        for i in range(2)
    ]
    whole = list(data.make(settings(), global_batch=10, split="eval"))
    assert len(parts[0]) == len(parts[1]) == len(whole)
    assert np.array_equal(
        np.concatenate([parts[0][-1]["targets"], parts[1][-1]["targets"]]), whole[-1]["targets"]
    )


def test_workers_change_nothing(
    small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alone = data.make(small(), global_batch=BATCH)
    with data.make(small(grain_worker_count=2), global_batch=BATCH) as helped:
        assert all_same(list(helped.batches(9)), list(alone.batches(9)))
        state = helped.state()
        assert state == alone.state()
        expected = list(alone.batches(3))
        assert all_same(list(helped.batches(3)), expected)
        helped.restore(state)
        assert all_same(list(helped.batches(3)), expected)
        assert [*tmp_path.glob("maxmig-data-*/tokens.npy")]
    assert not [*tmp_path.glob("maxmig-data-*")]


def test_workers_end_evaluation(settings: Settings) -> None:
    keys: dict[str, Any] = {"global_batch": 64, "split": "eval"}
    with data.make(settings(grain_worker_count=2), **keys) as helped:
        assert all_same(list(helped), list(data.make(settings(), **keys)))


@pytest.mark.parametrize("packed", [True, False])
def test_evaluation_counts_each_target_once(settings: Settings, packed: bool) -> None:
    loader = data.make(settings(packing=packed), global_batch=7, split="eval")
    batches = list(loader)
    assert {batch["inputs"].shape for batch in batches} == {(7, 32)}
    counted = sum(int((batch["targets_segmentation"] != 0).sum()) for batch in batches)
    tokens = int(loader.summary.split(" tokens")[0].split()[-1])
    documents = int(loader.summary.split(" documents")[0].split()[-1])
    assert counted == tokens - documents


def test_evaluation_ends_and_starts_again(settings: Settings) -> None:
    loader = data.make(settings(), global_batch=16, split="eval")
    first = list(loader)
    assert first and next(loader, None) is None
    loader.reset()
    assert all_same(list(loader.batches(2)), first[:2])
    state = loader.state()
    assert all_same(list(loader), first[2:])
    loader.restore(state)
    assert all_same(list(loader), first[2:])


def test_default_is_the_builtin_corpus(settings: Settings) -> None:
    loader = data.make(settings(max_target_length=256), global_batch=8)
    assert loader.summary.startswith("train data: pydoc_data.topics, ")
    text = bytes(next(loader)["inputs"].astype(np.uint8).reshape(-1)).decode("ascii", "replace")
    assert " the " in text


def test_bos_and_eos_surround_each_document(settings: Settings, jsonl: Jsonl) -> None:
    cfg = settings(
        dataset_type="jsonl",
        train_files=jsonl(["ab", "", "cde"]),
        eval_split_fraction=0.0,
        vocab_size=300,
        add_bos=True,
        add_eos=True,
        shuffle=False,
        max_target_length=8,
    )
    batch = next(data.make(cfg, global_batch=1))
    assert batch["inputs"].tolist() == [[256, 97, 98, 256, 99, 100, 101, 0]]
    assert batch["targets"].tolist() == [[97, 98, 257, 99, 100, 101, 257, 0]]
    assert batch["targets_segmentation"].tolist() == [[1, 1, 1, 2, 2, 2, 2, 0]]
    assert batch["inputs_position"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 0]]


def test_golden_order(small: Settings) -> None:
    """Resumes across versions of maxmig, NumPy and Grain need the same order for ever.

    When this fails, old checkpoints would go on with other data: raise loader.FORMAT with it.
    """
    got = names(list(data.make(small(), global_batch=10).batches(4)))
    assert got[:10] == GOLDEN_FIRST
    assert got[30:] == GOLDEN_SECOND_EPOCH


GOLDEN_FIRST = ["10", "19", "01", "15", "16", "18", "22", "17", "26", "29"]
GOLDEN_SECOND_EPOCH = ["08", "28", "24", "10", "06", "09", "14", "27", "03", "15"]


def test_two_processes_agree(tmp_path: Path, root: Path) -> None:
    """Nothing depends on the hash seed of the interpreter or on what was opened before."""
    code = (
        "from maxmig import config, data\n"
        "cfg = config.load(None, ['vocab_size=256', 'max_target_length=32'])\n"
        "train = data.make(cfg, global_batch=4).batches(5)\n"
        "evaluation = data.make(cfg, global_batch=64, split='eval')\n"
        "print([b['inputs'].tolist() for b in [*train, *evaluation]])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and len(outputs.pop()) > 10_000


def test_importing_data_is_cheap(root: Path) -> None:
    code = (
        "import sys, maxmig.data, maxmig.data.tokenizer\n"
        "print({'jax', 'grain', 'pyarrow', 'tokenizers', 'flax'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


class TestSynthetic:
    def test_is_one_batch(self, settings: Settings) -> None:
        loader = data.make(settings(dataset_type="synthetic"), global_batch=2)
        first, second, third = loader.batches(3)
        assert same(first, second) and same(second, third)
        assert (first["inputs_segmentation"] == 1).all()
        assert (first["targets_segmentation"] == 1).all()
        assert (first["inputs_position"] == np.arange(32)).all()
        assert (first["targets_position"] == np.arange(1, 33)).all()
        assert (first["targets"][:, :-1] == first["inputs"][:, 1:]).all()
        assert first["inputs"].min() >= 0 and first["inputs"].max() < 256

    def test_depends_on_the_seed(self, settings: Settings) -> None:
        def batch(seed: int, split: Any = "train") -> packing.Batch:
            cfg = settings(dataset_type="synthetic", data_shuffle_seed=seed)
            return next(data.make(cfg, global_batch=2, split=split))

        assert same(batch(3), batch(3))
        assert not same(batch(3), batch(4))
        assert not same(batch(3), batch(3, "eval"))

    def test_evaluation_ends(self, settings: Settings) -> None:
        cfg = settings(dataset_type="synthetic")
        assert len(list(data.make(cfg, global_batch=2, split="eval"))) == 1

    def test_resumes(self, settings: Settings) -> None:
        cfg = settings(dataset_type="synthetic")
        loader = data.make(cfg, global_batch=2)
        list(loader.batches(5))
        fresh = data.make(cfg, global_batch=2)
        fresh.restore(loader.state())
        assert fresh.state() == loader.state()
        other = data.make(settings(dataset_type="synthetic", data_shuffle_seed=1), global_batch=2)
        with pytest.raises(DataError, match="corpus: "):
            other.restore(loader.state())

    def test_is_maxtexts_own_batch(self, settings: Settings) -> None:
        """Row starts of MaxText's synthetic batch [2, 64] with 256 tokens (PRNGKey(0), unsafe_rbg).

        MaxText drew them at commit e591f30 with jax 0.11.1 on a CPU.
        """
        cfg = settings(dataset_type="synthetic", max_target_length=64)
        batch = next(data.make(cfg, global_batch=2))
        assert batch["inputs"][:, :8].tolist() == MAXTEXT_INPUTS
        assert batch["targets"][:, -4:].tolist() == MAXTEXT_TARGETS


MAXTEXT_INPUTS = [[252, 31, 175, 162, 97, 14, 34, 227], [94, 107, 54, 16, 9, 83, 28, 71]]
MAXTEXT_TARGETS = [[80, 92, 64, 67], [0, 12, 115, 30]]


def test_state_is_refused_by_another_configuration(settings: Settings, small: Settings) -> None:
    state = data.make(small(), global_batch=BATCH).state()
    cases = {
        "data_shuffle_seed: 0 in the state, 7 now": small(data_shuffle_seed=7),
        "max_target_length: 32 in the state, 16 now": small(max_target_length=16),
        "packing: True in the state, False now": small(packing=False),
        "shuffle: True in the state, False now": small(shuffle=False),
        "corpus: 990 tokens, digest ": settings(),
    }
    for message, cfg in cases.items():
        loader = data.make(cfg, global_batch=BATCH)
        with pytest.raises(DataError, match="belongs to another configuration") as error:
            loader.restore(state)
        assert message in str(error.value)
        assert "load_parameters_path" in str(error.value)
        assert error.value.exit_code == 4
        assert loader.state()["rows"] == 0


def test_state_of_the_other_split_is_refused(settings: Settings) -> None:
    evaluation = data.make(settings(), global_batch=BATCH, split="eval")
    with pytest.raises(DataError, match="split: train in the state, eval now"):
        evaluation.restore(data.make(settings(), global_batch=BATCH).state())


def test_state_holds_when_files_move(small: Settings, tmp_path: Path) -> None:
    loader = data.make(small(), global_batch=BATCH)
    next(loader)
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(Path(small().data.train_files).read_bytes())
    fresh = data.make(small(train_files=str(moved)), global_batch=BATCH)
    fresh.restore(loader.state())
    assert same(next(fresh), next(loader))


@pytest.mark.parametrize(
    "state",
    [
        {},
        None,
        [1],
        {"format": "maxmig-data/1", "rows": 4},
        {"format": "maxmig-data/1", "rows": -4, "identity": {}},
        {"format": "maxmig-data/1", "rows": 1.5, "identity": {}},
        {"format": "other", "rows": 4, "identity": {}},
        {"next_index": 12},
    ],
)
def test_damaged_state_is_refused(small: Settings, state: Any) -> None:
    loader = data.make(small(), global_batch=BATCH)
    with pytest.raises(DataError, match="not one of maxmig: expected format 'maxmig-data/1'"):
        loader.restore(state)
    assert same(next(loader), next(data.make(small(), global_batch=BATCH)))


def test_islice_does_not_lose_a_batch(small: Settings) -> None:
    loader = data.make(small(), global_batch=BATCH)
    parts = [*itertools.islice(loader, 3), *loader.batches(2), next(loader)]
    assert all_same(parts, list(data.make(small(), global_batch=BATCH).batches(6)))
