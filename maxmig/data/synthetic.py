"""MaxText's synthetic data: one batch of random tokens, the same at each step."""

from __future__ import annotations

import numpy as np

from maxmig.data.corpus import Corpus


def corpus(*, seed: int, rows: int, length: int, vocab_size: int) -> Corpus:
    """Random documents that fill `rows` rows of `length` inputs and targets.

    The generator and its arguments are MaxText's, so with seed 0 (MaxText has no other) the tokens
    are MaxText's own: a run that starts from its checkpoint sees the batch that it was trained on.
    """
    import jax

    # MaxText sets jax_default_prng_impl to unsafe_rbg, whose bits differ from JAX's own default.
    key = jax.random.key(seed, impl="unsafe_rbg")
    drawn = jax.random.randint(key, (rows, length + 1), 0, vocab_size, dtype=np.int32)
    starts = np.arange(rows, dtype=np.int64) * (length + 1)
    spans = np.stack([starts, starts + length + 1], axis=1)
    return Corpus("synthetic", np.asarray(drawn).reshape(-1), spans)
