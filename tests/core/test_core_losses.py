"""Losses against float64 NumPy, and their gradients against closed forms."""

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from maxmig.core import losses


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((2, 12, 11))).astype(np.float32)
    one = helpers.batch(2, 12, vocab=11)
    return logits, one["targets"], one["targets_segmentation"]


@pytest.mark.parametrize("z", [0.0, 1e-2])
def test_sums_are_the_definition(case: tuple[np.ndarray, ...], z: float) -> None:
    logits, targets, counted = case
    assert 0 < np.count_nonzero(counted) < counted.size
    got = losses.token_losses(*map(jnp.asarray, case), z)
    cross, squares = reference.losses(np.float64(logits), targets, counted, z)
    assert float(got.cross_entropy) == pytest.approx(cross, rel=1e-6)
    assert float(got.z_loss) == pytest.approx(squares, rel=1e-6, abs=1e-12)
    assert float(got.tokens) == np.count_nonzero(counted)


@pytest.mark.parametrize("z", [0.0, 1e-2])
def test_the_gradient_is_softmax_minus_target_and_two_z_log_z(
    case: tuple[np.ndarray, ...], z: float
) -> None:
    logits, targets, counted = case

    def total(x: jax.Array) -> jax.Array:
        sums = losses.token_losses(x, jnp.asarray(targets), jnp.asarray(counted), z)
        return sums.cross_entropy + sums.z_loss

    got = jax.grad(total)(jnp.asarray(logits))
    p = reference.softmax(np.float64(logits))
    log_z = np.log(np.exp(np.float64(logits)).sum(-1, keepdims=True))
    wanted = p - np.eye(11)[targets] + 2 * z * log_z * p
    wanted *= (counted != 0)[..., None]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_uniform_logits_cost_log_v() -> None:
    got = losses.token_losses(jnp.zeros((1, 4, 32)), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4)))
    assert float(got.cross_entropy / got.tokens) == pytest.approx(np.log(32), rel=1e-7)


def test_huge_and_half_precision_logits_stay_finite() -> None:
    logits = jnp.asarray([[[3e4, -3e4, 0.0]]], jnp.bfloat16)
    right, wrong = (
        losses.token_losses(logits, jnp.full((1, 1), t, jnp.int32), jnp.ones((1, 1)))
        for t in (0, 1)
    )
    assert right.cross_entropy.dtype == jnp.float32
    assert float(right.cross_entropy) == 0.0
    assert float(wrong.cross_entropy) == float(logits[0, 0, 0]) - float(logits[0, 0, 1])
