"""`maxmig parity record`: saves what one rung computes, to be compared later or elsewhere."""

import argparse
import shlex
from typing import Any

from maxmig.cli import common, console
from maxmig.cli.parity import pairs as own
from maxmig.cli.parity.common import RUNGS, count
from maxmig.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_config_arguments(parser, optional="this or --pair is needed")
    parser.add_argument(
        "--pair",
        metavar="PKG.MODULE:FUNCTION",
        help="record one of your own modules in place of CONFIG, as `parity run --pair` has them; "
        "the NNX module may still be None",
    )
    parser.add_argument(
        "--mapping", metavar="FILE", help="with --pair: where each weight goes (default: traced)"
    )
    parser.add_argument(
        "--stage", choices=RUNGS, default="linen", help="which rung, or side of the pair (linen)"
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="the weights (default: from the seed)")
    parser.add_argument("--steps", type=count, default=5, metavar="N", help="optimizer steps (5)")
    parser.add_argument(
        "--tokens", type=common.positive, metavar="N", help="one more batch of rows of N tokens"
    )
    parser.add_argument(
        "--output", "-o", metavar="DIR", required=True, help="an empty folder for the recording"
    )
    parser.add_argument(
        "--max-size",
        type=common.positive,
        default=256,
        metavar="MIB",
        help="of all arrays; what does not fit is hashed and sampled (default: 256)",
    )


def run(args: argparse.Namespace) -> int:
    """Records, and says what is in it."""
    own.check(args, allowed=("--stage",))
    from maxmig.parity.recordings.recording import MEBIBYTE

    manifest = _of_pair(args) if args.pair else _of_config(args)
    if args.json:
        console.emit_json(manifest | {"folder": args.output})
        return 0
    arrays = manifest["arrays"]
    whole = sum(entry["whole"] for entry in arrays)
    mebibytes = manifest["bytes"] / MEBIBYTE
    console.out(f"{manifest['side']['proved']}: {len(arrays):,} arrays, {whole:,} of them whole")
    console.out(f"{mebibytes:,.1f} MiB in {args.output}")
    words = ["maxmig", "parity", "compare", args.output]
    words += ["--pair", args.pair] if args.pair else ["--candidate", "nnx"]
    console.note(f"compare: {shlex.join(words)}")
    return 0


def _of_pair(args: argparse.Namespace) -> dict[str, Any]:
    common.setup_devices(args.simulate_devices)
    from maxmig.parity.pairs import recording
    from maxmig.parity.recordings.recording import MEBIBYTE

    side = own.side(args)
    words = ["maxmig", "parity", "record", "--pair", args.pair, "--stage", side]
    words += ["--mapping", args.mapping] if args.mapping else []
    return recording.record(
        args.pair,
        args.output,
        side=side,
        mapping=args.mapping,
        max_bytes=args.max_size * MEBIBYTE,
        command=shlex.join(words),
        note=console.note,
    )


def _of_config(args: argparse.Namespace) -> dict[str, Any]:
    cfg = common.load_config(args)
    from maxmig.parity.recordings import record
    from maxmig.parity.recordings.recording import MEBIBYTE

    words = ["maxmig", "parity", "record", args.config, "--stage", args.stage]
    words += ["--checkpoint", args.checkpoint] if args.checkpoint else []
    words += ["--steps", str(args.steps)]
    words += ["--tokens", str(args.tokens)] if args.tokens else []
    return record.run(
        cfg,
        args.output,
        stage=args.stage,
        checkpoint=args.checkpoint,
        steps=args.steps,
        tokens=args.tokens,
        max_bytes=args.max_size * MEBIBYTE,
        command=shlex.join([*words, *args.overrides]),
        note=console.note,
    )


VERB = Verb(
    name="record",
    help="save what one rung or module computes, to compare it later or on another machine",
    examples=(
        "maxmig parity record configs/tiny_llama2.yml -o maxmig_output/linen-recorded",
        "maxmig parity record configs/tiny_gpt3.yml --stage nnx -o /tmp/nnx --max-size 64",
        "maxmig parity record --pair my_package.migration:mlp -o recorded/mlp",
    ),
    add_arguments=_add_arguments,
    run=run,
)
