"""`maxmig ckpt verify`: proves that a checkpoint holds another one."""

import argparse

from maxmig.cli import console
from maxmig.cli.ckpt import common
from maxmig.cli.verb import Verb


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", metavar="DST", help=common.PATH_HELP)
    parser.add_argument(
        "--against", metavar="SRC", required=True, help="the checkpoint that DST was made from"
    )
    parser.add_argument(
        "--mode",
        choices=("full", "sample", "none"),
        default="full",
        help="compare every bit (default), some boxes of each array, or names and types only",
    )
    common.add_max_memory(parser)


def _run(args: argparse.Namespace) -> int:
    from maxmig.converters import checkpoint, verify

    result, source = checkpoint.read(args.result), checkpoint.read(args.against)
    total = sum(leaf.nbytes for side in (result, source) for leaf in side.leaves.values())
    with console.progress("verify", total=total) as bar:
        report, basis = verify.checkpoints(
            result,
            source,
            mode=args.mode,
            max_memory=args.max_memory,
            progress=lambda nbytes: bar.advance(bar.task_ids[0], nbytes),
        )
    for line in report.lines:
        if line.sign != "=":
            console.out(console.printable(str(line)))
    for note in report.notes:
        console.note(f"note: {note}")
    told = report.summary() if report.lines or report.values else "names, shapes and types only"
    verdict = "holds" if report else "does not hold"
    console.out(
        console.printable(
            f"{result.storage.url} {verdict} {source.storage.url}: {told} (by {basis})"
        )
    )
    if args.json:
        console.emit_json(
            {
                "result": result.storage.url,
                "against": source.storage.url,
                "basis": basis,
                "mode": args.mode,
                "holds": bool(report),
                "compared": report.compared,
                "counts": report.counts,
                "lines": report.lines,
                "notes": report.notes,
                "exit_code": report.exit_code,
            }
        )
    return report.exit_code


VERB = Verb(
    name="verify",
    help="prove that a checkpoint holds the one that it was made from",
    examples=(
        "maxmig ckpt verify /tmp/nnx --against maxmig_output/demo/checkpoints",
        "maxmig ckpt verify /tmp/nnx --against maxmig_output/demo/checkpoints --mode sample",
    ),
    add_arguments=_arguments,
    run=_run,
)
