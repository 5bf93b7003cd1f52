"""`maxmig ckpt map`: writes, shows, checks and inverts mapping files."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from maxmig import errors
from maxmig.cli import console
from maxmig.cli.ckpt import common
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.converters.mapping import Planned
    from maxmig.converters.mapping.files import Document

_SHOWN = 400


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", nargs="?", help=common.PATH_HELP)
    parser.add_argument("--to", metavar="LAYOUT", help="layout of the result")
    common.add_step(parser)
    common.add_layers(parser)
    parser.add_argument("--invert", metavar="FILE", help="write the way back of a mapping file")
    parser.add_argument("--out", metavar="FILE", help="write to a file instead of the screen")
    parser.add_argument("--show", action="store_true", help="show where every leaf goes")


def _run(args: argparse.Namespace) -> int:
    if args.out:
        common.refuse_input(args.out, args.source)
    from maxmig.converters import checkpoint, mapping
    from maxmig.converters.mapping import files

    if args.invert:
        if args.source or args.map:
            raise errors.ConfigError("--invert takes a mapping file alone; drop SRC and --map")
        back = files.read(args.invert).inverse()
        return _emit(args, back, f"# The way back of {Path(args.invert).name}.\n")
    if not args.source:
        raise errors.ConfigError("expected SRC, a checkpoint, or --invert FILE")
    layers = common.layers(args)
    hints = layers["map_file"].hints if args.map else None
    source = checkpoint.read(args.source, step=args.step, layout=args.layout, hints=hints)
    planned = mapping.planned(source, args.to, **layers)
    if args.show or (args.map and not args.out):
        return _show(args, planned)
    return _emit(args, planned.document, _head(planned))


def _emit(args: argparse.Namespace, document: "Document", head: str) -> int:
    text = head + document.to_yaml()
    if args.out:
        common.write(args.out, text)
    if args.json:
        console.emit_json({"file": args.out, "mapping": text})
    elif args.out:
        console.out(f"written    {args.out}: {len(document.rules)} rules")
    else:
        console.out(text.rstrip("\n"))
    return 0


def _head(planned: "Planned") -> str:
    """A comment that says what the file is for and which parameters there are to speak of."""
    params = {
        path.removeprefix("params/"): leaf
        for path, leaf in planned.source.leaves.items()
        if path.startswith("params/")
    }
    lines = [
        f"# How {planned.source.place} becomes layout {planned.target.name}.",
        "# Edit the rules; check them with: maxmig ckpt map SRC --map FILE --show",
        "# Rules speak of model paths; whatever follows a parameter goes with it. It has:",
        *(f"#   {path}  {leaf}" for path, leaf in list(params.items())[:_SHOWN]),
    ]
    if len(params) > _SHOWN:
        lines.append(f"#   ... and {len(params) - _SHOWN} more: maxmig ckpt inspect SRC --tree")
    return "\n".join(lines) + "\n"


def _show(args: argparse.Namespace, planned: "Planned") -> int:
    from maxmig.converters.mapping import explain

    rows = explain.listing(planned)
    account = planned.conversion.accounting.rows()
    if args.json:
        console.emit_json(
            {
                "from": planned.source.layout.name,
                "to": planned.target.name,
                "rules": [rule.data() for rule in planned.document.rules],
                "leaves": [{"target": t, "source": s, "how": h} for t, s, h in rows],
                "accounting": account,
            }
        )
        return 0
    if args.show:
        console.out(console.table(("in the result", "in the source", "how"), rows))
    table = [(r["side"], r["what"], r["leaves"], common.size(r["bytes"])) for r in account]
    console.out(
        console.table(("side", "fate or origin", "arrays", "size"), table, right=("arrays", "size"))
    )
    for note in planned.conversion.notes:
        console.out(f"note       {note}")
    console.out("complete   every leaf has a fate, every leaf of the result an origin")
    return 0


VERB = Verb(
    name="map",
    help="write, show, check or invert the mapping of a conversion",
    examples=(
        "maxmig ckpt map maxmig_output/demo/checkpoints --to nnx",
        "maxmig ckpt map maxmig_output/demo/checkpoints --to nnx --show",
    ),
    add_arguments=_arguments,
    run=_run,
)
