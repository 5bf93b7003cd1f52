"""Applying without evidence: what can be overridden, is recorded; the impossible cannot."""

from collections.abc import Callable
from pathlib import Path

import pytest
from rollout_files import step

from maxmig.config import Stage
from maxmig.errors import PreflightError
from maxmig.rollout import apply, ledger
from maxmig.rollout.choice import Choice
from maxmig.rollout.era import Era


def test_an_override_is_recorded(config: Path) -> None:
    done = apply.apply(step(), assured="ticket 42")
    assert done.entry is not None
    assert done.entry.assured == "ticket 42"
    assert "no card was given" in done.entry.overridden[0]
    (entry,) = ledger.read(Path(".maxmig-ledger.jsonl")).entries
    assert (entry.assured, entry.overridden) == ("ticket 42", done.entry.overridden)


def test_an_override_that_was_not_needed_is_not_recorded(
    config: Path, card: Callable[..., Path]
) -> None:
    done = apply.apply(step(), [card()], assured="just in case")
    assert done.entry is not None
    assert (done.entry.assured, done.entry.overridden) == (None, ())


def test_a_danger_can_be_overridden_and_is_recorded(here: Path) -> None:
    Path("mt.yml").write_text("pure_nnx: true\nenable_diloco: true\n")
    made = step("mt.yml", to=Stage.BRIDGED, choice=Choice(era=Era.DEFAULT_TRUE), direct=True)
    with pytest.raises(PreflightError, match="enable_diloco: true needs pure_nnx"):
        apply.apply(made)
    done = apply.apply(made, assured="our fork can")
    assert done.entry is not None
    assert any("enable_diloco" in text for text in done.entry.overridden)


def test_the_impossible_cannot_be_overridden(config: Path) -> None:
    config.write_text("stepz: 1\n")
    with pytest.raises(PreflightError, match="cannot be carried out"):
        apply.apply(step(), assured="please")
