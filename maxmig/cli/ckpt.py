"""`maxmig ckpt`: inspect, convert and compare checkpoints."""

import argparse
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.cli import console
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.converters.convert import Plan
    from maxmig.converters.inspect import Info

NAME = "ckpt"
HELP = "inspect, convert and compare checkpoints"

_PATH_HELP = "a directory of steps (checkpoint/), one step (checkpoint/9), or its items/"
_LAYOUTS = ("linen", "nnx")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help=_PATH_HELP)
    _add_step(parser)
    parser.add_argument("--tree", action="store_true", help="show the tree as it is on disk")
    parser.add_argument("--depth", type=_depth, metavar="N", help="levels of the tree to show")


def _inspect(args: argparse.Namespace) -> int:
    from maxmig.converters import inspect

    info = inspect.inspect(args.path, step=args.step)
    if args.json:
        console.emit_json(_info_json(info, inspect.outline(info.tree, args.depth), args.tree))
        return 0
    for name, value in _facts(info):
        console.out(f"{name:<10} {value}")
    rows = [
        (section.name, section.leaves, _size(section.nbytes), _dtypes(section.dtypes))
        for section in info.sections
    ]
    total = sum(section.nbytes for section in info.sections)
    rows.append(("total", sum(section.leaves for section in info.sections), _size(total), ""))
    console.out(
        console.table(("section", "arrays", "size", "types"), rows, right=("arrays", "size"))
    )
    if args.tree or args.depth is not None:
        console.out("\n".join(inspect.outline(info.tree, args.depth)))
    return 0


def _facts(info: "Info") -> list[tuple[str, str]]:
    own = info.metadata.get("maxmig") or {}
    found = [
        ("path", info.path),
        ("step", "unknown" if info.step is None else str(info.step)),
        ("layout", f"{info.layout or 'unknown'}: {'; '.join(info.why)}"),
        ("layers", _layers(info)),
    ]
    if len(info.steps) > 1:
        found.append(("steps", ", ".join(map(str, info.steps))))
    found += [(name, str(own[name])) for name in ("stage", "seed", "config_digest") if name in own]
    if versions := own.get("versions"):
        found.append(("versions", ", ".join(f"{name} {v}" for name, v in versions.items())))
    if origin := own.get("converted_from"):
        found.append(("converted", f"from layout {origin.get('layout')}"))
    return found + [("note", note) for note in info.notes]


def _layers(info: "Info") -> str:
    if info.scan_layers is None:
        return "no stack of layers"
    if not info.scan_layers:
        return "unscanned (one subtree a layer)"
    axis = "unknown" if info.scan_axis is None else str(info.scan_axis)
    return f"scanned (one stacked tree), layer axis {axis}"


def _info_json(info: "Info", outline: list[str], tree: bool) -> dict[str, Any]:
    from maxmig.converters import leaves

    found: dict[str, Any] = {
        "path": info.path,
        "step": info.step,
        "steps": info.steps,
        "layout": info.layout,
        "why": info.why,
        "scan_layers": info.scan_layers,
        "param_scan_axis": info.scan_axis,
        "arrays": sum(section.leaves for section in info.sections),
        "bytes": sum(section.nbytes for section in info.sections),
        "sections": info.sections,
        "metadata": info.metadata,
        "notes": info.notes,
    }
    if tree:
        found["outline"] = outline
        found["tree"] = {
            leaves.spell(path): {"shape": leaf.shape, "dtype": leaf.dtype, "bytes": leaf.nbytes}
            if isinstance(leaf, leaves.Leaf)
            else leaf.value
            for path, leaf in info.tree.items()
        }
    return found


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help=_PATH_HELP)
    parser.add_argument("destination", metavar="DST", help="the directory of steps to make")
    parser.add_argument("--to", required=True, choices=_LAYOUTS, help="layout of the result")
    parser.add_argument(
        "--from", dest="layout", choices=_LAYOUTS, help="layout of SRC (default: found out)"
    )
    _add_step(parser)
    parser.add_argument(
        "--scan",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="stack the layers, or take them apart (default: as in SRC)",
    )
    parser.add_argument("--scan-axis", type=int, choices=(0, 1), help="layer axis of the result")
    parser.add_argument(
        "--from-scan-axis",
        type=int,
        choices=(0, 1),
        help="layer axis of SRC, where neither metadata nor shapes tell it",
    )
    parser.add_argument(
        "--params-only", action="store_true", help="leave the optimizer and step out"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show the plan, read and write no array"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")


