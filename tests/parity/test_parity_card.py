"""The card: sealed, and evidence only for what it is about."""

import dataclasses
import datetime

import pytest
import yaml

from maxmig import errors
from maxmig.parity import faults
from maxmig.parity.reports import card as cards
from maxmig.parity.reports.card import Card

NOW = datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def good(tiny) -> Card:
    subject = {
        "config_digest": cards.config_digest(tiny()),
        "code_digest": cards.code_digest(),
        "control": "linen",
        "candidate": "nnx",
    }
    levels = {"native": {"verdict": "PASS", "passes_at": 1e-05}}
    return Card("PASS", subject, levels, {}, "maxmig parity run x", "2026-03-01T00:00:00Z").sealed()


def test_a_good_card_has_no_problems(good, tiny, tmp_path):
    again = Card.load(good.write(tmp_path / "deep" / "card.yaml"))
    assert again == good and again.genuine
    assert again == Card.load(tmp_path / "deep")
    assert again.problems(tiny(), "linen", "nnx", 2 * DAY, NOW) == []


def test_the_flags_have_no_say(good, tiny):
    assert good.problems(tiny(enable_nnx=True, pure_nnx=True), "linen", "nnx", None, NOW) == []
    assert cards.config_digest(tiny()) != cards.config_digest(tiny(learning_rate=2e-3))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"verdict": "FAIL"}, "its verdict is FAIL"),
        ({"made": "2026-02-20T00:00:00Z"}, "it is 10.0 days old, and may be 2.0 days old at most"),
        ({"made": "2026-03-09T00:00:00Z"}, "made in the future"),
        ({"made": "yesterday"}, "does not say when it was made"),
        ({"coverage": {"only": ["logits"]}}, "it is about logits only"),
        (
            {"coverage": {"faults": ["a fault was put in on purpose: x"]}},
            "no comparison of two rungs",
        ),
    ],
)
def test_a_card_that_proves_too_little(good, tiny, change, text):
    card = dataclasses.replace(good, **change).sealed()
    (problem,) = card.problems(tiny(), "linen", "nnx", 2 * DAY, NOW)
    assert text in problem


def test_a_card_about_something_else(good, tiny):
    (problem,) = good.problems(tiny(learning_rate=1e-4), "linen", "nnx", None, NOW)
    assert "the configuration changed after it was made" in problem
    (problem,) = good.problems(tiny(), "linen", "bridged-decoder", None, NOW)
    assert "it is about linen -> nnx, but linen -> bridged-decoder was asked for" in problem
    other = good.subject | {"code_digest": "0" * 64}
    card = dataclasses.replace(good, subject=other).sealed()
    assert "maxmig's code is not the one" in card.problems(tiny(), "linen", "nnx", None, NOW)[0]


def test_an_edited_card_is_found(good, tiny, tmp_path):
    path = dataclasses.replace(good, verdict="FAIL").write(tmp_path / "card.yaml")
    path.write_text(path.read_text().replace("verdict: FAIL", "verdict: PASS"))
    card = Card.load(path)
    assert not card.genuine
    assert "edited after it was made" in card.problems(tiny(), "linen", "nnx", None, NOW)[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a card, a mapping, got NoneType"),
        ("- 1", "a mapping, got list"),
        ("a: [", "expected a card (YAML)"),
        ("schema_version: 9", "expected a card of schema_version 1, got 9"),
        ("schema_version: 1\nverdict: 3", "verdict: expected a str, got int"),
    ],
)
def test_what_is_no_card(tmp_path, text, message):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(errors.DataError) as caught:
        Card.load(tmp_path / "card.yaml")
    assert message in str(caught.value) and "card.yaml" in str(caught.value)


def test_no_card_and_one_key_too_many(good, tmp_path):
    with pytest.raises(errors.DataError, match="no such card; `maxmig parity run"):
        Card.load(tmp_path)
    path = good.write(tmp_path / "card.yaml")
    path.write_text(path.read_text() + "more: 1\n")
    with pytest.raises(errors.DataError, match="unknown keys in the card: more"):
        Card.load(path)


def test_the_card_of_a_run(tiny, compare):
    cfg = tiny()
    card = compare(cfg, steps=2).card()
    assert card.genuine and card.verdict == "PASS"
    assert card.problems(cfg, "linen", "nnx") == []
    assert card.levels["native"]["checks"]["gradients"] == "PASS"
    assert card.coverage["steps"] == 2 and card.coverage["tokens"] > 0
    assert card.coverage["longest"] == 16 and len(card.subject["checkpoint_hash"]) == 64
    assert yaml.safe_load(yaml.safe_dump(card.document())) == card.document()
    broken = compare(cfg, steps=0, only=("logits",), fault=faults.Fault("nothing")).card()
    problems = broken.problems(cfg, "linen", "nnx")
    assert len(problems) == 2 and "logits only" in problems[0] and "on purpose" in problems[1]
