"""`maxmig ckpt inspect`: what a checkpoint is and holds."""

import argparse
from typing import TYPE_CHECKING, Any

from maxmig.cli import console
from maxmig.cli.ckpt import common
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.converters.inspect import Info


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help=common.PATH_HELP)
    common.add_step(parser)
    parser.add_argument("--tree", action="store_true", help="show the tree as it is on disk")
    parser.add_argument(
        "--depth", type=common.count, metavar="N", help="levels of the tree to show"
    )
    parser.add_argument(
        "--chunks", action="store_true", help="show how each array is cut up in its files"
    )


def _run(args: argparse.Namespace) -> int:
    from maxmig.converters import inspect

    info = inspect.inspect(args.path, step=args.step)
    cut = inspect.chunks(args.path, step=args.step) if args.chunks else []
    if args.json:
        told = _info_json(info, inspect.outline(info.tree, args.depth), args.tree)
        console.emit_json(told | ({"chunks": cut} if args.chunks else {}))
        return 0
    for name, value in _facts(info):
        console.out(f"{name:<10} {value}")
    rows = [
        (section.name, section.leaves, common.size(section.nbytes), _dtypes(section.dtypes))
        for section in info.sections
    ]
    total = sum(section.nbytes for section in info.sections)
    rows.append(("total", sum(section.leaves for section in info.sections), common.size(total), ""))
    console.out(
        console.table(("section", "arrays", "size", "types"), rows, right=("arrays", "size"))
    )
    if args.tree or args.depth is not None:
        console.out("\n".join(inspect.outline(info.tree, args.depth)))
    if cut:
        lines = [
            (each.path, str(each.leaf), list(each.chunk), each.count, common.size(each.nbytes))
            for each in cut
        ]
        heads = ("array", "type", "chunk", "chunks", "a chunk")
        console.out(console.table(heads, lines, right=("chunks", "a chunk")))
        console.out(f"largest    a chunk of {common.size(max(each.nbytes for each in cut))}")
    return 0


def _facts(info: "Info") -> list[tuple[str, str]]:
    own = info.metadata.get("maxmig") or {}
    found = [
        ("path", info.path),
        ("step", "unknown" if info.step is None else str(info.step)),
        ("layout", _layout_told(info)),
        ("layers", _layers(info)),
    ]
    if len(info.steps) > 1:
        found.append(("steps", ", ".join(map(str, info.steps))))
    found += [(name, str(own[name])) for name in ("stage", "seed", "config_digest") if name in own]
    if versions := own.get("versions"):
        found.append(("versions", ", ".join(f"{name} {v}" for name, v in versions.items())))
    if origin := own.get("converted_from"):
        since = ", before a run went on from it" if origin.get("trained") else ""
        found.append(("converted", f"from layout {origin.get('layout')}{since}"))
    arrays = sum(section.leaves for section in info.sections)
    told = f"of {info.recorded} of {arrays} arrays" if info.recorded else "none are recorded"
    found.append(("checksums", f"{told} (maxmig ckpt verify)"))
    return found + [("note", note) for note in info.notes]


def _layers(info: "Info") -> str:
    if info.scan_layers is None:
        return "no stack of layers"
    if not info.scan_layers:
        return "unscanned (one subtree a layer)"
    axis = "unknown" if info.scan_axis is None else str(info.scan_axis)
    return f"scanned (one stacked tree), layer axis {axis}"


def _layout_told(info: "Info") -> str:
    if info.layout is not None:
        return f"{info.layout}: {'; '.join(info.why)}"
    lines = [line.strip() for line in info.why]  # the evidence for and against each
    return "\n           ".join([f"unknown: {lines[0]}", *lines[1:]])


def _info_json(info: "Info", outline: list[str], tree: bool) -> dict[str, Any]:
    from maxmig.converters import leaves

    found: dict[str, Any] = {
        "path": info.path,
        "step": info.step,
        "steps": info.steps,
        "layout": info.layout,
        "family": info.family,
        "container": info.container,
        "checksums_of": info.recorded,
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


def _dtypes(dtypes: dict[str, int]) -> str:
    return ", ".join(f"{count} {dtype}" for dtype, count in dtypes.items())


VERB = Verb(
    name="inspect",
    help="what a checkpoint is and holds, from its metadata alone",
    examples=(
        "maxmig ckpt inspect maxmig_output/demo/checkpoints",
        "maxmig ckpt inspect maxmig_output/demo/checkpoints --tree --depth 3",
    ),
    add_arguments=_arguments,
    run=_run,
)
