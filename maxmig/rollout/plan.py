"""A plan: which keys of which files change, from which rung to which, and what is dangerous in it.

A plan writes nothing but itself. It holds the hash of every file that it was made from and of
what each file will be, and a seal over all of it, so that `apply` does exactly what was read, or
nothing.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import maxmig
from maxmig import digests, errors
from maxmig.config import flags
from maxmig.config.flags import LADDER, Stage
from maxmig.rollout import dangers, document, edits, heirs, splice
from maxmig.rollout.choice import Choice
from maxmig.rollout.dangers import Danger, Severity
from maxmig.rollout.effective import Effective
from maxmig.rollout.era import Era

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Change:
    """One key of one file.

    Attributes:
        key: the flag.
        action: replace, add, remove.
        line: where it stands now; None if it is added.
        old: the text of the value in the file; None if it is added.
        new: the text of the value to be; None if it is removed.
        before: the value in force.
        after: the value that will be.
        origin: where the value in force comes from.
    """

    key: str
    action: str
    line: int | None
    old: str | None
    new: str | None
    before: bool | None
    after: bool
    origin: str


@dataclass(frozen=True)
class FilePlan:
    """What happens to one file.

    Attributes:
        path: as the user gave it, relative to the folder that the plan was made in.
        control: the rung that runs now; None if the flags contradict each other.
        candidate: the rung that will run.
        changes: the keys; none if the file is there already.
        dangers: what can go wrong.
        left: the rungs that remain until the goal.
        chain: SHA-256 of every file that the values come from.
        sha256_before: of the file as it is.
        sha256_after: of the file as it will be.
        framework: whose flags they are.
        notes: what else a reader should know.
    """

    path: str
    control: str | None
    candidate: str
    changes: tuple[Change, ...]
    dangers: tuple[Danger, ...]
    left: tuple[str, ...]
    chain: Mapping[str, str]
    sha256_before: str
    sha256_after: str
    framework: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def blocked(self) -> bool:
        """Whether a danger stands in the way."""
        return any(danger.severity is not Severity.WARNING for danger in self.dangers)

    @property
    def needs_evidence(self) -> bool:
        """Whether another rung will run, so that parity must be shown first."""
        return bool(self.changes) and self.control != self.candidate

    def document(self) -> dict[str, Any]:
        """The plan of the file as plain types."""
        return {
            **vars(self),
            "changes": [vars(change) for change in self.changes],
            "dangers": [danger.document() for danger in self.dangers],
        }

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "FilePlan":
        """The plan of a file from plain types."""
        return cls(
            **{
                **found,
                "changes": tuple(Change(**change) for change in found["changes"]),
                "dangers": tuple(Danger.of(danger) for danger in found["dangers"]),
                "left": tuple(found["left"]),
                "notes": tuple(found["notes"]),
            }
        )


@dataclass(frozen=True)
class Plan:
    """The plan of all files; see `make`."""

    goal: str
    direct: bool
    made: str
    maxmig: str
    files: tuple[FilePlan, ...]

    @property
    def pending(self) -> tuple[FilePlan, ...]:
        """The files that will change."""
        return tuple(file for file in self.files if file.changes)

    @property
    def blocked(self) -> tuple[FilePlan, ...]:
        """The files that cannot change as planned."""
        return tuple(file for file in self.files if file.blocked)

    def document(self) -> dict[str, Any]:
        """The plan as plain types, sealed."""
        found = {
            "schema_version": SCHEMA_VERSION,
            "kind": "maxmig flags plan",
            **vars(self),
            "files": [file.document() for file in self.files],
        }
        return found | {"seal": digests.of_json(found)}

    def write(self, path: Path) -> None:
        """Writes the plan as JSON; an older plan is replaced, any other file is not.

        Raises:
            DataError: something else is there, or it cannot be written.
        """
        try:
            if path.exists() and not _is_plan(path):
                raise errors.DataError(f"{path}: exists and is no plan; name another file")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.document(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise errors.DataError(f"{path}: not written: {error.strerror}") from None

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Reads a plan.

        Raises:
            DataError: it is missing or no plan (exit code 4).
            PreflightError: it was changed after it was made.
        """
        try:
            found = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise errors.DataError(
                f"{path}: no such plan; `maxmig flags plan --to nnx CONFIG -o {path}` writes one"
            ) from None
        except (OSError, ValueError) as error:
            raise errors.DataError(f"{path}: expected a plan (JSON), but: {error}") from None
        if not isinstance(found, dict) or found.get("schema_version") != SCHEMA_VERSION:
            raise errors.DataError(
                f"{path}: expected a plan of `maxmig flags plan`, schema_version {SCHEMA_VERSION}"
            )
        seal = found.pop("seal", None)
        if seal != digests.of_json(found):
            raise errors.PreflightError(
                f"{path}: the plan was edited after it was made (its seal does not fit); make it "
                "again"
            )
        files = tuple(FilePlan.of(file) for file in found["files"])
        return cls(found["goal"], found["direct"], found["made"], found["maxmig"], files)


