"""The ledger: who changed which flags of which file, when, on which evidence, and how to go back.

One JSON object a line, beside the configurations. Before files are written an entry is appended
that says what will be done; after it, a line that says that it was. So a kill in between is seen.
Each line holds the hash of the one before, so that a line that was edited or lost is noticed.
"""

import contextlib
import datetime
import getpass
import hashlib
import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maxmig.errors import ConfigError, DataError
from maxmig.rollout.splice import Splice

NAME = ".maxmig-ledger.jsonl"
SCHEMA_VERSION = 1
KINDS = ("apply", "rollback", "graduate")
BEGUN, DONE, ABANDONED = "begun", "done", "abandoned"
_DEPTH = 6


@dataclass(frozen=True)
class FileChange:
    """What happened to one file; `path` is relative to the ledger's folder."""

    path: str
    sha256_before: str
    sha256_after: str
    changes: tuple[Mapping[str, Any], ...]
    splices: tuple[Splice, ...]
    control: str | None = None
    candidate: str | None = None
    evidence: Mapping[str, Any] | None = None
    config_digest: str | None = None
    vcs: str | None = None

    def document(self) -> dict[str, Any]:
        """The change as plain types."""
        return {
            **{k: v for k, v in vars(self).items() if k not in ("changes", "splices")},
            "changes": [dict(change) for change in self.changes],
            "splices": [splice.document() for splice in self.splices],
        }

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "FileChange":
        """The change from plain types."""
        return cls(
            **{k: v for k, v in found.items() if k not in ("changes", "splices")},
            changes=tuple(found["changes"]),
            splices=tuple(Splice(**splice) for splice in found["splices"]),
        )


@dataclass(frozen=True)
class Entry:
    """One change of one or more files.

    Attributes:
        id: names the entry, for `maxmig flags rollback`.
        kind: apply, rollback or graduate.
        when: ISO 8601, UTC.
        who: user and machine.
        files: what happened to each file.
        assured: the reason a person gave to override a refusal.
        overridden: what was refused and overridden.
        of: the entry that a rollback took back.
        framework: whose flags they are: name, version and era.
        command: the command line.
        maxmig: the version of the tool.
        state: done; abandoned, with the files as they were; or begun, when the process was killed
            in between and some files may be written.
    """

    id: str
    kind: str
    when: str
    who: str
    files: tuple[FileChange, ...]
    assured: str | None = None
    overridden: tuple[str, ...] = ()
    of: str | None = None
    framework: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    maxmig: str = ""
    state: str = BEGUN

    def document(self) -> dict[str, Any]:
        """The entry as plain types, without `state`, which is a line of its own."""
        found = {name: value for name, value in vars(self).items() if name != "state"}
        return found | {"files": [file.document() for file in self.files]}


@dataclass(frozen=True)
class Ledger:
    """A ledger file that was read: its entries in order, and what is wrong with its lines."""

    path: Path
    entries: tuple[Entry, ...]
    problems: tuple[str, ...]

    def find(self, name: str) -> Entry:
        """The entry of an id, or of the beginning of one.

        Where several begin so, those that can be taken back count: neither a rollback nor an entry
        that was taken back already.

        Raises:
            ConfigError: there is none, or several begin so.
        """
        found = [entry for entry in self.entries if entry.id.startswith(name)]
        gone = {e.of for e in self.entries if e.state == DONE}
        standing = [
            e
            for e in self.entries
            if e.kind != "rollback" and e.id not in gone and e.state != ABANDONED
        ]
        if len(found) > 1:
            found = [entry for entry in found if entry in standing] or found
        if len(found) != 1:
            reason = "several entries" if found else "no entry"
            likely = [e.id for e in found or standing][-5:]
            told = (
                f"they are: {', '.join(likely)}"
                if found
                else (f"what can be taken back: {', '.join(likely) or 'nothing'}")
            )
            raise ConfigError(f"{self.path}: {reason} with the id {name!r}; {told}")
        return found[0]


def new_id(now: datetime.datetime) -> str:
    """A name for an entry: when it was made, and what makes it unique."""
    return f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def who() -> str:
    """The user and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # no name for this user id
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{platform.node() or 'unknown'}"


def place(paths: Sequence[Path]) -> Path:
    """The ledger of some files: the nearest one that is there already, or in their folder."""
    folder = Path(os.path.commonpath([path.resolve().parent for path in paths]))
    for candidate in (folder, *folder.parents):
        if (candidate / NAME).is_file():
            return candidate / NAME
        if (candidate / ".git").exists():
            break
    return folder / NAME


def read(path: Path) -> Ledger:
    """Reads a ledger; damaged lines are reported in `problems`, with their place.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    entries: dict[str, Entry] = {}
    problems, previous = [], ""
    for number, line in enumerate(_lines(path), 1):
        try:
            found = json.loads(line)
            if found.pop("previous") != previous:
                problems.append(f"{path}:{number}: the line before was changed or removed")
            previous = _hash(line)
            if "state" in found:
                old = entries[found["id"]]
                entries[old.id] = Entry(**vars(old) | {"state": found["state"]})
                continue
            entry = _entry(found)
            entries[entry.id] = entry
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problems.append(f"{path}:{number}: not a line of a ledger: {type(error).__name__}")
            previous = _hash(line)
    return Ledger(path, tuple(entries.values()), tuple(problems))


def begin(path: Path, entry: Entry) -> None:
    """Appends an entry, before its files are written; DataError if that is not possible."""
    _append(path, entry.document())


def close(path: Path, entry: Entry, state: str) -> None:
    """Appends how an entry ended: DONE or ABANDONED."""
    _append(path, {"id": entry.id, "state": state})


def search(start: Path) -> Iterator[Path]:
    """The ledgers above a folder and below it, the nearest first."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / NAME).is_file():
            yield folder / NAME
    for name, folders, files in os.walk(start):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "node_modules")
        if len(Path(name).relative_to(start).parts) >= _DEPTH:
            folders.clear()
        if NAME in files and Path(name) != start:
            yield Path(name) / NAME


def _append(path: Path, found: Mapping[str, Any]) -> None:
    try:
        with path.open("ab+") as stream, _locked(stream):
            stream.seek(0)
            lines = stream.read().decode("utf-8", "replace").splitlines()
            broken = "\n" if stream.tell() and not _ends(stream) else ""
            line = json.dumps(
                {"previous": _hash(lines[-1]) if lines else "", **found}, ensure_ascii=False
            )
            stream.write(f"{broken}{line}\n".encode())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise DataError(f"{path}: the ledger cannot be written: {error.strerror}") from error


def _ends(stream: Any) -> bool:
    stream.seek(-1, os.SEEK_END)
    return bool(stream.read(1) == b"\n")


@contextlib.contextmanager
def _locked(stream: Any) -> Iterator[None]:
    """Two appends at one time would both name the same line before them."""
    try:
        import fcntl
    except ImportError:  # not on this platform
        yield
        return
    fcntl.flock(stream, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(stream, fcntl.LOCK_UN)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such ledger; `maxmig flags apply` and `graduate` write one beside the "
            "configurations"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _entry(found: dict[str, Any]) -> Entry:
    if found.pop("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ValueError("another schema")
    if found["kind"] not in KINDS:
        raise ValueError(found["kind"])
    files = tuple(FileChange.of(file) for file in found.pop("files"))
    return Entry(**found | {"files": files, "overridden": tuple(found["overridden"])})


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()[:16]
