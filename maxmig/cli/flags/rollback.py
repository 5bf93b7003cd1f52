"""`maxmig flags rollback`: takes back what an entry of the ledger did."""

import argparse
from pathlib import Path

from maxmig import errors
from maxmig.cli import console
from maxmig.cli.flags import outcome
from maxmig.cli.verb import Verb


def run(args: argparse.Namespace) -> int:
    """Restores the files of an entry and prints the diff with its proof; 5 if it is refused."""
    from maxmig.rollout import rollback

    place = Path(args.ledger) if args.ledger else _ledger(args.id)
    done = rollback.rollback(place, args.id, dry_run=args.dry_run, command=outcome.command())
    if args.json:
        console.emit_json(done.document())
    else:
        outcome.show(
            done, nothing="nothing to do: the keys of this entry say what they said before it"
        )
    return 0


def _ledger(name: str) -> Path:
    """The ledger around here that has an entry of that id."""
    from maxmig.rollout import ledger

    places = list(ledger.search(Path.cwd()))
    for place in places:
        if any(entry.id.startswith(name) for entry in ledger.read(place).entries):
            return place
    looked = ", ".join(map(str, places)) or f"no {ledger.NAME} here, above or below"
    raise errors.ConfigError(
        f"no entry of a ledger has the id {name!r} (looked at: {looked}); `maxmig flags log` lists "
        "them, --ledger names another ledger"
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the entry, or the beginning of its id")
    parser.add_argument("--ledger", metavar="PATH", help="the ledger (default: the one near here)")
    parser.add_argument("--dry-run", action="store_true", help="check and show, write nothing")


VERB = Verb(
    name="rollback",
    help="restore the bytes of before, or only the keys if a file moved on since",
    examples=(
        "maxmig flags rollback 20260101-120000-0a1b2c",
        "maxmig flags rollback 20260101-120000-0a1b2c --dry-run",
    ),
    add_arguments=_add_arguments,
    run=run,
)
