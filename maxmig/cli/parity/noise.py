"""`maxmig parity noise`: one side against itself, which no comparison can be finer than."""

import argparse
import shlex
from typing import TYPE_CHECKING

from maxmig.cli import common, console
from maxmig.cli.parity import pairs as own
from maxmig.cli.parity.common import RUNGS
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.parity.rungs.noise import Scatters


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_config_arguments(parser, optional="this or --pair is needed")
    parser.add_argument(
        "--pair",
        metavar="PKG.MODULE:FUNCTION",
        help="of one of your own modules in place of CONFIG, as `parity run --pair` has them",
    )
    parser.add_argument(
        "--mapping", metavar="FILE", help="with --pair: where each weight goes (default: traced)"
    )
    parser.add_argument(
        "--stage", choices=RUNGS, default="linen", help="which rung, or side of the pair (linen)"
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="the weights (default: from the seed)")
    parser.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        default="noise.json",
        help="where to write it (noise.json)",
    )


def run(args: argparse.Namespace) -> int:
    """Measures, prints and writes the noise."""
    own.check(args, allowed=("--stage",))
    found = _of_pair(args) if args.pair else _of_config(args)
    path = found.write(args.output)
    if args.json:
        console.emit_json(dict(found.document) | {"file": path})
        return 0
    from maxmig.parity.rungs import noise

    rows = []
    for scatter in found.kinds:
        for check, m in scatter.largest.items():
            size = "exactly equal" if m.exact else f"{m.rel_l2:.1e}"
            rows.append((scatter.kind, check, size, "" if m.exact else f"{m.item}: {m.path}"))
    console.out(console.table(("repetition", "check", "relative L2, largest", "where"), rows))
    for scatter in found.kinds:
        console.out(f"{scatter.kind:<8} {noise.KINDS[scatter.kind]}")
    if source := found.document.get("source"):
        console.out(f"{'source':<8} {source}")
    console.note(f"noise: {path}; give it to `maxmig parity run --noise {path}`")
    return 0


def _of_pair(args: argparse.Namespace) -> "Scatters":
    common.setup_devices(args.simulate_devices)
    side = own.side(args)
    from maxmig.parity.pairs import noise

    words = ["maxmig", "parity", "noise", "--pair", args.pair, "--stage", side]
    words += ["--mapping", args.mapping] if args.mapping else []
    return noise.run(
        args.pair, side=side, mapping=args.mapping, command=shlex.join(words), note=console.note
    )


def _of_config(args: argparse.Namespace) -> "Scatters":
    cfg = common.load_config(args)
    from maxmig.parity.rungs import noise

    words = ["maxmig", "parity", "noise", args.config, "--stage", args.stage]
    words += ["--checkpoint", args.checkpoint] if args.checkpoint else []
    return noise.run(
        cfg,
        stage=args.stage,
        checkpoint=args.checkpoint,
        command=shlex.join([*words, *args.overrides]),
        note=console.note,
    )


VERB = Verb(
    name="noise",
    help="one rung or module against itself: again, compiled anew, row by row, moved by an ulp",
    examples=(
        "maxmig parity noise configs/tiny_llama2.yml -o maxmig_output/noise.json",
        "maxmig parity noise configs/tiny_llama2.yml --stage nnx dtype=bfloat16 --json",
        "maxmig parity noise --pair my_package.migration:mlp --stage nnx",
    ),
    add_arguments=_add_arguments,
    run=run,
)
