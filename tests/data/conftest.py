"""Fixtures of the data tests: configurations and files."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from maxmig import config

SMALL = ("vocab_size=256", "max_target_length=32")


@pytest.fixture(scope="session")
def settings() -> Callable[..., config.Config]:
    """Makes a configuration with some keys set: small, and with the built-in corpus, otherwise."""
    return config.load(None, SMALL).replace


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[Sequence[str]], str]:
    """Writes texts as a JSON lines file and gives its path."""

    def write(texts: Sequence[str]) -> str:
        path = tmp_path / "corpus.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return str(path)

    return write
