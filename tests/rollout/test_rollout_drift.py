"""Files that are not as planned: nothing is changed."""

from pathlib import Path

import pytest
from rollout_files import CONFIG, step

from maxmig.errors import DataError, PreflightError
from maxmig.rollout import apply, ledger


def test_a_file_that_changed_since_the_plan(config: Path) -> None:
    made = step()
    config.write_text(CONFIG + "# a comment\n")
    with pytest.raises(PreflightError, match=r"run\.yml: the file changed since the plan"):
        apply.apply(made, assured="no reason helps")
    assert config.read_text() == CONFIG + "# a comment\n"


def test_a_parent_that_changed_since_the_plan(config: Path) -> None:
    Path("parent.yml").write_text("base_config: tiny_llama2.yml\n")
    config.write_text("base_config: parent.yml\n")
    made = step()
    Path("parent.yml").write_text("base_config: tiny_llama2.yml\nenable_nnx: true\n")
    with pytest.raises(PreflightError, match=r"parent\.yml, on which it stands, changed"):
        apply.apply(made, assured="no reason helps")
    Path("parent.yml").unlink()
    with pytest.raises(PreflightError, match=r"parent\.yml, on which it stands, changed"):
        apply.apply(made, assured="no reason helps")


def test_a_file_that_is_gone(config: Path) -> None:
    made = step()
    config.unlink()
    with pytest.raises(DataError, match=r"run\.yml: no such file"):
        apply.apply(made, assured="x")


def test_applying_twice_does_nothing(config: Path) -> None:
    made = step()
    apply.apply(made, assured="x")
    done = apply.apply(made)
    assert (done.entry, done.files) == (None, ())
    assert len(ledger.read(Path(".maxmig-ledger.jsonl")).entries) == 1
