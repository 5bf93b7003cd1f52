"""The corpus: all documents as one array of tokens, and its split into training and evaluation.

Tokens are held once, in the smallest unsigned type that the vocabulary fits in (one byte a token
for the byte tokenizer), so that rows can be read in any order: that is what makes a resume exact.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maxmig.data import sources, tokenizer
from maxmig.errors import ConfigError, DataError

_BLOCK = 4096
# Documents of one call to the tokenizer: enough to use its threads, few enough to stay small.
_CHUNK = 512
# Tokens that are widened at once to be hashed: a document may be as large as the memory.
_HASHED = 1 << 20


class File(NamedTuple):
    """A file and what changes when its content does."""

    path: Path
    size: int
    modified: int


@dataclasses.dataclass(frozen=True)
class Spec:
    """All that decides which tokens a corpus has."""

    kind: str
    files: tuple[File, ...]
    field: str
    tokenizer_type: str
    tokenizer_path: str
    vocab_size: int
    add_bos: bool = False
    add_eos: bool = False


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Documents: `tokens[start:end]` for each row (start, end) of `spans`, int64 [documents, 2]."""

    name: str
    tokens: np.ndarray
    spans: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all documents and their borders."""
        total = hashlib.blake2b(digest_size=16)
        for document in self:
            total.update(_hash(document))
        return total.hexdigest()

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.tokens[start:end] for start, end in self.spans.tolist())


def stamp(path: Path) -> File:
    """A file with its size and time of change."""
    try:
        status = path.stat()
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror}. Check its permissions.") from e
    return File(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1)  # The two splits of one corpus are usually opened in a row.
def read(spec: Spec) -> Corpus:
    """Reads and tokenizes all documents.

    Raises:
        ConfigError: The settings contradict the tokenizer.
        DataError: A file cannot be read, or there is no text in the files.
    """
    coder = tokenizer.create(spec.tokenizer_type, spec.tokenizer_path, spec.vocab_size)
    before, after = _special(coder, spec)
    kind = np.min_scalar_type(max(coder.vocab_size - 1, 1))
    found: list[np.ndarray] = []
    texts = sources.documents(spec.kind, [file.path for file in spec.files], spec.field)
    for chunk in _chunks(texts):
        for ids in coder.encode_many(chunk):
            # An empty document has nothing to learn from, not even with its special tokens.
            if len(ids):
                found.append(np.concatenate([before, ids, after]).astype(kind))
    name = _name(spec)
    if not found:
        raise DataError(f"{name} holds no text: each document in it is empty.")
    ends = np.cumsum([len(document) for document in found], dtype=np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    return Corpus(name, np.concatenate(found), np.stack([starts, ends], axis=1))


def split(whole: Corpus, fraction: float) -> tuple[Corpus, Corpus]:
    """Splits off about a fraction of the tokens; the parts share no document.

    Documents are taken in the order of a hash of their content, so that the choice depends neither
    on a seed nor on the order of files, and equal documents stay together. Where no documents add
    up to a fair share (there is one only, or all are large), blocks of documents are taken.

    Returns:
        (training, evaluation). Evaluation is empty when the fraction is 0.
    """
    if fraction <= 0:
        return whole, dataclasses.replace(whole, spans=whole.spans[:0])
    target = whole.num_tokens * fraction
    chosen = _pick_documents(whole, target)
    spans = whole.spans
    if chosen is None:
        spans = _blocks(whole.spans, int(np.clip(target / 4, 2, _BLOCK)))
        chosen = _pick_blocks(dataclasses.replace(whole, spans=spans), target)
    training, evaluation = _join(spans[~chosen], whole.spans), _join(spans[chosen], whole.spans)
    return dataclasses.replace(whole, spans=training), dataclasses.replace(whole, spans=evaluation)


def _pick_documents(whole: Corpus, target: float) -> np.ndarray | None:
    groups: dict[bytes, list[int]] = {}
    for index, document in enumerate(whole):
        groups.setdefault(_hash(document), []).append(index)
    sizes = whole.spans[:, 1] - whole.spans[:, 0]
    chosen = np.zeros(len(whole.spans), bool)
    taken = 0
    for key in sorted(groups):
        size = int(sizes[groups[key]].sum())
        if taken + size <= target:
            chosen[groups[key]] = True
            taken += size
    return chosen if taken >= target / 2 else None


def _pick_blocks(blocks: Corpus, target: float) -> np.ndarray:
    keys = [_hash(block) for block in blocks]
    chosen = np.zeros(len(keys), bool)
    taken = 0
    for index in sorted(range(len(keys)), key=lambda i: (keys[i], i))[:-1]:
        size = int(blocks.spans[index, 1] - blocks.spans[index, 0])
        if taken and taken + size / 2 > target:
            break
        chosen[index] = True
        taken += size
    return chosen


def _blocks(spans: np.ndarray, length: int) -> np.ndarray:
    """Cuts spans at multiples of a length from their start."""
    cut = [
        (start, min(start + length, end))
        for begin, end in spans.tolist()
        for start in range(begin, end, length)
    ]
    return np.asarray(cut, np.int64).reshape(-1, 2)


def _join(spans: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Joins spans that touch, unless a document starts there: no token is lost at such a border."""
    if not len(spans):
        return spans
    new = np.ones(len(spans), bool)
    new[1:] = (spans[1:, 0] != spans[:-1, 1]) | np.isin(spans[1:, 0], documents[:, 0])
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(spans)) - 1
    return np.stack([spans[first, 0], spans[last, 1]], axis=1)


def _special(coder: tokenizer.Tokenizer, spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """The ids before and after each document."""
    ends = []
    for key, wanted, token in (
        ("add_bos", spec.add_bos, coder.bos_id),
        ("add_eos", spec.add_eos, coder.eos_id),
    ):
        if wanted and token is None:
            raise ConfigError(
                f"{key}=true, but the tokenizer {coder.name!r} (vocabulary {coder.vocab_size}) has "
                f"no such token. Set {key}=false; the byte tokenizer has it from vocab_size=259."
            )
        ends.append(np.asarray([token] if wanted else [], np.uint32))
    return ends[0], ends[1]


def _chunks(texts: Iterable[str]) -> Iterator[Sequence[str]]:
    texts = iter(texts)
    while chunk := list(itertools.islice(texts, _CHUNK)):
        yield chunk


def _name(spec: Spec) -> str:
    if not spec.files:
        return sources.BUILTIN
    rest = len(spec.files) - 1
    return f"{spec.files[0].path}" + (f" and {rest} more" if rest else "")


def _hash(document: np.ndarray) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for at in range(0, len(document), _HASHED):
        # The stored type depends on the size of the vocabulary; what is hashed must not.
        found.update(document[at : at + _HASHED].astype("<u4").tobytes())
    return found.digest()
