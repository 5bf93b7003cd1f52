"""Continues prompts: one pass over the prompt, then a token at a time from the cache."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxmig import errors
from maxmig.backend import Backend
from maxmig.config import Config
from maxmig.core import part, sampling
from maxmig.core.context import Context
from maxmig.core.kv_cache import Cache

Array = jax.Array
Params = Mapping[str, Array]


class Generator:
    """Generates with one backend.

    Prompts of unequal length are padded on the left (segment 0), so that the next token of every
    row goes to the same place of the cache; positions count from each prompt's own start.
    """

    def __init__(self, cfg: Config, backend: Backend):
        g = cfg.generate
        self._cfg, self._backend = cfg, backend
        self._sampling = sampling.Sampling(
            g.decode_sampling_strategy,
            g.decode_sampling_top_k,
            g.decode_sampling_nucleus_p,
            g.decode_sampling_temperature,
        )

    def generate(
        self, params: Params, prompts: Sequence[Sequence[int]], new_tokens: int, *, seed: int = 0
    ) -> np.ndarray:
        """Continues each prompt.

        Args:
            params: the weights by canonical path.
            prompts: token ids of B prompts.
            new_tokens: how many tokens to add to each.
            seed: of the sampling.

        Returns:
            int32 [B, new_tokens].

        Raises:
            ConfigError: a prompt is empty, has a token outside the vocabulary, or is too long for
                the model's positions.
        """
        self._check(prompts, new_tokens)
        longest = max(len(p) for p in prompts)
        tokens = np.zeros((len(prompts), longest), np.int32)
        segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            start = longest - len(prompt)
            tokens[row, start:] = prompt
            segments[row, start:] = 1
            positions[row, start:] = np.arange(len(prompt))
        key = part.stream(jax.random.key(seed), "sampling")
        run = self._program(new_tokens)
        return np.asarray(run(dict(params), tokens, segments, positions, key))

    @functools.cache  # noqa: B019 (a generator lives as long as its programs)
    def _program(self, new_tokens: int) -> Any:
        def run(
            params: Params, tokens: Array, segments: Array, positions: Array, key: Array
        ) -> Array:
            cache = self._backend.cfg.empty_cache(tokens.shape[0], tokens.shape[1] + new_tokens)
            logits, cache = self._step(params, tokens, segments, positions, cache)
            first = sampling.sample(self._sampling, logits, jax.random.fold_in(key, 0))

            def body(carry: Any, index: Array) -> tuple[Any, Array]:
                token, position, cache = carry
                ones = jnp.ones_like(token)[:, None]
                logits, cache = self._step(params, token[:, None], ones, position[:, None], cache)
                following = sampling.sample(self._sampling, logits, jax.random.fold_in(key, index))
                return (following, position + 1, cache), following

            carry = (first, positions[:, -1] + 1, cache)
            _, rest = jax.lax.scan(body, carry, jnp.arange(1, new_tokens))
            return jnp.concatenate([first[:, None], jnp.swapaxes(rest, 0, 1)], axis=1)

        return jax.jit(run)

    def _step(
        self, params: Params, tokens: Array, segments: Array, positions: Array, cache: Cache
    ) -> tuple[Array, Any]:
        context = Context(positions, segments)
        out = self._backend.apply(params, tokens, context, cache)
        return out.logits[:, -1], out.cache

    def _check(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        if not prompts:
            raise errors.ConfigError("expected at least one prompt, got none")
        if new_tokens < 1:
            raise errors.ConfigError(f"expected at least one new token, got {new_tokens}")
        for row, prompt in enumerate(prompts):
            self._check_prompt(f"prompt {row + 1} of {len(prompts)}", prompt, new_tokens)

    def _check_prompt(self, name: str, prompt: Sequence[int], new_tokens: int) -> None:
        model, longest = self._backend.cfg, self._cfg.generate.max_prefill_predict_length
        if not len(prompt):
            raise errors.ConfigError(
                f"{name} has no tokens; expected at least one (set prompt, or add_bos=true)"
            )
        if len(prompt) > longest:
            raise errors.ConfigError(
                f"{name} is {len(prompt)} tokens long, expected at most {longest} "
                "(max_prefill_predict_length); shorten it, or set max_prefill_predict_length="
                f"{len(prompt)}"
            )
        outside = [t for t in prompt if not 0 <= t < model.vocab]
        if outside:
            raise errors.ConfigError(
                f"{name} has the token {outside[0]}, but the vocabulary is 0 to "
                f"{model.vocab - 1}: tokenizer and model do not belong together"
            )
        total, table = len(prompt) + new_tokens, model.decoder.positions
        if table is not None and total > table.rows:
            raise errors.ConfigError(
                f"{name} and {new_tokens} new tokens are {total} tokens long, but the model has "
                f"positions for {table.rows} (trainable_position_size); ask for at most "
                f"{max(table.rows - len(prompt), 0)} new tokens"
            )
