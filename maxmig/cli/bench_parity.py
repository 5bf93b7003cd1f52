"""`maxmig bench parity`: time and memory of a proof, up to 70 billion parameters."""

import argparse
import dataclasses

from maxmig.cli import common, console
from maxmig.cli.exit_codes import ExitCode
from maxmig.cli.verb import Verb

_CASES = "demo,demo-unscanned,70b,70b-unscanned"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases", metavar="NAMES", default=_CASES, help="what to prove (default %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=common.positive, metavar="N", default=3, help="runs of each (default 3)"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table, and judges if asked to."""
    from maxmig.benchmarks import parity as bench

    with console.LiveLine() as line:
        results = list(bench.run(args.cases.split(","), args.repeats, line.update))
    rows = [
        (
            result.case.name,
            f"{result.parameters:,}",
            f"{result.proved:,} of {result.outputs:,}",
            f"{result.equations[0]:,}",
            f"{result.time:.2f}",
            f"{result.case.seconds:g}",
            f"{result.memory:.0f}",
            f"{result.case.mib:g}",
            "PASS" if result else "FAIL",
        )
        for result in results
    ]
    columns = (
        *("case", "parameters", "outputs proved", "equations", "seconds", "at most"),
        *("MiB", "at most", "verdict"),
    )
    console.out(console.table(columns, rows, right=columns[1:-1]))
    if args.json:
        console.emit_json(
            [dataclasses.asdict(r) | {"verdict": "PASS" if r else "FAIL"} for r in results]
        )
    return ExitCode.DIFFERENCE if args.check and not all(results) else ExitCode.PASS


VERB = Verb(
    name="parity",
    help="time and memory of proving a training step, up to 70 billion parameters",
    examples=(
        "maxmig bench parity --cases demo --repeats 1",
        "maxmig bench parity --check",
    ),
    add_arguments=_arguments,
    run=run,
)
