"""`maxmig ckpt explain`: why a leaf goes where it goes."""

import argparse
import dataclasses

from maxmig.cli import console
from maxmig.cli.ckpt import common
from maxmig.cli.verb import Verb


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help=common.PATH_HELP)
    parser.add_argument(
        "leaf", metavar="PATH_OF_LEAF", help="as on disk, or as in the model (a parameter)"
    )
    parser.add_argument(
        "--to", metavar="LAYOUT", help="layout of the result (default: the other framework's)"
    )
    common.add_step(parser)
    common.add_layers(parser)


def _run(args: argparse.Namespace) -> int:
    from maxmig.converters import checkpoint, mapping
    from maxmig.converters.mapping import explain

    layers = common.layers(args)
    hints = layers["map_file"].hints if args.map else None
    source = checkpoint.read(args.source, step=args.step, layout=args.layout, hints=hints)
    to = args.to
    if to is None and args.map is None:
        to = "nnx" if source.layout.family == "linen" else "linen"
    planned = mapping.planned(source, to, **layers)
    told = explain.explain(planned, args.leaf)
    if args.json:
        console.emit_json(dataclasses.asdict(told))
        return 0
    console.out(f"leaf       {told.leaf}  {told.stored}")
    console.out(f"canonical  {told.canonical}")
    for fact in told.facts:
        console.out(f"why        {fact}")
    console.out(f"fate       {told.fate}")
    for target, how in told.targets.items():
        console.out(f"to         {target}  ({how})")
    return 0


VERB = Verb(
    name="explain",
    help="why a leaf of a checkpoint goes where it goes",
    examples=(
        "maxmig ckpt explain maxmig_output/demo/checkpoints step",
        "maxmig ckpt explain maxmig_output/demo/checkpoints decoder/decoder_norm/scale --to nnx",
    ),
    add_arguments=_arguments,
    run=_run,
)
