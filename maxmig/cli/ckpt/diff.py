"""`maxmig ckpt diff`: compares two checkpoints leaf by leaf."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from maxmig import errors
from maxmig.cli import console
from maxmig.cli.ckpt import common
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.converters.checkpoint import Checkpoint
    from maxmig.converters.compare.verdicts import Report
    from maxmig.converters.layouts import Hints

_LISTS = {  # option: (signs of the leaves that it lists, help)
    "match": ("=~", "leaves that are equal"),
    "differ": ("*", "leaves that differ"),
    "missing-on-src": ("+", "leaves that are only in B"),
    "missing-on-dst": ("-", "leaves that are only in A"),
    "renamed": (">", "leaves that have another name in B"),
    "error": ("!", "leaves that cannot be read"),
}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help=common.PATH_HELP)
    parser.add_argument("b", metavar="B", help="the same for the other side")
    parser.add_argument("--bitwise", action="store_true", help="only equal bits pass (the default)")
    parser.add_argument("--rtol", type=common.tolerance, metavar="R", help="relative tolerance")
    parser.add_argument("--atol", type=common.tolerance, metavar="A", help="absolute tolerance")
    parser.add_argument("--ulp", type=common.count, metavar="N", help="units in the last place")
    parser.add_argument(
        "--cast",
        action="store_true",
        help="hold leaves of another type in B against A's, cast to that type",
    )
    parser.add_argument(
        "--only", choices=("params", "opt", "all"), default="all", help="what to compare"
    )
    parser.add_argument("--combined", metavar="FILE", help="write all lines to FILE")
    for name, (signs, told) in _LISTS.items():
        shown = " and ".join(signs)
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write {told} ({shown}) to FILE")
    parser.add_argument(
        "--step",
        type=common.count,
        metavar="N",
        help="which step of both sides (default: the last)",
    )
    common.add_from(parser, "A")
    common.add_map(parser, "its rules are carried out on A before it is compared")
    common.add_max_memory(parser)


def _run(args: argparse.Namespace) -> int:
    from maxmig.converters.compare import diff
    from maxmig.converters.mapping import files

    tolerant = args.rtol is not None or args.atol is not None
    if args.bitwise + tolerant + (args.ulp is not None) > 1:
        raise errors.ConfigError(
            "--bitwise, --ulp and --rtol/--atol exclude one another; choose one"
        )
    lists = _lists(args)
    tolerance = diff.Tolerance(args.rtol or 0.0, args.atol or 0.0, args.ulp or 0)
    document = files.read(args.map) if args.map else None
    hints = document.hints if document else None
    a, b = _sides(args, hints)
    for name, side in (("A", a), ("B", b)):
        console.note(console.printable(f"{name}  {side.place}, layout {side.layout.name}"))
    total = sum(leaf.nbytes for side in (a, b) for leaf in side.leaves.values())
    with console.progress("compare", total=total) as bar:
        report = diff.diff(
            a,
            b,
            only=args.only,
            tolerance=tolerance,
            cast=args.cast,
            rules=document.rules if document else (),
            max_memory=args.max_memory,
            progress=lambda nbytes: bar.advance(bar.task_ids[0], nbytes),
        )
    for line in report.lines:
        console.out(console.printable(str(line)))
    console.out(console.printable(report.summary()))
    for note in report.notes:
        console.note(f"note: {note}")
    if not report.compared:
        console.err(f"nothing was compared: no leaf of '{args.only}' is on both sides")
    for file, signs in lists:
        _write(file, report, signs)
    if args.json:
        console.emit_json(
            {
                "a": {"path": a.storage.url, "layout": a.layout.name, "scan_layers": a.scan_layers},
                "b": {"path": b.storage.url, "layout": b.layout.name, "scan_layers": b.scan_layers},
                "tolerance": str(tolerance),
                "cast": args.cast,
                "only": args.only,
                "equal": bool(report),
                "compared": report.compared,
                "counts": report.counts,
                "lines": report.lines,
                "notes": report.notes,
                "exit_code": report.exit_code,
            }
        )
    return report.exit_code


def _sides(args: argparse.Namespace, hints: "Hints | None") -> "tuple[Checkpoint, Checkpoint]":
    """A and B; where the tree of one does not tell its layout, the other's metadata may."""
    from maxmig.converters import checkpoint

    try:
        a = checkpoint.read(args.a, step=args.step, layout=args.layout, hints=hints)
    except errors.ConvertError:
        b = checkpoint.read(args.b, step=args.step)
        return common.converted_source(args.a, b, hints, args.layout, args.step), b
    return a, common.converted_source(args.b, a, step=args.step)


def _lists(args: argparse.Namespace) -> list[tuple[Path, str | None]]:
    """The files to write with the signs that each lists (None: whole lines); checked beforehand."""
    found: list[tuple[Path, str | None]] = []
    for name, (signs, _) in _LISTS.items():
        file = getattr(args, name.replace("-", "_"))
        if file is not None:
            found.append((Path(file), signs))
    if args.combined is not None:
        found.append((Path(args.combined), None))
    for file, _ in found:
        common.refuse_input(file, args.a, args.b, args.map)
    for file, _ in found:
        common.write(file, "")
    return found


def _write(file: Path, report: "Report", signs: str | None) -> None:
    """One leaf a line: its sign and path, or its path alone in a list of one kind."""
    lines = [line for line in report.lines if signs is None or line.sign in signs]
    told = [f"{line.sign} {line.path}" if signs is None else line.path for line in lines]
    common.write(file, "".join(console.printable(text).replace("\n", " ") + "\n" for text in told))


VERB = Verb(
    name="diff",
    help="compare two checkpoints leaf by leaf, whatever their layouts",
    examples=(
        "maxmig ckpt diff maxmig_output/demo/checkpoints /tmp/nnx",
        "maxmig ckpt diff maxmig_output/demo/checkpoints /tmp/nnx --only params --ulp 4",
    ),
    add_arguments=_arguments,
    run=_run,
)
