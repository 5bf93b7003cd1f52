"""`maxmig ckpt verify`: proves that a checkpoint is as it was written, or holds another one."""

import argparse
from typing import TYPE_CHECKING

from maxmig import errors
from maxmig.cli import console
from maxmig.cli.ckpt import common
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.converters.compare.recorded import Kept


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", metavar="DST", help=common.PATH_HELP)
    parser.add_argument(
        "--against",
        metavar="SRC",
        help="the checkpoint that DST was made from; without it, DST is held against the "
        "checksums that were recorded in it when it was written",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="record checksums of the arrays that have none, in DST (of a file: beside it), if all "
        "others are as recorded",
    )
    parser.add_argument(
        "--mode",
        choices=("full", "sample", "none"),
        default="full",
        help="with --against: compare every bit (default), some boxes of each array, or names and "
        "types only",
    )
    parser.add_argument(
        "--cast",
        action="store_true",
        help="with --against: leaves of another type in DST must be SRC's, cast to that type "
        "(where DST does not record its conversion)",
    )
    common.add_from(parser, "SRC, with --against")
    common.add_map(parser, "how DST was made of SRC, where DST does not record it")
    common.add_max_memory(parser)


def _run(args: argparse.Namespace) -> int:
    if args.against is None:
        return _recorded(args)
    if args.record:
        raise errors.ConfigError("--record and --against exclude one another; choose one")
    from maxmig.converters import checkpoint
    from maxmig.converters.compare import verify
    from maxmig.converters.mapping import files

    document = files.read(args.map) if args.map else None
    hints = document.hints if document else None
    result = checkpoint.read(args.result)
    source = common.converted_source(args.against, result, hints, args.layout)
    total = sum(leaf.nbytes for side in (result, source) for leaf in side.leaves.values())
    with console.progress("verify", total=total) as bar:
        report, basis = verify.checkpoints(
            result,
            source,
            mode=args.mode,
            document=document,
            cast=args.cast,
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


def _recorded(args: argparse.Namespace) -> int:
    from maxmig.converters import checkpoint, leaves
    from maxmig.converters.compare import recorded

    mode = (f"--mode {args.mode}", args.mode != "full")
    more = (("--map", args.map), ("--from", args.layout), ("--cast", args.cast))
    for flag, given in (mode, *more):
        if given:
            raise errors.ConfigError(f"{flag} needs --against SRC; drop one, or give both")
    opened, meant = checkpoint.paths_of(args.result)
    arrays = [
        leaf
        for path, leaf in opened.tree().items()
        if path in meant and isinstance(leaf, leaves.Leaf)
    ]
    with console.progress("verify", total=sum(leaf.nbytes for leaf in arrays)) as bar:
        report = recorded.hold(
            opened,
            meant,
            add=args.record,
            progress=lambda nbytes: bar.advance(bar.task_ids[0], nbytes),
        )
    for line in report.lines:
        if line.sign != "=":
            console.out(console.printable(str(line)))
    console.out(console.printable(f"{opened.url}: {_told(report)}"))
    if args.json:
        console.emit_json(
            {
                "result": opened.url,
                "basis": "recorded checksums",
                "as_recorded": report.counts.get("=", 0),
                "not_recorded": report.unknown,
                "added": report.added,
                "lines": report.lines,
                "exit_code": report.exit_code,
            }
        )
    return report.exit_code


def _told(report: "Kept") -> str:
    same, bad = report.counts.get("=", 0), report.counts.get("!", 0)
    found = []
    if same - report.added:
        found.append(f"{same - report.added:,} arrays hold the bits that were recorded")
    if bad:
        found.append(f"{bad:,} do not, or cannot be read")
    if report.added:
        found.append(f"{report.added:,} are recorded now, as they were read")
    if report.unknown:
        some = ", ".join(report.unknown[:3]) + (", ..." if len(report.unknown) > 3 else "")
        found.append(
            f"of {len(report.unknown):,} nothing is recorded ({some}): nothing can be said of "
            "them. Compare them with a copy (--against, or `maxmig ckpt diff`); where they are "
            "known to be good, `maxmig ckpt verify DST --record` records them"
        )
    return "; ".join(found) or "there is no array"


VERB = Verb(
    name="verify",
    help="prove that a checkpoint is as it was written, or that it holds another one",
    examples=(
        "maxmig ckpt verify /tmp/nnx",
        "maxmig ckpt verify /tmp/nnx --against maxmig_output/demo/checkpoints",
        "maxmig ckpt verify /tmp/nnx --against maxmig_output/demo/checkpoints --mode sample",
    ),
    add_arguments=_arguments,
    run=_run,
)