def make(
    names: Sequence[str], goal: Stage, choice: Choice | None = None, *, direct: bool = False
) -> Plan:
    """Plans the way to a rung, one rung up or down, or all the way.

    Args:
        names: configuration files.
        goal: the rung to reach in the end.
        choice: whose configurations they are.
        direct: go to the goal in one step.

    Raises:
        DataError: a file is missing or cannot be read.
        ConfigError: a file cannot be understood, or is named twice.
    """
    choice = choice or Choice()
    real = [Path(name).resolve() for name in names]
    twice = [name for i, name in enumerate(names) if real[i] in real[:i]]
    if twice:
        raise errors.ConfigError(f"{twice[0]}: named twice")
    read = [choice.read(name) for name in names]
    files = [_plan(config, goal, direct, choice) for config in read]
    files = _inherit(read, files)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Plan(goal.value, direct, now, maxmig.__version__, tuple(files))


def next_rung(here: Stage, goal: Stage) -> Stage:
    """The neighbour of a rung on the way to the goal."""
    if here is goal:
        return here
    return LADDER[here.order + (1 if goal.order > here.order else -1)]


def splices(doc: Any, changes: Sequence[Change]) -> tuple[splice.Splice, ...]:
    """The splices that make the changes in a file."""
    wanted: dict[document.KeyPath, str | None] = {(c.key,): c.new for c in changes}
    return edits.edit(doc, wanted, siblings=flags.KEYS)


def _plan(config: Effective, goal: Stage, direct: bool, choice: Choice) -> FilePlan:
    control, notes = _control(config)
    gone = config.framework.era is Era.REMOVED  # no flags, no ladder
    candidate = goal if direct or gone or control is None else next_rung(control, goal)
    found = dangers.find(config, candidate, control)
    changes: tuple[Change, ...] = ()
    if not any(danger.severity is Severity.IMPOSSIBLE for danger in found):
        changes = _changes(config, candidate)
    raw = config.doc.text.encode()
    after = splice.apply(raw, splices(config.doc, changes)) if changes else raw
    step = 1 if goal.order > candidate.order else -1
    left = tuple(LADDER[i].value for i in range(candidate.order + step, goal.order + step, step))
    return FilePlan(
        path=config.name,
        control=control.value if control else None,
        candidate=candidate.value,
        changes=changes,
        dangers=tuple(found),
        left=() if candidate is goal else left,
        chain={_relative(path): _hash(path) for path, _ in config.documents},
        sha256_before=splice.sha256(raw),
        sha256_after=splice.sha256(after),
        framework=config.framework.document(),
        notes=(
            *notes,
            *config.notes,
            *_redundant(config, changes),
            *heirs.notes(config, [change.key for change in changes], choice),
        ),
    )


def _control(config: Effective) -> tuple[Stage | None, list[str]]:
    """The rung that runs now; a contradiction can be planned away, to the goal at once."""
    values = config.values()
    try:
        return config.stage, []
    except errors.ConfigError as error:
        return None, [f"now: {str(error).splitlines()[0]}", f"values in force: {values}"]


def _changes(config: Effective, target: Stage) -> tuple[Change, ...]:
    made = []
    for key, value in target.flags.as_dict().items():
        origin = config.origin(key)
        own = config.doc.own(key)
        lacks = config.framework.name == "maxtext" and key not in config.framework.defaults
        if origin.value == value or lacks:
            continue
        text = edits.render(value, config.doc, flags.KEYS, key)
        old = document.written(config.doc, own) if own else None
        made.append(
            Change(
                key,
                "replace" if own else "add",
                own.line if own else None,
                old,
                text,
                origin.value,
                value,
                origin.place,
            )
        )
    return tuple(made)


def _inherit(read: Sequence[Effective], files: Sequence[FilePlan]) -> list[FilePlan]:
    """Leaves out what a file will inherit from another file of the same plan."""
    given = {
        (config.path.resolve(), change.key): change.after
        for config, file in zip(read, files, strict=True)
        for change in file.changes
    }
    made = []
    for config, file in zip(read, files, strict=True):
        kept = []
        for change in file.changes:
            path = config.origin(change.key).path
            source = None if path is None else given.get((path.resolve(), change.key))
            if change.action != "add" or source != change.after:
                kept.append(change)
        if len(kept) < len(file.changes):
            raw = config.doc.text.encode()
            after = splice.apply(raw, splices(config.doc, kept)) if kept else raw
            notes = (*file.notes, "inherits the rest from another file of this plan")
            file = FilePlan(
                **vars(file)
                | {"changes": tuple(kept), "sha256_after": splice.sha256(after), "notes": notes}
            )
        made.append(file)
    return made


def _redundant(config: Effective, changes: Sequence[Change]) -> list[str]:
    """The keys that say what holds without them."""
    found = []
    for key in flags.KEYS:
        item = config.doc.own(key)
        below = [source for source in config.sources[key] if source.path != config.path]
        if item is None or any(change.key == key for change in changes) or not below:
            continue
        if config.framework.era is not Era.REMOVED and below[-1].value is config.value(key):
            found.append(
                f"line {item.line}: {key} says what holds without it ({below[-1].place}); "
                "graduate removes it"
            )
    return found


def _relative(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path.resolve())


def _hash(path: Path) -> str:
    return splice.sha256(path.read_bytes())


def _is_plan(path: Path) -> bool:
    try:
        return "seal" in json.loads(path.read_text("utf-8"))
    except (ValueError, TypeError):
        return False
