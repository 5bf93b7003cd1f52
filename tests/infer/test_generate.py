"""Generation with a cache: against whole forward passes, alone and in company, on every rung."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxmig import errors, infer
from maxmig.config.flags import Stage
from maxmig.core.context import Context

PROMPTS = [[7], [1, 2, 3, 4, 5], [200, 100, 50], [9, 8, 7, 6, 5, 4, 3, 2, 1]]
NEW = 6


def generator(family: str, *overrides: str, stage: Stage = Stage.LINEN) -> Any:
    runtime = helpers.runtime(family, *overrides, stage=stage)
    return infer.Generator(runtime.cfg, runtime.backend), helpers.weights(family)


def without_cache(family: str, prompt: list[int], stage: Stage, *overrides: str) -> list[int]:
    """Greedy generation by a whole forward pass a token."""
    runtime = helpers.runtime(family, *overrides, stage=stage)
    params, length = helpers.weights(family), len(prompt) + NEW
    apply = jax.jit(
        lambda p, t: runtime.backend.apply(p, t, Context.of(jnp.zeros((1, length), jnp.int32)))
    )
    tokens = list(prompt)
    while len(tokens) < length:
        padded = np.zeros((1, length), np.int32)
        padded[0, : len(tokens)] = tokens
        tokens.append(int(np.argmax(apply(params, padded).logits[0, len(tokens) - 1])))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("family", helpers.FAMILIES)
def test_the_cache_changes_nothing(family: str, wing: Stage) -> None:
    engine, params = generator(family, stage=wing)
    got = engine.generate(params, PROMPTS, NEW)
    assert got.shape == (len(PROMPTS), NEW) and got.dtype == np.int32
    wanted = [without_cache(family, prompt, wing) for prompt in PROMPTS]
    assert got.tolist() == wanted
    assert len({tuple(row) for row in wanted}) == len(PROMPTS), "all say the same: no test"


def test_a_window_too(wing: Stage) -> None:
    more = ("sliding_window_size=4", "attention_type=local_sliding")
    engine, params = generator("tiny_llama2", *more, stage=wing)
    wanted = [without_cache("tiny_llama2", prompt, wing, *more) for prompt in PROMPTS]
    assert engine.generate(params, PROMPTS, NEW).tolist() == wanted
    full = [without_cache("tiny_llama2", prompt, wing) for prompt in PROMPTS]
    assert wanted != full, "the window has no effect"


@pytest.mark.parametrize("family", helpers.FAMILIES)
def test_in_company_as_alone(family: str, wing: Stage) -> None:
    """Prompts of unequal length are padded on the left, which must not be seen."""
    engine, params = generator(family, stage=wing)
    together = engine.generate(params, PROMPTS, NEW)
    alone = [engine.generate(params, [prompt], NEW)[0].tolist() for prompt in PROMPTS]
    assert together.tolist() == alone


@pytest.mark.parametrize("family", helpers.FAMILIES)
def test_every_rung_writes_the_same(family: str) -> None:
    texts = {}
    for stage in Stage:
        engine, params = generator(family, stage=stage)
        texts[stage] = engine.generate(params, PROMPTS, NEW).tolist()
    assert len(texts) == 5 and all(text == texts[Stage.LINEN] for text in texts.values())


def test_every_rung_draws_the_same() -> None:
    more = ("decode_sampling_strategy=weighted", "decode_sampling_temperature=2.0")
    drawn = {}
    for stage in Stage:
        engine, params = generator("tiny_llama2", *more, stage=stage)
        drawn[stage] = engine.generate(params, PROMPTS, NEW, seed=3).tolist()
    assert all(text == drawn[Stage.LINEN] for text in drawn.values())


def test_seeds() -> None:
    more = ("decode_sampling_strategy=weighted",)
    engine, params = generator("tiny_llama2", *more)
    first = engine.generate(params, PROMPTS, NEW, seed=1).tolist()
    assert engine.generate(params, PROMPTS, NEW, seed=1).tolist() == first
    assert engine.generate(params, PROMPTS, NEW, seed=2).tolist() != first


def test_a_cold_draw_is_greedy() -> None:
    cold = ("decode_sampling_strategy=weighted", "decode_sampling_temperature=1e-4")
    engine, params = generator("tiny_llama2", *cold)
    greedy, _ = generator("tiny_llama2")
    got = engine.generate(params, PROMPTS, NEW, seed=5)
    assert got.tolist() == greedy.generate(params, PROMPTS, NEW).tolist()


def test_a_padded_row_would_show() -> None:
    """Negative control: without segments the padding on the left is seen."""
    engine, params = generator("tiny_llama2")
    wanted = engine.generate(params, PROMPTS, NEW).tolist()
    step = engine._step

    def blind(params: Any, tokens: Any, segments: Any, positions: Any, cache: Any) -> Any:
        return step(params, tokens, jnp.ones_like(segments), positions, cache)

    blinded, _ = generator("tiny_llama2")
    blinded._step = blind
    assert blinded.generate(params, PROMPTS, NEW).tolist() != wanted


@pytest.mark.parametrize(
    ("family", "prompts", "new", "says"),
    [
        ("tiny_llama2", [], 1, "expected at least one prompt"),
        ("tiny_llama2", [[1], []], 1, "prompt 2 of 2 has no tokens"),
        ("tiny_llama2", [[1]], 0, "at least one new token"),
        ("tiny_llama2", [[1, 256]], 1, "token 256, but the vocabulary is 0 to 255"),
        ("tiny_llama2", [[1, -1]], 1, "token -1"),
        ("tiny_llama2", [[1] * 17], 1, "17 tokens long, expected at most 16"),
        ("tiny_gpt3", [[1], [1] * 10], 55, "prompt 2 of 2 and 55 new tokens are 65 tokens long"),
    ],
)
def test_what_cannot_be_continued(
    family: str, prompts: list[list[int]], new: int, says: str, wing: Stage
) -> None:
    engine, params = generator(family, stage=wing)
    with pytest.raises(errors.ConfigError, match=says) as told:
        engine.generate(params, prompts, new)
    assert told.value.exit_code == 2


def test_up_to_the_last_position(wing: Stage) -> None:
    engine, params = generator("tiny_gpt3", stage=wing)
    assert engine.generate(params, [[1] * 10], 54).shape == (1, 54)
