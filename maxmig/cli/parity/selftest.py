"""`maxmig parity selftest`: twelve bugs put in on purpose, and which level catches each."""

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.cli import common, console
from maxmig.cli.exit_codes import ExitCode
from maxmig.cli.parity.common import add_sides, count
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.parity.faults.selftest import Finding, SelfTest


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sides(parser)
    parser.add_argument("--bugs", metavar="NAMES", help="only these, for example epsilon,z-loss")
    parser.add_argument(
        "--side",
        choices=("control", "candidate", "both"),
        default="both",
        help="where the bugs are put (default: one after the other)",
    )
    parser.add_argument(
        "--seeds",
        type=count,
        default=2,
        metavar="N",
        help="how often an equivalent rewrite must raise no alarm, in float32 and in bfloat16 "
        "(default: %(default)s; 0 leaves it out)",
    )


def run(args: argparse.Namespace) -> int:
    """Puts the bugs in, one after the other, and prints what caught each."""
    common.setup_devices(None)
    from maxmig.parity.faults import bugs, selftest

    names = None if args.bugs is None else args.bugs.split(",")
    known = [bug.name for bug in bugs.BUGS]
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise errors.ConfigError(f"--bugs: {unknown[0]!r} is not one of {', '.join(known)}")
    where = ("control", "candidate") if args.side == "both" else (args.side,)
    found = selftest.run(
        control=args.control,
        candidate=args.candidate,
        names=names,
        where=where,
        seeds=args.seeds,
        note=console.note,
    )
    if args.json:
        console.emit_json(_document(found))
    else:
        _print(found)
    return ExitCode.PASS if found else ExitCode.DIFFERENCE


def _print(found: "SelfTest") -> None:
    rows = [
        (
            row.bug,
            row.side,
            console.status("PASS" if row else "FAIL"),
            _level(row.static),
            _level(row.semantic),
            f"{row.ratio:.3g}" if row.native else "not seen",
            row.static.path if row.static.right else row.semantic.path,
            row.static.source if row.static.right else row.semantic.source,
        )
        for row in found.rows
    ]
    columns = ("bug", "in the", "", "L0 proof", "L1 float64", "L2 ratio", "named module", "line")
    console.out(console.table(columns, rows, right=("L2 ratio",)))
    for quiet in found.quiet:
        word = console.status("PASS" if quiet else "FAIL")
        console.out(
            word,
            f"rewrite, {quiet.dtype}, seed {quiet.seed}: float64 {quiet.semantic.value}, error "
            f"ratio {quiet.ratio:.2f} of what is allowed",
        )
    caught = sum(bool(row) for row in found.rows)
    calm = sum(bool(quiet) for quiet in found.quiet)
    console.out(
        console.status("PASS" if found else "FAIL"),
        f"{caught} of {len(found.rows)} bugs caught and named, {calm} of {len(found.quiet)} "
        "equivalent runs without an alarm",
    )


def _level(finding: "Finding") -> str:
    if not finding.caught:
        return "not seen"
    return "named" if finding.right else "seen"


def _document(found: "SelfTest") -> dict[str, Any]:
    return {
        "verdict": "PASS" if found else "FAIL",
        "bugs": [
            dataclasses.asdict(row) | {"caught": bool(row), "native": row.native}
            for row in found.rows
        ],
        "rewrites": [
            dataclasses.asdict(quiet) | {"semantic": quiet.semantic.value, "quiet": bool(quiet)}
            for quiet in found.quiet
        ],
    }


VERB = Verb(
    name="selftest",
    help="put twelve bugs in on purpose, and show which level catches each",
    examples=(
        "maxmig parity selftest --bugs epsilon,z-loss --seeds 1",
        "maxmig parity selftest --side candidate --json",
    ),
    add_arguments=_add_arguments,
    run=run,
)
