"""The end of a migration: the flags leave the files.

A key goes when it says what holds without it, or when the framework no longer has it. No value in
force changes, so no card is needed; where one would change, that is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maxmig.config import flags
from maxmig.errors import PreflightError
from maxmig.rollout import dangers, document, edits, execute
from maxmig.rollout.choice import Choice
from maxmig.rollout.effective import Effective, flag
from maxmig.rollout.era import Era


@dataclass(frozen=True)
class Kept:
    """A key that stays, and why."""

    place: str
    key: str
    reason: str

    def document(self) -> dict[str, str]:
        """The key as plain types."""
        return dict(vars(self))


@dataclass(frozen=True)
class Graduation:
    """What was removed, and what stays."""

    outcome: execute.Outcome
    kept: tuple[Kept, ...]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The facts as plain types."""
        kept = [item.document() for item in self.kept]
        return self.outcome.document() | {"kept": kept, "notes": list(self.notes)}


def graduate(
    names: Sequence[str],
    choice: Choice | None = None,
    *,
    assured: str | None = None,
    dry_run: bool = False,
    command: str = "",
) -> Graduation:
    """Removes the flags that say nothing, or nothing any more.

    Args:
        names: configuration files.
        choice: whose configurations they are.
        assured: the reason to remove a key that asks for Linen from a file of a MaxText that has
            none; it is recorded.
        dry_run: show, write nothing.
        command: the command line, for the ledger.

    Raises:
        PreflightError: a key asks for what the framework no longer has.
        ConfigError: a file cannot be understood.
        DataError: a file cannot be read or written.
    """
    choice = choice or Choice()
    read = [choice.read(name) for name in names]
    steps, kept, refused, notes = [], [], [], []
    for config in read:
        gone, stay, against = _sort(config)
        kept += stay
        refused += against
        if gone:
            steps.append(_step(config, gone))
            notes += _notes(config)
    if refused and assured is None:
        lines = "\n".join(f"  - {line}" for line in refused)
        raise PreflightError(
            f"refused; nothing was changed:\n{lines}\n"
            '--assured "reason" goes on all the same, and records the reason'
        )
    outcome = execute.run(
        steps,
        "graduate",
        dry_run=dry_run,
        assured=assured if refused else None,
        overridden=tuple(refused),
        framework=read[0].framework.document(),
        command=command,
    )
    return Graduation(outcome, tuple(kept), tuple(dict.fromkeys(notes)))


def _sort(
    config: Effective,
) -> tuple[dict[tuple[str, ...], bool | None], list[Kept], list[str]]:
    """The keys that go, those that stay, and what stands against it."""
    gone: dict[tuple[str, ...], bool | None] = {}
    stay, against = [], []
    removed = config.framework.era is Era.REMOVED
    for key in flags.KEYS:
        item = config.doc.own(key)
        if item is None:
            merged = config.doc.get(key)
            if merged is not None:
                place = f"{config.name}:{merged.line}"
                stay.append(Kept(place, key, "comes through a merge key (<<); remove it there"))
            continue
        value, problem = flag(item, config.framework)
        place = f"{config.name}:{item.line}"
        if removed or key not in config.framework.defaults:
            gone[(key,)] = value
            if value is not config.framework.default(key):
                against.append(
                    f"{place}: {key}: {document.written(config.doc, item)} asks for Linen, which "
                    f"{config.framework.title} does not have: without the key the file runs NNX. "
                    "Safe way: climb to nnx with the MaxText before, then graduate"
                )
            continue
        below, origin = _below(config, key)
        if problem:
            stay.append(Kept(place, key, problem))
        elif value is below:
            gone[(key,)] = value
        else:
            word = str(below).lower()
            stay.append(Kept(place, key, f"without it, it would be {word} ({origin})"))
    if removed:
        for owner, item in dangers.nested(config):
            gone[(owner, item.key)] = flag(item, config.framework)[0]
    return gone, stay, against


def _below(config: Effective, key: str) -> tuple[bool | None, str]:
    """The value that holds without the file's own key, and its place.

    A parent that loses its key in the same command keeps its value, so nothing changes for those
    that stand on it.
    """
    links = [link for link in config.sources[key] if link.path != config.path]
    return (links[-1].value, links[-1].place) if links else (None, "nothing")


def _step(config: Effective, gone: Mapping[tuple[str, ...], bool | None]) -> execute.Step:
    changes = []
    for path, value in gone.items():
        item = config.doc.own(path[-1], path[:-1])
        assert item is not None
        changes.append(
            {
                "key": ".".join(path),
                "action": "remove",
                "line": item.line,
                "old": document.written(config.doc, item),
                "new": None,
                "before": value,
                "after": value,
                "origin": f"{config.name}:{item.line}",
            }
        )
    return execute.Step(
        path=config.path,
        name=config.name,
        before=config.doc.text.encode(),
        splices=edits.edit(config.doc, dict.fromkeys(gone), siblings=flags.KEYS),
        changes=tuple(changes),
    )


def _notes(config: Effective) -> list[str]:
    if config.framework.name == "maxtext" and config.framework.era is Era.DEFAULT_FALSE:
        return [
            "MaxText takes the flags to be true since 0.2.4: after an update, a file without them "
            "runs NNX"
        ]
    return []
