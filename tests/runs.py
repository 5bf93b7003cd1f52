"""What the tests of whole runs share: a small configuration on real text, and what a run left."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import helpers
import jax
import pytest

from maxmig.checkpoint.store import Store
from maxmig.config import Config
from maxmig.config.flags import Stage
from maxmig.train import loop

SMALL = (
    "base_emb_dim=16",
    "base_num_query_heads=2",
    "base_num_kv_heads=1",
    "base_mlp_dim=32",
    "base_num_decoder_layers=2",
    "vocab_size=260",
    "max_target_length=16",
    "dataset_type=jsonl",
    "add_eos=true",
    "remat_policy=none",
    "learning_rate=1e-2",
    "learning_rate_schedule_steps=20",
    "checkpoint_period=1000000",
    "run_name=run",
)
TIMES = ("step_time", "tokens_per_second")


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process see one of its simulated devices."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)


def text(folder: Path) -> Path:
    """A small corpus of documents of other lengths, so that packed rows hold several."""
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "a",
        "lazy",
        "dog",
        "while",
        "rain",
        "falls",
        "on",
        "green",
        "hills",
    ]
    documents = [" ".join(words[i % 7 : i % 7 + 1 + i % 3]) for i in range(300)]
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))
    return path


def arguments(folder: Path, *overrides: str, stage: Stage = Stage.LINEN) -> list[str]:
    """Overrides of a small run in a folder; the corpus is beside it."""
    corpus = folder / "corpus.jsonl"
    if not corpus.exists():
        text(folder)
    where = (f"train_files={corpus}", f"base_output_directory={folder / 'out'}")
    return [*SMALL, *where, *overrides, *helpers.flags(stage)]


def config(
    folder: Path, *overrides: str, stage: Stage = Stage.LINEN, name: str = "tiny_llama2"
) -> Config:
    """The configuration of a small run."""
    return helpers.config(name, *arguments(folder, *overrides), stage=stage)


def train(cfg: Config, observer: loop.Observer | None = None) -> loop.Result:
    return loop.run(cfg, observer)


def state(result: loop.Result) -> dict[str, Any]:
    """The leaves of a run's end, in NumPy."""
    return helpers.numpy(result.runtime.state(result.leaves))


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, without what differs from run to run."""
    out = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        out.append({key: value for key, value in record.items() if key not in TIMES})
    return out


def stored(directory: Path, step: int | None = None) -> dict[str, Any]:
    """What the metadata of a checkpoint say."""
    with Store(directory) as store:
        step = store.latest() if step is None else step
    return json.loads((directory / str(step) / "_CHECKPOINT_METADATA").read_text())[
        "custom_metadata"
    ]["maxmig"]


def start(*argv: str, cwd: Path, env: dict[str, str]) -> "subprocess.Popen[str]":
    """A real process of the command line, the first of its group."""
    return subprocess.Popen(
        [sys.executable, "-m", "maxmig", *argv],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
