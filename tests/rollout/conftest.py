"""A folder to work in, the command line, cards of parity, and MaxText packages of three eras."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import pytest
from rollout_files import CONFIG, KEYS, TYPES, base_yml


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., commands.Result]:
    """Runs one command line of the group: `run("plan", "--to", "nnx", "a.yml")`."""

    return lambda *argv: commands.call(capsys, ["flags", *map(str, argv)])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder outside version control, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for key in KEYS:
        monkeypatch.delenv(f"M_{key.upper()}", raising=False)
    return tmp_path


@pytest.fixture
def card(here: Path) -> Callable[..., Path]:
    """Writes the card that a parity run of a configuration would write, with changes."""

    def make(
        config: str = "run.yml",
        control: str = "linen",
        candidate: str = "bridged-decoder",
        *,
        name: str = "card.yaml",
        age: datetime.timedelta = datetime.timedelta(hours=1),
        verdict: str = "PASS",
        level: str = "native",
        coverage: dict[str, Any] | None = None,
        **subject: Any,
    ) -> Path:
        from maxmig import config as configuration
        from maxmig.parity.reports import card as cards

        cfg = configuration.load(config)
        made = datetime.datetime.now(datetime.UTC) - age
        facts = {
            "config_digest": cards.config_digest(cfg),
            "code_digest": cards.code_digest(),
            "control": control,
            "candidate": candidate,
            "checkpoint": "seed 0",
        }
        return cards.Card(
            verdict=verdict,
            subject=facts | subject,
            levels={level: {"verdict": verdict}},
            coverage={"steps": 5} if coverage is None else coverage,
            command=f"maxmig parity run {config}",
            made=made.isoformat(timespec="seconds"),
        ).write(here / name)

    return make


@pytest.fixture
def maxtext(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a package folder of a MaxText of an era, with its types and its base.yml."""

    def make(era: str) -> Path:
        folder = tmp_path_factory.mktemp(era) / "maxtext"
        (folder / "configs" / "models").mkdir(parents=True)
        flags = (
            ""
            if era == "removed"
            else "".join(
                f"  {key}: bool = Field(\n      {era == 'default-true'}, description='NNX')\n"
                for key in KEYS
            )
        )
        (folder / "configs" / "types.py").write_text(TYPES.format(flags=flags))
        (folder / "configs" / "base.yml").write_text(base_yml(era))
        (folder / "configs" / "models" / "llama9-1b.yml").write_text("base_emb_dim: 64\n")
        return folder

    return make


@pytest.fixture
def config(here: Path) -> Path:
    """A configuration of maxmig in the current folder: run.yml, under Linen."""
    path = here / "run.yml"
    path.write_text(CONFIG)
    return path
