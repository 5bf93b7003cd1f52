"""Takes an entry of the ledger back: the very bytes, or the keys alone if the file moved on."""

from pathlib import Path
from typing import Any

from maxmig.config import reader
from maxmig.errors import DataError, PreflightError
from maxmig.rollout import document, edits, execute, ledger, splice
from maxmig.rollout.document import Document
from maxmig.rollout.ledger import Entry, FileChange


def rollback(
    place: Path, name: str, *, dry_run: bool = False, command: str = ""
) -> execute.Outcome:
    """Restores the files of an entry.

    A file whose bytes are those that the entry left gets its old bytes back. In one that moved on,
    the keys of the entry get their old texts back, and only if they still say what the entry wrote.

    Args:
        place: the ledger.
        name: the entry's id, or the beginning of it.
        dry_run: show, write nothing.
        command: the command line, for the ledger.

    Raises:
        ConfigError: there is no such entry.
        PreflightError: a key says something else by now, or the entry is a rollback itself.
        DataError: a file is missing or cannot be written.
    """
    book = ledger.read(place)
    entry = book.find(name)
    if entry.kind == "rollback":
        raise PreflightError(
            f"{entry.id} is a rollback itself; to go forward again, plan and apply with a card"
        )
    steps = []
    for change in entry.files:
        path = place.parent / change.path
        step = _step(path, change, entry)
        if step is not None:
            steps.append(step)
    return execute.run(
        steps,
        "rollback",
        dry_run=dry_run,
        place=place,
        of=entry.id,
        framework=entry.framework,
        command=command,
    )


def _step(path: Path, change: FileChange, entry: Entry) -> execute.Step | None:
    name = _shown(path)
    try:
        raw = document.read_bytes(path, name)
    except DataError as error:
        raise DataError(f"{error}; it was changed by {entry.id} and is gone or elsewhere") from None
    now = splice.sha256(raw)
    if now == change.sha256_before:
        return None
    if now == change.sha256_after:
        made = splice.inverse(change.splices)
        if splice.sha256(splice.apply(raw, made)) != change.sha256_before:
            raise PreflightError(f"{name}: the ledger's entry {entry.id} does not fit the file")
    else:
        made = _keys_only(Document.parse(reader.decode(raw, name), name), change, entry)
        if not made:
            return None
    return execute.Step(
        path=path,
        name=name,
        before=raw,
        splices=made,
        changes=tuple(_backwards(item) for item in change.changes),
        control=change.candidate,
        candidate=change.control,
        config_digest=change.config_digest,
    )


def _keys_only(doc: Document, change: FileChange, entry: Entry) -> tuple[splice.Splice, ...]:
    """The file moved on: only the keys go back, if nobody touched them since."""
    wanted: dict[tuple[str, ...], str | None] = {}
    for item in change.changes:
        path = tuple(item["key"].split("."))
        here = doc.own(path[-1], path[:-1])
        text = None if here is None else document.written(doc, here)
        if text == item["old"]:
            continue
        if text != item["new"]:
            says = "is gone" if text is None else f"says {text}"
            raise PreflightError(
                f"{doc.name}: the file changed since {entry.id}, and {item['key']} {says} where "
                f"{item['new'] or 'nothing'} was written; set it by hand"
            )
        wanted[path] = item["old"]
    return edits.edit(doc, wanted, siblings=[path[-1] for path in wanted]) if wanted else ()


def _backwards(item: Any) -> dict[str, Any]:
    actions = {"add": "remove", "remove": "add", "replace": "replace"}
    return {
        **item,
        "action": actions[item["action"]],
        "old": item["new"],
        "new": item["old"],
        "before": item["after"],
        "after": item["before"],
        "line": None,
    }


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)