def _convert(args: argparse.Namespace) -> int:
    from maxmig.converters import checkpoint, convert

    if args.scan is False and args.scan_axis is not None:
        raise errors.ConfigError(
            "--no-scan and --scan-axis contradict: layers that are apart have no layer axis; "
            "drop one (the axis of SRC is --from-scan-axis)"
        )
    source = checkpoint.read(args.source, step=args.step, layout=args.layout)
    todo = convert.plan(
        source,
        args.to,
        scan=args.scan,
        scan_axis=args.scan_axis,
        from_scan_axis=args.from_scan_axis,
        params_only=args.params_only,
    )
    made = None
    _show_plan(todo)
    if not args.dry_run:
        total = sum(leaf.nbytes for leaf in source.leaves.values())
        with console.progress("convert", total=total) as bar:
            made = convert.run(
                todo,
                args.destination,
                overwrite=args.overwrite,
                progress=lambda nbytes: bar.advance(bar.task_ids[0], nbytes),
            )
    if args.json:
        console.emit_json(
            {
                "source": str(source.place),
                "from": source.layout.name,
                "to": todo.layout.name,
                "dry_run": args.dry_run,
                "step_directory": made,
                "arrays": len(todo.leaves),
                "bytes": todo.nbytes,
                "accounting": todo.accounting.rows(),
                "notes": todo.notes,
            }
        )
    told = f"{len(todo.leaves)} arrays, {_size(todo.nbytes)}, layout {todo.layout.name}"
    console.out(
        f"written    {made}: {told}" if made else f"dry run    nothing written; would be {told}"
    )
    return 0


def _show_plan(todo: "Plan") -> None:
    source = todo.source
    told = f"{len(source.leaves)} arrays, {_size(sum(x.nbytes for x in source.leaves.values()))}"
    console.out(f"source     {source.place}: {told}, layout {source.layout.name}")
    rows = [
        (row["side"], row["what"], row["leaves"], _size(row["bytes"]))
        for row in todo.accounting.rows()
    ]
    console.out(
        console.table(("side", "fate or origin", "arrays", "size"), rows, right=("arrays", "size"))
    )
    for note in todo.notes:
        console.out(f"note       {note}")


def _add_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help=_PATH_HELP)
    parser.add_argument("b", metavar="B", help="the same for the other side")
    parser.add_argument("--bitwise", action="store_true", help="only equal bits pass (the default)")
    parser.add_argument("--rtol", type=_tolerance, metavar="R", help="relative tolerance")
    parser.add_argument("--atol", type=_tolerance, metavar="A", help="absolute tolerance")
    parser.add_argument("--ulp", type=_depth, metavar="N", help="units in the last place")
    parser.add_argument(
        "--only", choices=("params", "opt", "all"), default="all", help="what to compare"
    )


def _diff(args: argparse.Namespace) -> int:
    from maxmig.converters import checkpoint, diff

    tolerant = args.rtol is not None or args.atol is not None
    if args.bitwise + tolerant + (args.ulp is not None) > 1:
        raise errors.ConfigError(
            "--bitwise, --ulp and --rtol/--atol exclude one another; choose one"
        )
    tolerance = diff.Tolerance(args.rtol or 0.0, args.atol or 0.0, args.ulp or 0)
    a, b = checkpoint.read(args.a), checkpoint.read(args.b)
    total = sum(leaf.nbytes for side in (a, b) for leaf in side.leaves.values())
    with console.progress("compare", total=total) as bar:
        report = diff.diff(
            a,
            b,
            only=args.only,
            tolerance=tolerance,
            progress=lambda nbytes: bar.advance(bar.task_ids[0], nbytes),
        )
    for line in report.lines:
        console.out(str(line))
    console.out(report.summary())
    if not report.compared:
        console.err(f"nothing was compared: no leaf of '{args.only}' is on both sides")
    if args.json:
        console.emit_json(
            {
                "a": {"path": str(a.place), "layout": a.layout.name, "scan_layers": a.scan_layers},
                "b": {"path": str(b.place), "layout": b.layout.name, "scan_layers": b.scan_layers},
                "tolerance": str(tolerance),
                "only": args.only,
                "equal": bool(report),
                "compared": report.compared,
                "counts": report.counts,
                "lines": report.lines,
                "exit_code": report.exit_code,
            }
        )
    return report.exit_code


def _add_step(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step", type=_depth, metavar="N", help="which step (default: the last)")


def _depth(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {text!r}")
    return int(text)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of 0 or more, got {text!r}")
    return value


def _size(nbytes: float) -> str:
    from maxmig.converters import accounting

    return accounting.size(nbytes)


def _dtypes(dtypes: dict[str, int]) -> str:
    return ", ".join(f"{count} {dtype}" for dtype, count in dtypes.items())


VERBS = (
    Verb(
        name="inspect",
        help="what a checkpoint is and holds, from its metadata alone",
        examples=(
            "maxmig ckpt inspect maxmig_output/demo/checkpoints",
            "maxmig ckpt inspect maxmig_output/demo/checkpoints --tree --depth 3",
        ),
        add_arguments=_add_inspect,
        run=_inspect,
    ),
    Verb(
        name="convert",
        help="write a checkpoint in another layout or scan layout, losing nothing",
        examples=(
            "maxmig ckpt convert maxmig_output/demo/checkpoints /tmp/nnx --to nnx --dry-run",
            "maxmig ckpt convert maxmig_output/demo/checkpoints /tmp/apart --to linen --no-scan",
        ),
        add_arguments=_add_convert,
        run=_convert,
    ),
    Verb(
        name="diff",
        help="compare two checkpoints leaf by leaf, whatever their layouts",
        examples=(
            "maxmig ckpt diff maxmig_output/demo/checkpoints /tmp/nnx",
            "maxmig ckpt diff maxmig_output/demo/checkpoints /tmp/nnx --only params --ulp 4",
        ),
        add_arguments=_add_diff,
        run=_diff,
    ),
)
