"""Applying on evidence: which cards let a plan through, and which do not."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollout_files import CONFIG, step

from maxmig.errors import ConfigError, DataError, PreflightError
from maxmig.rollout import apply, evidence, ledger

DAY = datetime.timedelta(days=1)


def test_a_good_card_lets_it_through(config: Path, card: Callable[..., Path]) -> None:
    done = apply.apply(step(), [card()], command="maxmig flags apply plan.json")
    assert config.read_text() == CONFIG + "enable_nnx: true\n"
    (entry,) = ledger.read(Path(".maxmig-ledger.jsonl")).entries
    assert done.entry is not None
    assert entry.id == done.entry.id
    assert (entry.kind, entry.state, entry.assured) == ("apply", ledger.DONE, None)
    assert entry.command == "maxmig flags apply plan.json"
    assert "@" in entry.who
    (file,) = entry.files
    assert file.evidence is not None
    assert file.evidence["verdict"] == "PASS"
    assert file.evidence["card"].endswith("card.yaml")
    assert (file.control, file.candidate) == ("linen", "bridged-decoder")


def test_a_proof_alone_is_enough(config: Path, card: Callable[..., Path]) -> None:
    assert apply.apply(step(), [card(level="static", coverage={"steps": 0})]).entry


def test_the_folder_of_a_run_is_a_card_too(config: Path, card: Callable[..., Path]) -> None:
    card(name="run/card.yaml")
    assert apply.apply(step(), [Path("run")]).entry


CARDS = [
    ({"verdict": "FAIL"}, "its verdict is FAIL, not PASS"),
    ({"verdict": "INCONCLUSIVE"}, "its verdict is INCONCLUSIVE"),
    ({"control": "bridged", "candidate": "hybrid"}, "it is about bridged -> hybrid"),
    ({"control": "bridged-decoder", "candidate": "linen"}, "it is about bridged-decoder -> linen"),
    ({"config_digest": "0" * 64}, "the configuration changed after it was made"),
    ({"code_digest": "0" * 64}, "maxmig's code is not the one that made it"),
    ({"age": 15 * DAY}, "it is 15.0 days old, and may be 14.0 days old at most"),
    ({"age": -DAY}, "made in the future"),
    ({"coverage": {"steps": 5, "only": ["logits"]}}, "logits only"),
    ({"coverage": {"steps": 5, "faults": ["a fault was put in on purpose"]}}, "on purpose"),
    ({"coverage": {"steps": 0}}, "no optimizer step was compared"),
    ({"level": "behaviour"}, "neither a proof (L0) nor real arrays (L2) passed"),
]


@pytest.mark.parametrize(("facts", "says"), CARDS)
def test_a_bad_card_is_refused(
    config: Path, card: Callable[..., Path], facts: dict[str, Any], says: str
) -> None:
    with pytest.raises(PreflightError) as caught:
        apply.apply(step(), [card(**facts)])
    assert says in str(caught.value)
    assert "--assured" in str(caught.value)
    assert config.read_text() == CONFIG
    assert not Path(".maxmig-ledger.jsonl").exists()


def test_a_forged_card_is_refused(config: Path, card: Callable[..., Path]) -> None:
    path = card(verdict="FAIL")
    path.write_text(path.read_text().replace("FAIL", "PASS"))
    with pytest.raises(PreflightError, match="its seal does not fit"):
        apply.apply(step(), [path])


def test_a_configuration_that_changed_after_its_card(
    config: Path, card: Callable[..., Path]
) -> None:
    path = card()
    config.write_text(CONFIG.replace("steps: 4", "steps: 5"))
    with pytest.raises(PreflightError, match="the configuration changed after it was made"):
        apply.apply(step(), [path])


def test_the_flags_have_no_say_in_the_card(config: Path, card: Callable[..., Path]) -> None:
    """A card made before the first step is good for the step that it is about, at any rung."""
    path = card(control="bridged-decoder", candidate="bridged")
    apply.apply(step(), assured="first step")
    assert apply.apply(step(), [path]).entry


def test_the_maximal_age_is_a_choice(config: Path, card: Callable[..., Path]) -> None:
    path = card(age=3 * DAY)
    with pytest.raises(PreflightError, match=r"3\.0 days old"):
        apply.apply(step(), [path], max_age=2 * DAY)
    assert apply.apply(step(), [path], max_age=4 * DAY).entry


def test_durations() -> None:
    assert [evidence.age(text) / DAY for text in ("14d", "36h", "1.5d", "2w", "720m")] == [
        14,
        1.5,
        1.5,
        14,
        0.5,
    ]
    for text in ("14", "d", "-1d", "14 days", "", "9e9d", f"{'9' * 30}w"):
        with pytest.raises(ConfigError, match="expected a duration"):
            evidence.age(text)


def test_no_card(config: Path) -> None:
    with pytest.raises(PreflightError) as caught:
        apply.apply(step())
    assert "maxmig parity run run.yml --control linen --candidate bridged-decoder" in str(
        caught.value
    )
    with pytest.raises(DataError, match="no such card"):
        apply.apply(step(), [Path("missing.yaml")])
    Path("odd.yaml").write_text("a: 1\n")
    with pytest.raises(DataError, match="expected a card"):
        apply.apply(step(), [Path("odd.yaml")])
