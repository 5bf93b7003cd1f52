"""Tokenizers: bytes, Hugging Face files, and what does not fit the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from maxmig import data
from maxmig.data import tokenizer
from maxmig.errors import ConfigError, DataError

Settings = Callable[..., Any]
WORDS = ["<unk>", "<s>", "</s>", "the", "cat", "sat", "mat"]


@pytest.fixture
def words(tmp_path: Path) -> str:
    """A tokenizer.json that splits at spaces, and that says to cut and to fill texts."""
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    made.enable_truncation(3)
    made.enable_padding(length=3)
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return str(path)


@given(st.text())
def test_bytes_come_back(text: str) -> None:
    for specials in (False, True):
        coder = tokenizer.Bytes(specials=specials)
        assert coder.decode(coder.encode(text)) == text
        assert coder.encode_many([text])[0].tolist() == coder.encode(text)
        assert all(0 <= token < 256 for token in coder.encode(text))


@given(st.lists(st.integers(-5, 400)))
def test_decoding_bytes_is_total(ids: list[int]) -> None:
    assert isinstance(tokenizer.Bytes(specials=True).decode(ids), str)


def test_decoding_shows_what_is_no_text() -> None:
    coder = tokenizer.Bytes(specials=True)
    assert coder.decode([256, 104, 105, 257, 258]) == "hi"
    assert coder.decode([104, 300, 105, -1]) == "h\ufffdi\ufffd"
    assert coder.decode([0xC3]) == "\ufffd"
    assert coder.decode(np.array([195, 169], np.int32)) == "é"


@pytest.mark.parametrize(
    ("vocab_size", "size", "specials"),
    [
        (256, 256, (None, None, 0)),
        (258, 256, (None, None, 0)),
        (259, 259, (256, 257, 258)),
        (32_000, 259, (256, 257, 258)),
    ],
)
def test_specials_where_there_is_room(
    settings: Settings, vocab_size: int, size: int, specials: tuple[int | None, ...]
) -> None:
    coder = tokenizer.load(settings(vocab_size=vocab_size))
    assert coder.vocab_size == size
    assert (coder.bos_id, coder.eos_id, coder.pad_id) == specials


def test_huggingface(settings: Settings, words: str) -> None:
    coder = tokenizer.load(
        settings(tokenizer_type="huggingface", tokenizer_path=words, vocab_size=7)
    )
    assert (coder.vocab_size, coder.bos_id, coder.eos_id, coder.pad_id) == (7, 1, 2, 0)
    # Neither cut at 3 tokens nor surrounded by the specials of the file.
    assert coder.encode("the cat sat the mat") == [3, 4, 5, 3, 6]
    many = coder.encode_many(["the cat", "mat"])
    assert [ids.tolist() for ids in many] == [[3, 4], [6]]
    assert coder.decode([1, 3, 4, 2]) == "the cat"
    assert coder.decode([3, 99, -1, 4]) == "the\ufffd\ufffdcat"
    assert coder.decode(np.array([], np.int32)) == ""


def test_huggingface_folder(settings: Settings, words: str) -> None:
    folder = str(Path(words).parent)
    cfg = settings(tokenizer_type="huggingface", tokenizer_path=folder)
    assert tokenizer.load(cfg).vocab_size == 7


def test_huggingface_through_the_loader(settings: Settings, words: str, tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"text": "the cat sat"}) + "\n" + json.dumps({"text": "mat the"}))
    cfg = settings(
        dataset_type="jsonl",
        train_files=str(path),
        eval_split_fraction=0.0,
        tokenizer_type="huggingface",
        tokenizer_path=words,
        add_bos=True,
        add_eos=True,
        shuffle=False,
        max_target_length=8,
    )
    batch = next(data.make(cfg, global_batch=1))
    assert batch["inputs"].tolist() == [[1, 3, 4, 5, 1, 6, 3, 0]]
    assert batch["targets"].tolist() == [[3, 4, 5, 2, 6, 3, 2, 0]]


def test_vocabulary_with_holes_needs_its_largest_id(tmp_path: Path, settings: Settings) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 500}, unk_token="a"))
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    cfg = settings(tokenizer_type="huggingface", tokenizer_path=str(path))
    with pytest.raises(ConfigError, match=r"vocab_size=256 is smaller .*\(501\)"):
        tokenizer.load(cfg)


def test_vocabulary_smaller_than_bytes(settings: Settings) -> None:
    with pytest.raises(ConfigError) as error:
        tokenizer.create("byte", "", 128)
    assert str(error.value) == (
        "vocab_size=128 is smaller than the vocabulary of the tokenizer 'byte' (256). Set "
        "vocab_size=256 or more, or choose another tokenizer."
    )
    assert error.value.exit_code == 2
    with pytest.raises(ConfigError, match=r"128(.|\n)*256"):
        data.make(settings(vocab_size=128), global_batch=2)


def test_vocabulary_smaller_than_the_file(settings: Settings, words: str) -> None:
    cfg = settings(tokenizer_type="huggingface", tokenizer_path=words, vocab_size=6)
    with pytest.raises(ConfigError, match=r"vocab_size=6 is smaller .*\(7\)"):
        tokenizer.load(cfg)


@pytest.mark.parametrize("key", ["add_bos", "add_eos"])
def test_specials_that_do_not_exist(settings: Settings, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}=true, but the tokenizer 'byte'"):
        data.make(settings(**{key: True}), global_batch=2)


def test_missing_file(settings: Settings, tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        cfg = settings(tokenizer_type="huggingface", tokenizer_path=str(path))
        with pytest.raises(DataError, match=r"tokenizer_path: there is no file .*\.json") as error:
            tokenizer.load(cfg)
        assert error.value.exit_code == 4


@pytest.mark.parametrize("content", [b"{}", b"hello", b"\0\xff\xfe", b"", b'{"version": "1.0"}'])
def test_not_a_tokenizer(settings: Settings, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    cfg = settings(tokenizer_type="huggingface", tokenizer_path=str(path))
    with pytest.raises(DataError, match=r"tokenizer\.json is not a tokenizer of the `tokenizers`"):
        tokenizer.load(cfg)


def test_unknown_kind_and_missing_path() -> None:
    with pytest.raises(ConfigError, match="expected 'byte' or 'huggingface', got 'sentencepiece'"):
        tokenizer.create("sentencepiece", "", 256)
    with pytest.raises(ConfigError, match="huggingface needs tokenizer_path"):
        tokenizer.create("huggingface", "", 256)
