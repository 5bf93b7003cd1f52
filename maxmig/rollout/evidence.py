"""Is there a card for this step? A flip needs one that is fresh, PASS, and about this very step."""

import datetime
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import config as configuration
from maxmig.config.flags import Stage
from maxmig.errors import ConfigError, MaxmigError
from maxmig.rollout import dangers

if TYPE_CHECKING:
    from maxmig.parity.reports.card import Card

MAX_AGE = "14d"
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Finding:
    """What the cards say of one file.

    Attributes:
        card: the facts of the card that fits, for the ledger; None if none does.
        problems: why none does.
        digest: the configuration's, without the three flags; None if no card was looked at.
    """

    card: Mapping[str, Any] | None
    problems: tuple[str, ...]
    digest: str | None


def age(text: str) -> datetime.timedelta:
    """A duration such as 14d, 36h, 90m or 2w.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhdw])", text.strip().lower())
    try:
        if match is None:
            raise ValueError(text)
        return datetime.timedelta(**{_UNITS[match[2]]: float(match[1])})
    except (ValueError, OverflowError):
        raise ConfigError(f"expected a duration such as 14d, 36h or 90m, got {text!r}") from None


def parity_command(path: str, control: str, candidate: str) -> str:
    """The command line that makes the card for a step."""
    words = ["maxmig", "parity", "run", path, "--control", control, "--candidate", candidate]
    return shlex.join([*words, "--run-dir", "parity"])


def unloadable(path: Path, candidate: str) -> str:
    """Why there can be no card about a file; empty if there can."""
    try:
        configuration.load(path, dangers.overrides(Stage(candidate)))
    except MaxmigError as error:
        return (
            "maxmig cannot load it, so no card of `maxmig parity run` is about it: "
            f"{_first(str(error))}"
        )
    return ""


def find(
    path: Path,
    cards: Sequence[Path],
    control: str | None,
    candidate: str,
    max_age: datetime.timedelta,
    now: datetime.datetime | None = None,
) -> Finding:
    """Looks for the card that shows parity of two rungs of a configuration.

    Raises:
        DataError: a card is missing or no card.
    """
    if problem := unloadable(path, candidate):
        return Finding(None, (problem,), None)
    cfg = configuration.load(path, dangers.overrides(Stage(candidate)))
    if control is None:
        problem = "its flags contradict each other now: there is no rung to compare with"
        return Finding(None, (problem,), None)
    if not cards:
        command = parity_command(str(path), control, candidate)
        return Finding(None, (f"no card was given; `{command}` makes one: --card parity",), None)
    from maxmig.parity.reports.card import Card, config_digest  # seconds: JAX comes with it

    loaded = [(place, Card.load(place)) for place in cards]
    digest = config_digest(cfg)
    problems: list[str] = []
    for place, card in loaded:
        found = card.problems(cfg, control, candidate, max_age, now) or _thin(card)
        if not found:
            return Finding(_facts(place, card), (), digest)
        problems += [f"{place}: {text}" for text in found]
    return Finding(None, tuple(problems), digest)


def _thin(card: "Card") -> list[str]:
    """Why a card that passed saw too little for a flip."""
    passed = {name for name, level in card.levels.items() if level.get("verdict") == "PASS"}
    if not passed & {"static", "native"}:
        return ["neither a proof (L0) nor real arrays (L2) passed; run parity with both"]
    if "static" not in passed and not card.coverage.get("steps"):
        return ["no optimizer step was compared; run parity with --steps 5 or the proof (L0)"]
    return []


def _first(message: str) -> str:
    """The first of the problems that a message lists, and how many there are."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[1]}"


def _facts(place: Path, card: "Card") -> dict[str, Any]:
    return {
        "card": str(place),
        "seal": card.seal,
        "verdict": card.verdict,
        "made": card.made,
        "levels": {name: level.get("verdict") for name, level in card.levels.items()},
        "control": card.subject.get("control"),
        "candidate": card.subject.get("candidate"),
        "code_digest": card.subject.get("code_digest"),
        "checkpoint": card.subject.get("checkpoint"),
        "command": card.command,
    }
