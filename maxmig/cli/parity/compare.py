"""`maxmig parity compare`: a recording against a rung that runs now, or another recording."""

import argparse
import shlex
from pathlib import Path

from maxmig.cli import common, console
from maxmig.cli.parity import terminal
from maxmig.cli.parity.common import RUNGS
from maxmig.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recording", metavar="RECORDING", help="the trusted side")
    parser.add_argument(
        "other", metavar="OTHER", nargs="?", help="another recording, instead of running a rung"
    )
    parser.add_argument(
        "--candidate", choices=RUNGS, default="nnx", help="the rung to run now (default: nnx)"
    )
    parser.add_argument("--policy", choices=("auto", "bitwise", "ratio"), default="auto")
    parser.add_argument(
        "--run-dir", metavar="DIR", help="where to write the run (default: not written)"
    )
    common.add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Compares, prints what was found, and writes the run's folder."""
    common.setup_devices(args.simulate_devices)
    from maxmig.parity import compare, folder

    place = folder.prepare(args.run_dir) if args.run_dir else None
    words = ["maxmig", "parity", "compare", args.recording]
    words += [args.other] if args.other else ["--candidate", args.candidate]
    first, second = compare.recordings(args.recording, args.other)
    report = compare.run(
        first,
        second,
        candidate=args.candidate,
        policy=args.policy,
        config_name=Path(args.recording).name,
        command=shlex.join(words),
        note=console.note,
    )
    if place is not None:
        folder.write(report, place)
    if args.json:
        console.emit_json(report.document() | {"run_dir": place})
    else:
        terminal.show(report)
    if place is not None:
        console.note(f"run: {place}: {', '.join(folder.FILES)}")
    return report.exit_code


VERB = Verb(
    name="compare",
    help="a recording against a rung that runs now, or against another recording",
    examples=(
        "maxmig parity compare maxmig_output/linen-recorded --candidate nnx",
        "maxmig parity compare maxmig_output/linen-recorded /tmp/nnx --json",
    ),
    add_arguments=_add_arguments,
    run=run,
)
