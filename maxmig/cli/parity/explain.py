"""`maxmig parity explain`: the catalogue of what goes wrong in a migration."""

import argparse
import difflib
import textwrap

from maxmig import errors
from maxmig.cli import console
from maxmig.cli.verb import Verb

_WIDTH = 92


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "code", metavar="CODE", nargs="?", help="what to explain (default: list all)"
    )


def run(args: argparse.Namespace) -> int:
    """Prints one entry, or the list."""
    from maxmig.parity.reports import catalogue

    if args.code is None:
        if args.json:
            console.emit_json({"entries": catalogue.ENTRIES})
            return 0
        rows = [(entry.code, entry.symptom) for entry in catalogue.ENTRIES]
        console.out(console.table(("code", "symptom"), rows))
        return 0
    entry = catalogue.BY_CODE.get(args.code.lower())
    if entry is None:
        near = difflib.get_close_matches(args.code.lower(), catalogue.BY_CODE, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise errors.ConfigError(
            f"there is no code {args.code!r}; {hint}`maxmig parity explain` lists all"
        )
    if args.json:
        console.emit_json(entry)
        return 0
    console.out(entry.code)
    for name in ("symptom", "cause", "fix", "source"):
        text = textwrap.fill(getattr(entry, name), _WIDTH, subsequent_indent=" " * 9)
        console.out(f"{name:<8} {text}")
    return 0


VERB = Verb(
    name="explain",
    help="a finding's symptom, cause, fix and source",
    examples=("maxmig parity explain norm-promotion", "maxmig parity explain"),
    add_arguments=_add_arguments,
    run=run,
)
