"""The split into training and evaluation: disjoint, deterministic, about the asked size."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maxmig import data
from maxmig.data import corpus as corpora
from maxmig.errors import ConfigError, DataError

Settings = Callable[..., Any]


def corpus(documents: Sequence[Sequence[int]], kind: Any = np.uint8) -> corpora.Corpus:
    ends = np.cumsum([0, *map(len, documents)])
    tokens = np.concatenate([np.asarray(document, kind) for document in documents])
    return corpora.Corpus("test", tokens, np.stack([ends[:-1], ends[1:]], axis=1))


def contents(part: corpora.Corpus) -> list[tuple[int, ...]]:
    return [tuple(document.tolist()) for document in part]


def many(count: int, length: int = 40) -> list[list[int]]:
    generator = np.random.RandomState(0)
    return [generator.randint(0, 256, size=length).tolist() for _ in range(count)]


def covered(part: corpora.Corpus) -> list[int]:
    """The place of each token in the array of tokens."""
    return [place for start, end in part.spans.tolist() for place in range(start, end)]


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), min_size=1, max_size=30),
    st.sampled_from([0.01, 0.05, 0.3, 0.9]),
)
def test_parts_are_disjoint_and_whole(documents: list[list[int]], fraction: float) -> None:
    whole = corpus(documents)
    training, evaluation = corpora.split(whole, fraction)
    both = covered(training) + covered(evaluation)
    assert sorted(both) == list(range(whole.num_tokens))
    assert training.num_tokens >= 1
    # No span reaches over the border of a document.
    borders = set(whole.spans[:, 0].tolist())
    for start, end in [*training.spans.tolist(), *evaluation.spans.tolist()]:
        assert not borders & set(range(start + 1, end))


@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.2, 0.5])
def test_documents_stay_whole_and_the_share_is_right(fraction: float) -> None:
    whole = corpus(many(200))
    training, evaluation = corpora.split(whole, fraction)
    assert sorted(contents(training) + contents(evaluation)) == sorted(contents(whole))
    assert evaluation.num_tokens == pytest.approx(whole.num_tokens * fraction, rel=0.3)


def test_choice_depends_on_content_only() -> None:
    documents = many(100)
    _, first = corpora.split(corpus(documents), 0.1)
    _, turned = corpora.split(corpus(documents[::-1], np.int32), 0.1)
    assert sorted(contents(first)) == sorted(contents(turned))


def test_equal_documents_stay_together() -> None:
    documents = many(60)
    training, evaluation = corpora.split(corpus(documents * 3), 0.1)
    assert evaluation.num_tokens
    assert not set(contents(training)) & set(contents(evaluation))


@pytest.mark.parametrize(
    "documents",
    [
        [list(range(250)) * 40],
        [list(range(250)) * 40, list(range(3))],
        [[7] * 10_000],
        [[7] * 100] * 100,
    ],
    ids=["one", "one and a crumb", "one of equal bytes", "equal ones"],
)
def test_blocks_where_documents_give_no_share(documents: list[list[int]]) -> None:
    training, evaluation = corpora.split(corpus(documents), 0.05)
    total = training.num_tokens + evaluation.num_tokens
    assert evaluation.num_tokens == pytest.approx(total * 0.05, rel=0.3)


def test_blocks_are_joined_again() -> None:
    whole = corpus([np.random.RandomState(1).randint(0, 256, 50_000).tolist()])
    training, evaluation = corpora.split(whole, 0.05)
    # Each block of the evaluation cuts the document once: at most one piece more than blocks.
    assert len(training.spans) <= len(evaluation.spans) + 1
    assert (training.spans[1:, 0] > training.spans[:-1, 1]).all()


def test_no_share_no_evaluation() -> None:
    whole = corpus(many(3))
    training, evaluation = corpora.split(whole, 0.0)
    assert training is whole and not len(evaluation.spans)


def test_split_reaches_the_loader(settings: Settings, tmp_path: Path) -> None:
    lines = [f"document number {i} says {i * i}" for i in range(200)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))

    def texts(split: Any) -> set[bytes]:
        cfg = settings(dataset_type="jsonl", train_files=str(path), packing=False, shuffle=False)
        loader = data.make(cfg, global_batch=1, split=split)
        rows = [next(loader) for _ in range(loader.rows_per_epoch)]
        return {bytes(row["inputs"][row["inputs_segmentation"] != 0].tolist()) for row in rows}

    training, evaluation = texts("train"), texts("eval")
    assert not training & evaluation
    assert len(training | evaluation) == 200 and 5 <= len(evaluation) <= 15


def test_split_does_not_follow_the_shuffle_seed(settings: Settings) -> None:
    states = [
        data.make(settings(data_shuffle_seed=seed), global_batch=4, split="eval").state()
        for seed in (0, 1)
    ]
    assert states[0] == states[1]


def test_files_of_its_own(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc" * 100)
    (tmp_path / "b.txt").write_text("xyz" * 100)
    cfg = settings(train_files=str(tmp_path / "a.txt"), eval_files=str(tmp_path / "b.txt"))
    training = next(data.make(cfg, global_batch=2))
    evaluation = next(data.make(cfg, global_batch=2, split="eval"))
    assert set(bytes(training["inputs"].reshape(-1).tolist())) == set(b"abc")
    assert set(bytes(evaluation["inputs"].reshape(-1).tolist())) == set(b"xyz")


def test_no_evaluation_data(settings: Settings) -> None:
    cfg = settings(eval_split_fraction=0.0)
    with pytest.raises(ConfigError, match="eval_files is empty and eval_split_fraction=0"):
        data.make(cfg, global_batch=2, split="eval")


def test_evaluation_without_a_target(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    cfg = settings(eval_files=str(tmp_path / "a.txt"))
    with pytest.raises(DataError, match=r"the eval data .* have 1 tokens, expected at least"):
        data.make(cfg, global_batch=2, split="eval")
