"""Graduating: a key goes when it says nothing any more, and never when it says something."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollout_files import CONFIG

from maxmig.errors import PreflightError
from maxmig.rollout import graduate, ledger, rollback
from maxmig.rollout.choice import Choice
from maxmig.rollout.era import Era

OLD, NEW, GONE = (Choice(era=era) for era in Era)
BOOK = Path(".maxmig-ledger.jsonl")


def write(text: str, name: str = "mt.yml") -> str:
    Path(name).write_text(text)
    return name


def test_a_key_that_equals_the_default_goes(here: Path) -> None:
    name = write("a: 1\npure_nnx: True  # now\nenable_nnx: false\nb: 2\n")
    done = graduate.graduate([name], NEW)
    assert Path(name).read_text() == "a: 1\nenable_nnx: false\nb: 2\n"
    (kept,) = done.kept
    assert (kept.place, kept.key) == ("mt.yml:3", "enable_nnx")
    assert "without it, it would be true" in kept.reason
    assert done.outcome.files[0].proof


def test_in_the_old_era_false_goes_with_a_warning(here: Path) -> None:
    name = write("a: 1\npure_nnx: false\nenable_nnx: true\n")
    done = graduate.graduate([name], OLD)
    assert Path(name).read_text() == "a: 1\nenable_nnx: true\n"
    assert "true since 0.2.4" in done.notes[0]
    assert graduate.graduate([name], NEW).notes == ()


def test_our_own_defaults(config: Path) -> None:
    config.write_text(CONFIG + "enable_nnx: true\npure_nnx: false\n")
    graduate.graduate(["run.yml"])
    assert config.read_text() == CONFIG + "enable_nnx: true\n"


def test_a_key_that_overrides_a_parent_stays(here: Path) -> None:
    write("pure_nnx: false\n", "parent.yml")
    write("base_config: parent.yml\npure_nnx: true\nenable_nnx: true\n", "child.yml")
    done = graduate.graduate(["child.yml"], NEW)
    assert Path("child.yml").read_text() == "base_config: parent.yml\npure_nnx: true\n"
    assert done.kept[0].reason == "without it, it would be false (parent.yml:1)"


def test_parent_and_child_in_one_command_keep_their_values(here: Path) -> None:
    """A parent's key that stays still holds for the child; one that goes leaves the default."""
    write("a: 1\npure_nnx: false\nenable_nnx: true\n", "parent.yml")
    write("base_config: parent.yml\npure_nnx: true\nenable_nnx: true\n", "child.yml")
    before = NEW.read("child.yml").values()
    graduate.graduate(["child.yml", "parent.yml"], NEW)
    assert NEW.read("child.yml").values() == before
    assert Path("parent.yml").read_text() == "a: 1\npure_nnx: false\n"
    assert Path("child.yml").read_text() == "base_config: parent.yml\npure_nnx: true\n"


def test_where_the_keys_are_gone_they_go(here: Path) -> None:
    name = write(
        "a: 1\npure_nnx: True\nstudent_overrides:\n  a: 1\n  enable_nnx: True\nenable_nnx: true\n"
    )
    done = graduate.graduate([name], GONE)
    assert Path(name).read_text() == "a: 1\nstudent_overrides:\n  a: 1\n"
    assert done.outcome.entry is not None
    assert done.outcome.files[0].proof.lines == 3
    rollback.rollback(BOOK, done.outcome.entry.id)
    assert "  enable_nnx: True\n" in Path(name).read_text()


def test_a_key_that_asks_for_linen_is_not_removed_silently(here: Path) -> None:
    name = write("a: 1\npure_nnx: False\nenable_nnx: true\n")
    with pytest.raises(PreflightError) as caught:
        graduate.graduate([name], GONE)
    assert "mt.yml:2: pure_nnx: False asks for Linen" in str(caught.value)
    assert Path(name).read_text() == "a: 1\npure_nnx: False\nenable_nnx: true\n"
    done = graduate.graduate([name], GONE, assured="retrained")
    assert Path(name).read_text() == "a: 1\n"
    (entry,) = ledger.read(BOOK).entries
    assert (entry.kind, entry.assured) == ("graduate", "retrained")
    assert done.outcome.entry is not None
    assert "asks for Linen" in entry.overridden[0]


def test_a_rollback_of_a_file_that_moved_on(here: Path) -> None:
    name = write("a: 1\npure_nnx: True\n")
    done = graduate.graduate([name], NEW)
    write("a: 2\n# moved on\n")
    assert done.outcome.entry is not None
    rollback.rollback(BOOK, done.outcome.entry.id)
    assert Path(name).read_text() == "a: 2\npure_nnx: True\n# moved on\n"


def test_what_comes_through_a_merge_stays(here: Path) -> None:
    name = write("d: &d {pure_nnx: true}\n<<: *d\na: 1\n")
    done = graduate.graduate([name], GONE)
    assert done.outcome.files == ()
    assert done.kept[0].reason.startswith("comes through a merge key")


def test_nothing_to_do_and_the_command_line(run: Callable[..., Any], here: Path) -> None:
    name = write("a: 1\npure_nnx: true\n")
    era = ("--era", "default-true")
    done = run("graduate", name, *era, "--dry-run", "--exit-code")
    assert (done.code, "-pure_nnx: true" in done.out) == (6, True)
    assert Path(name).read_text() == "a: 1\npure_nnx: true\n"
    done = run("graduate", name, *era, "--json")
    assert (done.code, done.json["written"]) == (0, True)
    done = run("graduate", name, *era, "--dry-run", "--exit-code")
    assert (done.code, "nothing to remove" in done.out) == (0, True)
    assert run("graduate", write("pure_nnx: false\n"), "--era", "removed").code == 5
    assert run("graduate", write("pure_nnx: true\n"), *era).code == 5  # the file would be empty
