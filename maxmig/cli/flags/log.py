"""`maxmig flags log`: who flipped what, when, on which evidence."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from maxmig import errors
from maxmig.cli import console
from maxmig.cli.exit_codes import ExitCode
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.rollout.ledger import Entry, Ledger

_STATES = {
    "done": "",
    "abandoned": "   abandoned: nothing was changed",
    "begun": "   UNFINISHED: killed while it wrote; roll it back",
}


def run(args: argparse.Namespace) -> int:
    """Prints the entries of the ledgers, the newest last; 1 if a line was edited or lost."""
    from maxmig.rollout import ledger

    books = [ledger.read(place) for place in _places(args.paths)]
    code = ExitCode.DIFFERENCE if any(book.problems for book in books) else ExitCode.PASS
    if args.json:
        console.emit_json(
            {
                "ledgers": [
                    {
                        "path": book.path,
                        "problems": book.problems,
                        "entries": [
                            entry.document() | {"state": entry.state} for entry in book.entries
                        ],
                    }
                    for book in books
                ]
            }
        )
        return code
    for book in books:
        _print(book)
    if not books:
        console.out(f"no {ledger.NAME} here, above or below: nothing was flipped with maxmig yet")
    return code


def _places(paths: list[str]) -> list[Path]:
    from maxmig.rollout import ledger

    if not paths:
        return list(ledger.search(Path.cwd()))
    found = []
    for name in paths:
        path = Path(name)
        if not path.exists():
            raise errors.DataError(f"{name}: no such file or folder")
        if path.name == ledger.NAME:
            found.append(path)
            continue
        folder = path if path.is_dir() else path.resolve().parent
        found += ledger.search(folder)
    return list(dict.fromkeys(found))


def _print(book: "Ledger") -> None:
    taken_back = {entry.of: entry.id for entry in book.entries if entry.of}
    console.out(f"{book.path}")
    for entry in book.entries:
        _print_entry(entry, taken_back.get(entry.id))
    for problem in book.problems:
        console.out(console.status("FAIL").append(f" {problem}"))


def _print_entry(entry: "Entry", taken_back_by: str | None) -> None:
    state = _STATES[entry.state]
    state = f"   taken back by {taken_back_by}" if taken_back_by else state
    console.out(f"\n{entry.id}  {entry.kind}  {entry.when}  {entry.who}{state}")
    if entry.of:
        console.out(f"  takes back {entry.of}")
    for file in entry.files:
        way = f"  {file.control} -> {file.candidate}" if file.candidate else ""
        console.out(f"  {file.path}{way}")
        for change in file.changes:
            old = change["old"] if change["old"] is not None else "(none)"
            new = change["new"] if change["new"] is not None else "(none)"
            console.out(f"    {change['key']}: {old} -> {new}")
        if file.evidence:
            facts = file.evidence
            console.out(f"    card {facts['card']}: {facts['verdict']}, made {facts['made']}")
    if entry.assured:
        console.out(f"  assured: {entry.assured}")
        for text in entry.overridden:
            console.out(f"    overridden: {text}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        default=[],
        help="ledgers, configurations or folders (default: what is near here)",
    )


VERB = Verb(
    name="log",
    help="the ledger: who flipped what, when, on which evidence",
    examples=("maxmig flags log", "maxmig flags log configs --json"),
    add_arguments=_add_arguments,
    run=run,
)
