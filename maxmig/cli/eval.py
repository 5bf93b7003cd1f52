"""`maxmig eval`: the loss of a checkpoint on held-out data."""

import argparse

from maxmig.cli import common, console
from maxmig.cli.verb import Verb


def run(args: argparse.Namespace) -> int:
    """Prints the evaluation."""
    cfg = common.load_config(args)
    from maxmig.cli import checkpoints
    from maxmig.train import evaluate

    weights = checkpoints.weights(cfg, args.checkpoint)
    runtime = weights.runtime
    batches = evaluate.loader(runtime)
    console.note(f"weights  {weights}")
    console.note(f"rung     {runtime.proof}")
    console.note(f"data     {batches.summary}")
    with batches:
        found = evaluate.run(runtime, weights.params, batches, args.steps)
    if args.json:
        console.emit_json(
            {
                "stage": runtime.proof.stage.value,
                "checkpoint": weights.directory,
                "checkpoint_step": weights.step,
                "loss": found.loss,
                "perplexity": found.perplexity,
                "tokens": found.tokens,
                "batches": found.batches,
            }
        )
        return 0
    console.out(str(found))
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    common.add_config_arguments(parser)
    common.add_checkpoint_argument(parser)
    parser.add_argument(
        "--steps",
        type=common.positive,
        metavar="N",
        help="number of batches (default: all of the evaluation data)",
    )
    parser.set_defaults(steps=-1)


VERB = Verb(
    name="eval",
    help="the loss of a checkpoint on held-out data",
    examples=(
        "maxmig eval configs/demo.yml",
        "maxmig eval configs/demo.yml --steps 4 --json enable_nnx=true pure_nnx=true "
        "pure_nnx_decoder=true",
    ),
    add_arguments=add_arguments,
    run=run,
)
