"""`maxmig generate`: continues text."""

import argparse
from typing import TYPE_CHECKING

from maxmig.cli import common, console
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.data.tokenizer import Tokenizer


def run(args: argparse.Namespace) -> int:
    """Prints each prompt with its continuation."""
    cfg = common.load_config(args)
    from maxmig import infer
    from maxmig.cli import checkpoints
    from maxmig.data import tokenizer

    words = tokenizer.load(cfg)
    prompts = args.prompt or [cfg.generate.prompt]
    ids = [encode(words, prompt, bos=cfg.data.add_bos) for prompt in prompts]
    weights = checkpoints.weights(cfg, args.checkpoint)
    runtime = weights.runtime
    flat = dict(zip(runtime.param_paths, weights.params, strict=True))
    console.note(f"weights  {weights}")
    console.note(f"rung     {runtime.proof}")
    generator = infer.Generator(cfg, runtime.backend)
    rows = generator.generate(flat, ids, args.tokens, seed=args.seed).tolist()
    end = words.eos_id if cfg.data.add_eos else None
    tokens = [row[: row.index(end)] if end in row else row for row in rows]
    texts = [words.decode(row) for row in tokens]
    if args.json:
        console.emit_json(
            {
                "stage": runtime.proof.stage.value,
                "checkpoint": weights.directory,
                "checkpoint_step": weights.step,
                "results": [
                    {"prompt": prompt, "text": text, "tokens": row}
                    for prompt, text, row in zip(prompts, texts, tokens, strict=True)
                ],
            }
        )
        return 0
    for prompt, text in zip(prompts, texts, strict=True):
        console.out(console.printable(prompt + text))
    return 0


def encode(words: "Tokenizer", prompt: str, *, bos: bool) -> list[int]:
    """A prompt as the beginning of a document, as the training data have them."""
    begin = [words.bos_id] if bos and words.bos_id is not None else []
    return begin + words.encode(prompt)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    common.add_config_arguments(parser)
    common.add_checkpoint_argument(parser)
    parser.add_argument(
        "--prompt", action="append", metavar="TEXT", help="text to continue; may be repeated"
    )
    parser.add_argument(
        "--tokens",
        type=common.positive,
        default=64,
        metavar="N",
        help="tokens to add (64); a text ends earlier where the model ends it",
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
