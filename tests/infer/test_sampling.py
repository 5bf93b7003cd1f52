"""How the next token is chosen, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxmig.core.sampling import Sampling, sample

PROBABILITIES = np.array([0.05, 0.4, 0.15, 0.1, 0.3])
LOGITS = np.log(PROBABILITIES).astype(np.float32)
DRAWS = 20_000


def draw(cfg: Sampling, logits: np.ndarray = LOGITS, seed: int = 0) -> np.ndarray:
    """How often each token is drawn."""
    rows = jnp.broadcast_to(jnp.asarray(logits), (DRAWS, logits.size))
    tokens = jax.jit(lambda rows, key: sample(cfg, rows, key))(rows, jax.random.key(seed))
    assert tokens.dtype == jnp.int32 and tokens.shape == (DRAWS,)
    return np.bincount(np.asarray(tokens), minlength=logits.size) / DRAWS


def near(found: np.ndarray, wanted: np.ndarray) -> None:
    """Within five standard deviations, and never outside of the support."""
    deviation = np.sqrt(wanted * (1 - wanted) / DRAWS)
    assert (np.abs(found - wanted) <= 5 * deviation).all(), (found, wanted)


def among(tokens: list[int]) -> np.ndarray:
    kept = np.zeros_like(PROBABILITIES)
    kept[tokens] = PROBABILITIES[tokens]
    return kept / kept.sum()


def test_greedy() -> None:
    assert draw(Sampling("greedy"))[1] == 1


def test_weighted_draws_from_all() -> None:
    near(draw(Sampling("weighted")), PROBABILITIES)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature(temperature: float) -> None:
    powers = PROBABILITIES ** (1 / temperature)
    near(draw(Sampling("weighted", temperature=temperature)), powers / powers.sum())


@pytest.mark.parametrize("strategy", ["weighted", "topk", "nucleus", "composite"])
def test_no_temperature_is_greedy(strategy: str) -> None:
    assert draw(Sampling(strategy, 3, 0.9, temperature=1e-3))[1] == 1


@pytest.mark.parametrize(
    ("k", "kept"), [(1, [1]), (2, [1, 4]), (3, [1, 4, 2]), (99, [0, 1, 2, 3, 4])]
)
def test_top_k(k: int, kept: list[int]) -> None:
    near(draw(Sampling("topk", top_k=k)), among(kept))


# In order 0.4, 0.3, 0.15, 0.1, 0.05: the smallest set that holds p.
@pytest.mark.parametrize(
    ("p", "kept"),
    [
        (0.01, [1]),
        (0.39, [1]),
        (0.41, [1, 4]),
        (0.69, [1, 4]),
        (0.71, [1, 4, 2]),
        (1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_nucleus(p: float, kept: list[int]) -> None:
    near(draw(Sampling("nucleus", nucleus_p=p)), among(kept))


def test_composite_takes_the_nucleus_of_the_top_k() -> None:
    """Of the two likeliest (4/7 and 3/7) the first alone holds half; of all it does not."""
    near(draw(Sampling("composite", top_k=2, nucleus_p=0.5)), among([1]))
    near(draw(Sampling("nucleus", nucleus_p=0.5)), among([1, 4]))
    near(draw(Sampling("composite", top_k=3, nucleus_p=0.5)), among([1, 4]))


def test_a_row_does_not_depend_on_the_others_logits() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float32)
    changed = rows.copy()
    changed[1:] = 0
    key = jax.random.key(1)
    for cfg in (Sampling("topk", 5), Sampling("nucleus", nucleus_p=0.8), Sampling("weighted")):
        assert sample(cfg, jnp.asarray(rows), key)[0] == sample(cfg, jnp.asarray(changed), key)[0]


def test_bfloat16_logits_are_sampled_in_float32() -> None:
    found = draw(Sampling("nucleus", nucleus_p=0.71), LOGITS.astype(jnp.bfloat16))
    assert found[[0, 3]].sum() == 0 and found[2] > 0
