"""`maxmig bench convert`: conversions of checkpoints beside `cp -r`, Orbax, and loading all."""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.cli import common, console
from maxmig.cli.exit_codes import ExitCode
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.benchmarks.convert import SizeResult


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes",
        metavar="MIB,...",
        default="256,1024,3072",
        help="sizes of the checkpoints in MiB, ascending (default %(default)s)",
    )
    parser.add_argument("--ways", metavar="NAMES", help="which ways to measure (default: all)")
    parser.add_argument(
        "--repeats", type=common.positive, metavar="N", default=3, help="runs of each (default 3)"
    )
    parser.add_argument(
        "--folder", metavar="DIR", help="where to write (default: the system's temporary folder)"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table a size and the targets, and judges if asked to."""
    from maxmig.benchmarks import convert as bench

    ways = args.ways.split(",") if args.ways else list(bench.WAYS)
    unknown = sorted(set(ways) - set(bench.WAYS))
    if unknown:
        raise errors.ConfigError(
            f"--ways: expected some of {', '.join(bench.WAYS)}, got {', '.join(unknown)}"
        )
    sizes = _sizes(args.sizes)
    folder = Path(args.folder or tempfile.gettempdir())
    if not folder.is_dir():
        raise errors.ConfigError(f"--folder: expected a directory, got {folder}")
    with console.LiveLine() as line:
        results = bench.run(folder, sizes, ways, args.repeats, line.update)
    for result in results:
        console.out(_table(result))
    judged = bench.judge(results)
    if judged:
        rows = [
            (v.what, f"{v.value:.3f} {v.unit}".rstrip(), f"{v.limit} {v.unit}".rstrip(), v.verdict)
            for v in judged
        ]
        console.out(console.table(("target", "value", "at most", "verdict"), rows))
    if args.json:
        console.emit_json(
            {
                "sizes": results,
                "targets": [dataclasses.asdict(v) | {"verdict": v.verdict} for v in judged],
            }
        )
    if not args.check:
        return ExitCode.PASS
    if not judged:
        return ExitCode.INCONCLUSIVE
    failed = any(v.verdict == "FAIL" for v in judged)
    return ExitCode.DIFFERENCE if failed else ExitCode.PASS


def _sizes(text: str) -> list[int]:
    words = text.split(",")
    if not all(word.isdigit() and int(word) for word in words):
        raise errors.ConfigError(f"--sizes: expected MiB, such as 256,1024; got {text!r}")
    return sorted({int(word) for word in words})


def _table(result: "SizeResult") -> Any:
    from maxmig.benchmarks import convert as bench

    rows = []
    for way in result.samples:
        seconds = result.seconds(way)
        cp = f"{seconds / result.seconds('cp'):.3f}" if "cp" in result.samples else "-"
        peak = result.peak(way)
        rows.append(
            (
                way,
                bench.WHAT[way],
                f"{seconds:.3f}",
                cp,
                f"{result.payload / seconds / 1e6:.0f}",
                f"{peak / 2**20:.0f}" if peak else "-",
                f"{result.samples[way][0].written / 2**20:.0f}",
            )
        )
    columns = ("way", "what", "s", "/ cp -r", "MB/s", "peak MiB", "disk MiB")
    title = f"{result.mib} MiB of parameters and Adam moments"
    return console.table(columns, rows, title=title, right=columns[2:])


VERB = Verb(
    name="convert",
    help="time and memory of checkpoint conversions beside cp -r, Orbax, and loading everything",
    examples=(
        "maxmig bench convert --sizes 16 --repeats 1",
        "maxmig bench convert --sizes 256,1024,3072 --check",
    ),
    add_arguments=_arguments,
    run=run,
)
