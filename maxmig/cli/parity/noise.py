"""`maxmig parity noise`: one side against itself, which no comparison can be finer than."""

import argparse
import shlex

from maxmig.cli import common, console
from maxmig.cli.parity.common import RUNGS
from maxmig.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_config_arguments(parser)
    parser.add_argument("--stage", choices=RUNGS, default="linen", help="which rung (linen)")
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
    cfg = common.load_config(args)
    from maxmig.parity import noise

    words = ["maxmig", "parity", "noise", args.config, "--stage", args.stage]
    words += ["--checkpoint", args.checkpoint] if args.checkpoint else []
    found = noise.run(
        cfg,
        stage=args.stage,
        checkpoint=args.checkpoint,
        command=shlex.join([*words, *args.overrides]),
        note=console.note,
    )
    path = found.write(args.output)
    if args.json:
        console.emit_json(dict(found.document) | {"file": path})
        return 0
    rows = []
    for scatter in found.kinds:
        for check, m in scatter.largest.items():
            size = "exactly equal" if m.exact else f"{m.rel_l2:.1e}"
            rows.append((scatter.kind, check, size, "" if m.exact else f"{m.item}: {m.path}"))
    console.out(console.table(("repetition", "check", "relative L2, largest", "where"), rows))
    for kind, text in noise.KINDS.items():
        console.out(f"{kind:<8} {text}")
    console.note(f"noise: {path}; give it to `maxmig parity run --noise {path}`")
    return 0


VERB = Verb(
    name="noise",
    help="one rung against itself: again, compiled anew, row by row, moved by an ulp",
    examples=(
        "maxmig parity noise configs/tiny_llama2.yml -o maxmig_output/noise.json",
        "maxmig parity noise configs/tiny_llama2.yml --stage nnx dtype=bfloat16 --json",
    ),
    add_arguments=_add_arguments,
    run=run,
)
