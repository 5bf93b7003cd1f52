"""All files or none: failed writes, interrupts, no permission."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rollout_files import CONFIG, step

from maxmig.errors import DataError, PreflightError
from maxmig.rollout import apply, ledger, plan


def two(here: Path) -> plan.Plan:
    for name in ("a.yml", "b.yml"):
        (here / name).write_text(CONFIG)
    return step("a.yml", "b.yml")


def test_several_files_in_one_entry(here: Path, card: Callable[..., Path]) -> None:
    made = two(here)
    done = apply.apply(made, [card("a.yml")])  # the same configuration: one card for both
    assert done.entry is not None
    assert [file.path for file in done.entry.files] == ["a.yml", "b.yml"]
    assert Path("a.yml").read_text() == Path("b.yml").read_text() == CONFIG + "enable_nnx: true\n"


def test_one_bad_file_stops_all(here: Path, card: Callable[..., Path]) -> None:
    (here / "a.yml").write_text(CONFIG)
    (here / "b.yml").write_text(CONFIG.replace("steps: 4", "steps: 6"))
    with pytest.raises(PreflightError, match=r"  - b\.yml: card"):
        apply.apply(step("a.yml", "b.yml"), [Path(os.path.relpath(card("a.yml")))])
    assert (here / "a.yml").read_text() == CONFIG


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_failed_write_leaves_all_as_it_was(
    here: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    made = two(here)
    real, calls = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device", str(target))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(DataError, match="No space left on device"):
        apply.apply(made, assured="x")
    monkeypatch.undo()
    os.chdir(here)
    assert [Path(name).read_text() for name in ("a.yml", "b.yml")] == [CONFIG, CONFIG]
    assert sorted(path.name for path in here.iterdir()) == [
        ".maxmig-ledger.jsonl",
        "a.yml",
        "b.yml",
    ]
    (entry,) = ledger.read(here / ".maxmig-ledger.jsonl").entries
    assert entry.state == ledger.ABANDONED


def test_an_interrupt_leaves_all_as_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = two(here)
    real, calls = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        apply.apply(made, assured="x")
    assert (here / "a.yml").read_text() == CONFIG


def test_a_file_that_changes_in_the_last_moment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = two(here)
    real = ledger.begin

    def begin(path: Path, entry: ledger.Entry) -> None:
        real(path, entry)
        (here / "b.yml").write_text("steps: 9\n")

    monkeypatch.setattr(ledger, "begin", begin)
    with pytest.raises(PreflightError, match="changed just now; nothing was written"):
        apply.apply(made, assured="x")
    assert (here / "a.yml").read_text() == CONFIG


def test_a_read_only_file(config: Path) -> None:
    made = step()
    config.chmod(0o444)
    with pytest.raises(DataError, match=r"run\.yml: the file is read-only; `chmod u\+w"):
        apply.apply(made, assured="x")
    assert config.read_text() == CONFIG
    assert not Path(".maxmig-ledger.jsonl").exists()


def test_a_ledger_that_cannot_be_written(config: Path) -> None:
    Path(".maxmig-ledger.jsonl").mkdir()
    with pytest.raises(DataError, match="the ledger cannot be written"):
        apply.apply(step(), assured="x")
    assert config.read_text() == CONFIG
