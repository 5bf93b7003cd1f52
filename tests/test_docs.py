"""The commands in README.md and docs/ are run as they stand, in order, a page in one folder.

A line `$ maxmig ...` in a block marked `console` is a command. Models are made smaller on the way
in, since what is tested is the commands, and compiling takes the time.
"""

import re
import shlex
from pathlib import Path

import pytest

from maxmig.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = [
    "base_emb_dim=16",
    "base_mlp_dim=32",
    "base_num_decoder_layers=2",
    "base_num_query_heads=2",
    "base_num_kv_heads=2",
    "head_dim=8",
    "max_target_length=32",
    "per_device_batch_size=2",
]
TAKES_CONFIG = {"train", "eval", "generate", "logits", "parity", "demo"}
PARITY_TAKES_CONFIG = {"run", "noise", "record", "localize"}


def commands(page: Path) -> list[str]:
    """The commands of a page."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ maxmig ")]


def smaller(words: list[str]) -> list[str]:
    """The same command on a small model."""
    if words[0] not in TAKES_CONFIG or "--pair" in words:
        return words
    if words[0] == "parity" and words[1] not in PARITY_TAKES_CONFIG:
        return words
    short = ["steps=12"] if words[0] == "demo" else []
    return [*words, *SMALL, *short]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.stem)
def test_commands_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for command in commands(page):
        code = main(smaller(shlex.split(command)[1:]))
        out, err = capsys.readouterr()
        assert code == 0, f"{command}\n{out}\n{err}"
        assert out.strip(), f"{command} printed nothing"


def test_a_broken_command_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ maxmig flags show configs/demo.yml stepz=1\nsome output\n```\n")
    assert commands(page) == ["maxmig flags show configs/demo.yml stepz=1"]
    assert main(shlex.split(commands(page)[0])[1:]) == 2


def test_links_of_a_page_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken
