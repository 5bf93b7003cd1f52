"""`maxmig generate`: continues text."""

import argparse

from maxmig.cli import common, console
from maxmig.cli.verb import Verb


def run(args: argparse.Namespace) -> int:
    """Prints each prompt with its continuation."""
    cfg = common.load_config(args)
    from maxmig import infer
    from maxmig.cli import checkpoints
    from maxmig.data import tokenizer

    words = tokenizer.load(cfg)
    prompts = args.prompt or [cfg.generate.prompt]
    runtime, params, source = checkpoints.weights(cfg, args.checkpoint)
    flat = dict(zip(runtime.param_paths, params, strict=True))
    ids = [words.encode(prompt) for prompt in prompts]
    generator = infer.Generator(cfg, runtime.backend)
    tokens = generator.generate(flat, ids, args.tokens, seed=args.seed)
    texts = [words.decode(row.tolist()) for row in tokens]
    if args.json:
        console.emit_json(
            {
                "stage": runtime.proof.stage.value,
                "checkpoint": source,
                "results": [
                    {"prompt": prompt, "text": text, "tokens": row.tolist()}
                    for prompt, text, row in zip(prompts, texts, tokens, strict=True)
                ],
            }
        )
        return 0
    console.note(f"rung     {runtime.proof}")
    for prompt, text in zip(prompts, texts, strict=True):
        console.out(prompt + text)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    common.add_config_arguments(parser)
    common.add_checkpoint_argument(parser)
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT", help="text to continue; may be repeated"
    )
    parser.add_argument(
        "--tokens", type=common.positive, default=64, metavar="N", help="tokens to add (64)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (0)")


VERB = Verb(
    name="generate",
    help="continue text with a trained model",
    examples=(
        "maxmig generate configs/demo.yml --tokens 80",
        "maxmig generate configs/demo.yml --prompt 'The ' enable_nnx=true pure_nnx=true "
        "pure_nnx_decoder=true",
    ),
    add_arguments=add_arguments,
    run=run,
)
