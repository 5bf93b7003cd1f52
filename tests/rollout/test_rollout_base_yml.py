"""A file like MaxText's base.yml (1,400 lines, 500 of comments) changes in the lines asked for."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rollout_files import KEYS, base_yml


def test_the_file_is_like_base_yml() -> None:
    lines = base_yml().splitlines()
    assert len(lines) == 1400
    assert 490 <= sum(line.lstrip().startswith("#") for line in lines) <= 520


def changed(before: str, after: str) -> list[str]:
    diff = list(difflib.unified_diff(before.splitlines(True), after.splitlines(True), n=0))[2:]
    return [line.rstrip("\n") for line in diff if not line.startswith("@@")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_exactly_the_lines_asked_for_change(run: Callable[..., Any], here: Path, end: str) -> None:
    before = base_yml("default-true").replace("\n", end)
    path = here / "base.yml"
    path.write_bytes(before.encode())
    options = ("--framework", "maxtext", "--era", "default-true")
    assert (
        run("plan", "--to", "linen", "--direct", "base.yml", "-o", "plan.json", *options).code == 0
    )
    assert path.read_bytes() == before.encode()
    done = run("apply", "plan.json", "--assured", "a test")
    assert done.code == 0, done.err
    after = path.read_bytes().decode()
    assert changed(before.replace("\r", ""), after.replace("\r", "")) == [
        *(f"-{key}: true" for key in KEYS),
        *(f"+{key}: false" for key in KEYS),
    ]
    assert after == before.replace("nnx: true", "nnx: false").replace(
        "decoder: true", "decoder: false"
    )
    assert "3 lines changed; all other" in done.out
    expected = yaml.safe_load(before) | dict.fromkeys(KEYS, False)
    assert yaml.safe_load(after) == expected
    entry = run("log", "--json").json["ledgers"][0]["entries"][0]
    assert run("rollback", entry["id"]).code == 0
    assert path.read_bytes() == before.encode()


def test_a_plan_that_asks_for_nothing_changes_nothing(run: Callable[..., Any], here: Path) -> None:
    path = here / "base.yml"
    path.write_text(base_yml("default-true"))
    options = ("--framework", "maxtext", "--era", "default-true")
    done = run("plan", "--to", "nnx", "base.yml", "-o", "plan.json", *options)
    assert done.code == 0
    assert "nnx: nothing to change" in done.out
    applied = run("apply", "plan.json")
    assert (applied.code, path.read_text()) == (0, base_yml("default-true"))
    assert "nothing to change" in applied.out
    assert not (here / ".maxmig-ledger.jsonl").exists()


def test_graduating_removes_exactly_its_lines(run: Callable[..., Any], here: Path) -> None:
    path = here / "base.yml"
    path.write_text(base_yml("default-true"))
    assert run("graduate", "base.yml", "--era", "removed").code == 0
    assert changed(base_yml("default-true"), path.read_text()) == [f"-{key}: true" for key in KEYS]
