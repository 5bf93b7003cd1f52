"""`maxmig parity compare`: a recording against a rung that runs now, or another recording."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from maxmig import errors
from maxmig.cli import common, console
from maxmig.cli.parity import terminal
from maxmig.cli.parity.common import RUNGS
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.parity import Report
    from maxmig.parity.recordings.recording import Recording


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recording", metavar="RECORDING", help="the trusted side")
    parser.add_argument(
        "other", metavar="OTHER", nargs="?", help="another recording, instead of running a rung"
    )
    parser.add_argument(
        "--candidate",
        choices=RUNGS,
        default="nnx",
        help="the rung, or side of a pair, to run now (default: nnx)",
    )
    parser.add_argument(
        "--pair",
        metavar="PKG.MODULE:FUNCTION",
        help="for a recording of a pair: what has the module to run now; the other may be None "
        "(default: the pair that was recorded)",
    )
    parser.add_argument(
        "--mapping", metavar="FILE", help="with --pair: where each weight goes (default: recorded)"
    )
    parser.add_argument("--policy", choices=("auto", "bitwise", "ratio"), default="auto")
    parser.add_argument(
        "--run-dir", metavar="DIR", help="where to write the run (default: not written)"
    )
    common.add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Compares, prints what was found, and writes the run's folder."""
    common.setup_devices(args.simulate_devices)
    from maxmig.parity.pages import folder
    from maxmig.parity.recordings import compare

    place = folder.prepare(args.run_dir) if args.run_dir else None
    words = ["maxmig", "parity", "compare", args.recording]
    words += [args.other] if args.other else ["--candidate", args.candidate]
    first, second = compare.recordings(args.recording, args.other)
    if first.of_pair:
        report = _of_pair(args, first, second, words)
    elif args.pair or args.mapping:
        raise errors.ConfigError(f"--pair: {args.recording} is a recording of a configuration")
    else:
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


def _of_pair(
    args: argparse.Namespace, first: "Recording", second: "Recording | None", words: list[str]
) -> "Report":
    from maxmig.parity.pairs import later

    if args.policy == "bitwise":
        raise errors.ConfigError("--policy bitwise goes with recordings of configurations")
    if second is not None and (args.pair or args.mapping):
        raise errors.ConfigError("expected another recording or --pair, got both")
    for option in ("pair", "mapping"):
        if (value := getattr(args, option)) is not None:
            words += [f"--{option}", value]
    return later.compare(
        first,
        second or args.pair,
        side=args.candidate,
        mapping=args.mapping,
        command=shlex.join(words),
        note=console.note,
    )


VERB = Verb(
    name="compare",
    help="a recording against a rung that runs now, or against another recording",
    examples=(
        "maxmig parity compare maxmig_output/linen-recorded --candidate nnx",
        "maxmig parity compare maxmig_output/linen-recorded /tmp/nnx --json",
        "maxmig parity compare recorded/mlp --pair my_package.ported:mlp",
    ),
    add_arguments=_add_arguments,
    run=run,
)
