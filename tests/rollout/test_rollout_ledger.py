"""The ledger and the way back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rollout_files import CONFIG

from maxmig.config import Stage
from maxmig.errors import ConfigError, DataError, PreflightError
from maxmig.rollout import apply, files, ledger, plan, rollback
from maxmig.rollout.choice import Choice
from maxmig.rollout.era import Era

BOOK = Path(".maxmig-ledger.jsonl")
NEW = Choice(era=Era.DEFAULT_TRUE)


def flip(*names: str, to: Stage = Stage.NNX, **options: Any) -> str:
    made = plan.make(names or ["run.yml"], to, direct=True, **options)
    done = apply.apply(made, assured="a test")
    assert done.entry is not None
    return done.entry.id


def test_the_very_bytes_come_back(config: Path) -> None:
    name = flip()
    assert config.read_text() != CONFIG
    done = rollback.rollback(BOOK, name)
    assert config.read_text() == CONFIG
    assert done.files[0].proof
    entries = ledger.read(BOOK).entries
    assert [entry.kind for entry in entries] == ["apply", "rollback"]
    assert entries[1].of == name
    assert (entries[1].files[0].control, entries[1].files[0].candidate) == ("nnx", "linen")


def test_a_second_rollback_does_nothing(config: Path) -> None:
    name = flip()
    rollback.rollback(BOOK, name)
    assert rollback.rollback(BOOK, name).files == ()
    assert len(ledger.read(BOOK).entries) == 2


def test_a_rollback_is_not_rolled_back(config: Path) -> None:
    done = rollback.rollback(BOOK, flip())
    assert done.entry is not None
    with pytest.raises(PreflightError, match="plan and apply with a card"):
        rollback.rollback(BOOK, done.entry.id)


def test_a_file_that_moved_on_gets_its_keys_back(here: Path) -> None:
    Path("mt.yml").write_text("a: 1\npure_nnx: False  # why\n")
    name = flip("mt.yml", choice=NEW)
    assert Path("mt.yml").read_text() == "a: 1\npure_nnx: True  # why\n"
    Path("mt.yml").write_text("a: 2\nb: 3\npure_nnx: True  # why not\n")
    rollback.rollback(BOOK, name)
    assert Path("mt.yml").read_text() == "a: 2\nb: 3\npure_nnx: False  # why not\n"


def test_added_keys_go_again_from_a_file_that_moved_on(config: Path) -> None:
    name = flip()
    config.write_text("# new\n" + config.read_text() + "\nlearning_rate: 1e-3\n")
    rollback.rollback(BOOK, name)
    assert config.read_text() == "# new\n" + CONFIG + "\nlearning_rate: 1e-3\n"


def test_a_key_that_somebody_changed_since_is_not_touched(config: Path) -> None:
    name = flip()
    moved = config.read_text().replace("pure_nnx_decoder: true", "pure_nnx_decoder: false")
    config.write_text(moved)
    with pytest.raises(PreflightError, match="pure_nnx_decoder says false where true was written"):
        rollback.rollback(BOOK, name)
    assert config.read_text() == moved
    config.write_text(CONFIG + "# none\nenable_nnx: false\n")
    with pytest.raises(PreflightError, match="enable_nnx says false where true was written"):
        rollback.rollback(BOOK, name)


def test_an_alias_comes_back(here: Path) -> None:
    Path("mt.yml").write_text("a: &off false\npure_nnx: *off\n")
    name = flip("mt.yml", choice=NEW)
    Path("mt.yml").write_text(Path("mt.yml").read_text() + "# moved on\n")
    rollback.rollback(BOOK, name)
    assert Path("mt.yml").read_text() == "a: &off false\npure_nnx: *off\n# moved on\n"


@pytest.mark.parametrize(
    "old", ['!!bool "false"', "&a !!bool 'false'", "!!bool &a 'false'", '!!bool\n  "false"']
)
def test_a_tag_comes_back_with_its_value(here: Path, old: str) -> None:
    Path("mt.yml").write_text(f"a: 1\npure_nnx: {old}  # why\n")
    name = flip("mt.yml", choice=NEW)
    with Path("mt.yml").open("a") as stream:
        stream.write("# moved on\n")
    rollback.rollback(BOOK, name)
    assert yaml.safe_load(Path("mt.yml").read_text()) == {"a": 1, "pure_nnx": False}


def test_all_files_or_none(here: Path) -> None:
    for name in ("a.yml", "b.yml"):
        Path(name).write_text(CONFIG)
    entry = flip("a.yml", "b.yml")
    after = Path("a.yml").read_text()
    Path("b.yml").write_text(CONFIG + "enable_nnx: false\n")
    with pytest.raises(PreflightError):
        rollback.rollback(BOOK, entry)
    assert Path("a.yml").read_text() == after
    Path("b.yml").unlink()
    with pytest.raises(DataError, match=r"b\.yml: no such file; it was changed by"):
        rollback.rollback(BOOK, entry)


def test_a_kill_between_two_files_is_seen_and_taken_back(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.yml", "b.yml"):
        Path(name).write_text(CONFIG)

    def killed(writes: list[files.Write]) -> None:
        writes[0].path.write_bytes(writes[0].after)
        raise SystemExit

    monkeypatch.setattr(files, "commit", killed)
    monkeypatch.setattr(ledger, "close", lambda *args: None)  # a kill writes nothing more
    with pytest.raises(SystemExit):
        flip("a.yml", "b.yml")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    (entry,) = ledger.read(BOOK).entries
    assert entry.state == ledger.BEGUN
    assert Path("a.yml").read_text() != CONFIG
    rollback.rollback(BOOK, entry.id)
    assert Path("a.yml").read_text() == Path("b.yml").read_text() == CONFIG


def test_an_edited_line_is_noticed(config: Path) -> None:
    name = flip()
    rollback.rollback(BOOK, name)
    assert ledger.read(BOOK).problems == ()
    lines = BOOK.read_text().splitlines()
    forged = lines[0].replace('"assured": "a test"', '"assured": "evidence"')
    assert forged != lines[0]
    BOOK.write_text("\n".join([forged, *lines[1:]]) + "\n")
    (problem,) = ledger.read(BOOK).problems
    assert problem.endswith("jsonl:2: the line before was changed or removed")
    BOOK.write_text("\n".join([lines[0], "<<<<<<< HEAD", *lines[1:]]) + "\n")
    problems = ledger.read(BOOK).problems
    assert problems[0].endswith("jsonl:2: not a line of a ledger: JSONDecodeError")
    assert len(ledger.read(BOOK).entries) == 2


def test_a_torn_line_does_not_swallow_the_next(config: Path) -> None:
    name = flip()
    BOOK.write_bytes(BOOK.read_bytes() + b'{"previous": "x", "id"')
    rollback.rollback(BOOK, name)
    book = ledger.read(BOOK)
    assert [entry.state for entry in book.entries] == [ledger.DONE, ledger.DONE]
    assert len(book.problems) == 1 or "not a line" in book.problems[0]


def test_ids(config: Path) -> None:
    name = flip()
    assert ledger.read(BOOK).find(name[:12]).id == name
    with pytest.raises(ConfigError, match="no entry with the id 'zzz'"):
        rollback.rollback(BOOK, "zzz")
    with pytest.raises(DataError, match="no such ledger"):
        rollback.rollback(Path("other.jsonl"), name)
    config.write_text(CONFIG)
    flip()
    with pytest.raises(ConfigError, match="several entries with the id '2'"):
        ledger.read(BOOK).find("2")


def test_the_beginning_of_an_id_means_what_can_be_taken_back(config: Path) -> None:
    first = flip()
    rollback.rollback(BOOK, first)
    second = flip()
    book = ledger.read(BOOK)
    assert len(book.entries) == 3
    assert book.find("2").id == second
    assert book.find(first).id == first
    with pytest.raises(ConfigError, match=f"what can be taken back: {second}$"):
        book.find("zzz")
    rollback.rollback(BOOK, second)
    with pytest.raises(ConfigError, match="several entries with the id '2'"):
        ledger.read(BOOK).find("2")


def test_a_moved_folder_takes_its_ledger_along(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "old").mkdir()
    (here / "old" / "run.yml").write_text(CONFIG)
    name = flip("old/run.yml")
    (here / "old").rename(here / "new")
    rollback.rollback(Path("new") / BOOK, name)
    assert (here / "new" / "run.yml").read_text() == CONFIG


def test_where_the_ledger_is(here: Path) -> None:
    for name in ("x/a/run.yml", "x/b/run.yml"):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text(CONFIG)
    assert ledger.place([Path("x/a/run.yml")]) == here / "x" / "a" / BOOK
    assert ledger.place([Path("x/a/run.yml"), Path("x/b/run.yml")]) == here / "x" / BOOK
    (here / BOOK).write_text("")
    assert ledger.place([Path("x/a/run.yml")]) == here / BOOK
    (here / "x" / ".git").mkdir()  # the ledger of another repository is not ours
    assert ledger.place([Path("x/a/run.yml")]) == here / "x" / "a" / BOOK


def test_the_command_line(run: Callable[..., Any], config: Path) -> None:
    assert "nothing was flipped" in run("log").out
    done = run("rollback", "2026")
    assert (done.code, "no .maxmig-ledger.jsonl here" in done.err) == (2, True)
    name = flip()
    text = run("log").out
    assert f"{name}  apply  " in text
    assert "run.yml  linen -> nnx" in text
    assert "enable_nnx: (none) -> true" in text
    assert "assured: a test" in text
    done = run("rollback", name[:15], "--dry-run")
    assert (done.code, config.read_text() == CONFIG) == (0, False)
    done = run("rollback", name[:15], "--json")
    assert (done.code, done.json["written"], config.read_text()) == (0, True, CONFIG)
    assert f"taken back by {done.json['id']}" in run("log", "run.yml").out
    assert "nothing to do" in run("rollback", name).out
    assert run("log", "nowhere").code == 4
    document = run("log", BOOK, "--json").json
    assert [entry["state"] for entry in document["ledgers"][0]["entries"]] == ["done", "done"]
    assert json.dumps(document)
    assert run("log").code == 0
    BOOK.write_text("".join(BOOK.read_text().splitlines(keepends=True)[i] for i in (0, 2, 3)))
    done = run("log")
    assert (done.code, run("log", "--json").code) == (1, 1)
    assert "jsonl:2: the line before was changed or removed" in done.out


def test_a_rollback_says_that_the_keys_are_back_though_the_file_moved_on(
    run: Callable[..., Any], config: Path
) -> None:
    name = flip()
    config.write_text(config.read_text() + "# elsewhere\n")
    assert run("rollback", name).code == 0
    assert "the keys of this entry say what they said before it" in run("rollback", name).out
