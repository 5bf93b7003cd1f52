"""Tokenizers: bytes by default, a Hugging Face `tokenizer.json` by option."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from maxmig.errors import ConfigError, DataError

if TYPE_CHECKING:
    from maxmig.config import Config

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_BYTES = 256
# The names that published tokenizers give to their special tokens, most specific first.
_BOS = ("<|begin_of_text|>", "<bos>", "<s>", "[BOS]", "[CLS]", "<|startoftext|>", "<|endoftext|>")
_EOS = ("<|end_of_text|>", "<eos>", "</s>", "[EOS]", "[SEP]", "<|endoftext|>", "<|im_end|>")
_PAD = ("<pad>", "<|pad|>", "[PAD]", "<|finetune_right_pad_id|>")


class Tokenizer(Protocol):
    """Text to token ids and back; `bos_id` and `eos_id` are None where there is no such token."""

    name: str
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of any ids: total, what is no text becomes U+FFFD, special tokens nothing."""

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of many texts, as arrays: the fast way."""


class Bytes:
    """UTF-8 bytes: id = byte; bos, eos and pad are 256, 257 and 258 where there is room."""

    name = "byte"

    def __init__(self, *, specials: bool):
        self.vocab_size = _BYTES + 3 if specials else _BYTES
        self.bos_id = _BYTES if specials else None
        self.eos_id = _BYTES + 1 if specials else None
        self.pad_id = _BYTES + 2 if specials else 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        out = bytearray()
        for token in ids:
            token = int(token)
            if 0 <= token < _BYTES:
                out.append(token)
            elif not _BYTES <= token < self.vocab_size:
                out += UNKNOWN.encode()
        return out.decode("utf-8", errors="replace")


class HuggingFace:
    """A tokenizer of the `tokenizers` package."""

    def __init__(self, inner: Any, name: str):
        self.name = name
        self._inner = inner
        # A tokenizer.json may tell to cut or to fill texts; a corpus must come whole.
        inner.no_truncation()
        inner.no_padding()
        vocabulary = inner.get_vocab(with_added_tokens=True)
        self._ids = frozenset(vocabulary.values())
        # Ids may have holes, and what must fit the embedding is the largest id, not their number.
        self.vocab_size = max(self._ids, default=-1) + 1
        self.bos_id = _first(vocabulary, _BOS)
        self.eos_id = _first(vocabulary, _EOS)
        self.pad_id = _first(vocabulary, _PAD) or 0

    def encode(self, text: str) -> list[int]:
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.uint32) for encoding in found]

    def decode(self, ids: Iterable[int]) -> str:
        text: list[str] = []
        run: list[int] = []
        for token in [*map(int, ids), None]:
            if token in self._ids:
                run.append(token)  # type: ignore[arg-type]
                continue
            if run:
                text.append(self._inner.decode(run, skip_special_tokens=True))
                run = []
            if token is not None:
                text.append(UNKNOWN)
        return "".join(text)


def load(cfg: Config) -> Tokenizer:
    """The tokenizer that a configuration names.

    Raises:
        ConfigError: The model's vocabulary is smaller than the tokenizer's, or a key is missing.
        DataError: `tokenizer_path` cannot be read.
    """
    data = cfg.data
    return create(data.tokenizer_type, data.tokenizer_path, cfg.model.vocab_size)


def create(kind: str, path: str, vocab_size: int) -> Tokenizer:
    """As `load`, from the three settings themselves."""
    found: Tokenizer
    if kind == "byte":
        found = Bytes(specials=vocab_size >= _BYTES + 3)
    elif kind == "huggingface":
        found = _huggingface(path)
    else:
        raise ConfigError(
            f"tokenizer_type: expected 'byte' or 'huggingface', got {kind!r}. Set one of the two."
        )
    if found.vocab_size > vocab_size:
        raise ConfigError(
            f"vocab_size={vocab_size} is smaller than the vocabulary of the tokenizer "
            f"{found.name!r} ({found.vocab_size}). Set vocab_size={found.vocab_size} or more, or "
            "choose another tokenizer."
        )
    return found


def _huggingface(path: str) -> HuggingFace:
    if not path:
        raise ConfigError(
            "tokenizer_type=huggingface needs tokenizer_path: the path of a tokenizer.json file."
        )
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        raise DataError(
            f"tokenizer_path: there is no file {file}. Give the path of a tokenizer.json file."
        )
    import tokenizers

    try:
        return HuggingFace(tokenizers.Tokenizer.from_file(str(file)), str(path))
    except Exception as e:  # The package raises a bare Exception for whatever it cannot read.
        raise DataError(
            f"tokenizer_path: {file} is not a tokenizer of the `tokenizers` package ({e}). Give a "
            "tokenizer.json file; a SentencePiece model must be converted first."
        ) from e


def _first(vocabulary: dict[str, int], names: Sequence[str]) -> int | None:
    return next((vocabulary[name] for name in names if name in vocabulary), None)
