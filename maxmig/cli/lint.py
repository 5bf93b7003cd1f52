"""`maxmig lint PATH`: traps of a migration that can be seen in the source."""

import argparse
import dataclasses

from maxmig.cli import console
from maxmig.cli.exit_codes import ExitCode
from maxmig.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", default=["."], help="files and folders (default: .)"
    )
    parser.add_argument("--select", metavar="CODES", help="only these rules, separated by commas")
    parser.add_argument("--ignore", metavar="CODES", help="all but these rules")
    parser.add_argument("--rules", action="store_true", help="list the rules and leave")


def run(args: argparse.Namespace) -> int:
    """Prints what was found, by file and line."""
    from maxmig import lint
    from maxmig.lint.rules import PROJECT_RULES

    if args.rules:
        rules = (*lint.RULES, *PROJECT_RULES)
        if args.json:
            console.emit_json(
                {"rules": {r.code: {"summary": r.summary, "remedy": r.remedy} for r in rules}}
            )
        else:
            console.out(console.table(("code", "what"), [(r.code, r.summary) for r in rules]))
        return ExitCode.PASS
    found, count = lint.check(args.paths, ignore=_codes(args.ignore), select=_codes(args.select))
    code = ExitCode.DIFFERENCE if found else ExitCode.PASS
    if args.json:
        findings = [dataclasses.asdict(f) for f in found]
        console.emit_json({"exit_code": int(code), "files": count, "findings": findings})
        return code
    for f in found:
        console.out(f"{f.path}:{f.line}:{f.column}: {f.code}: {f.message}")
        console.out(f"    {f.remedy}")
    many = f"{count:,} file{'' if count == 1 else 's'}"
    if found:
        places = len({f.path for f in found})
        console.out(f"{len(found)} found in {places} of {many}; `# maxmig: ignore[CODE]` hides one")
    else:
        console.out(f"nothing found in {many}")
    return code


def _codes(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


VERB = Verb(
    name="lint",
    help="traps of the move to NNX that can be seen in the source",
    examples=("maxmig lint src", "maxmig lint train.py --ignore nested-names --json"),
    add_arguments=_add_arguments,
    run=run,
)
