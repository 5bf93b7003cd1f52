"""The loss on held-out data."""

import dataclasses
import math

import jax

from maxmig import data, errors
from maxmig.data.loader import Loader
from maxmig.train.runtime import Leaves, Runtime


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Over all counted targets of some batches.

    Attributes:
        loss: mean of -log p(target), nats.
        tokens: number of counted targets.
        batches: number of batches.
    """

    loss: float
    tokens: int
    batches: int

    @property
    def perplexity(self) -> float:
        """exp(loss), as far as it can be told."""
        return math.exp(min(self.loss, 700.0))

    def values(self) -> dict[str, float]:
        """The numbers as metrics."""
        return {"eval_loss": self.loss, "eval_tokens": self.tokens, "eval_batches": self.batches}

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.4f}  perplexity {self.perplexity:.3f}  over {self.tokens:,} tokens"
        )


def loader(runtime: Runtime) -> Loader:
    """The evaluation data of the runtime's configuration."""
    return data.make(
        runtime.cfg,
        global_batch=runtime.cfg.train.eval_batch(runtime.devices),
        split="eval",
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )


def run(runtime: Runtime, params: Leaves, batches: Loader, steps: int | None = None) -> Evaluation:
    """Evaluates weights.

    Args:
        runtime: the programs.
        params: the weights, as `Runtime.params` gives them.
        batches: evaluation data, read from the beginning.
        steps: number of batches; by default `eval_steps`, -1 for all.

    Raises:
        InconclusiveError: no target was counted.
    """
    steps = runtime.cfg.train.eval_steps if steps is None else steps
    batches.reset()
    loss, tokens, count = 0.0, 0, 0
    for batch in batches if steps == -1 else batches.batches(steps):
        sums = runtime.evaluate(params, runtime.place(batch))
        loss += float(sums.cross_entropy)
        tokens += int(sums.tokens)
        count += 1
    if not tokens:
        raise errors.InconclusiveError(
            f"nothing was evaluated: {count} batches with no counted target"
        )
    return Evaluation(loss / tokens, tokens, count)
