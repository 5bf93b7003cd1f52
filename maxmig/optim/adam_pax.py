"""PaxML's Adam, which MaxText trains GPT-3 with: bias correction is folded into the decays."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def adam_pax(
    learning_rate: optax.Schedule,
    b1: float,
    b2: float,
    eps: float,
    eps_root: float,
    weight_decay: float,
    mu_dtype: Any = None,
    mask: Any = None,
) -> optax.GradientTransformation:
    """For count c the decay is b (1 - b^c) / (1 - b^(c+1)), so that no later correction is needed.

    Weight decay is added to Adam's direction, before the learning rate.

    Args:
        learning_rate: schedule of the count before the step.
        b1, b2, eps, eps_root: as in optax.adam.
        weight_decay: multiplier of the weights.
        mu_dtype: dtype of the first moment; None keeps the weights'.
        mask: callable from parameters to a tree of bools, True where weights decay; None: all.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        mu = jax.tree.map(lambda p: jnp.zeros_like(p, dtype=mu_dtype), params)
        return optax.ScaleByAdamState(
            jnp.zeros((), jnp.int32), mu, jax.tree.map(jnp.zeros_like, params)
        )

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = state.count.astype(jnp.float32)
        d1, d2 = _decay(b1, count), _decay(b2, count)
        mu = jax.tree.map(lambda g, m: _mix(g, m, d1), grads, state.mu)
        nu = jax.tree.map(lambda g, v: _mix(jnp.square(g), v, d2), grads, state.nu)
        decays = jax.tree.map(lambda _: True, params) if mask is None else mask(params)
        rate = learning_rate(state.count)

        def direction(m: jax.Array, v: jax.Array, p: jax.Array, decay: bool) -> jax.Array:
            u = m / (jnp.sqrt(v + eps_root) + eps)
            u = u + weight_decay * p if decay else u
            return (-rate * u).astype(p.dtype)

        updates = jax.tree.map(direction, mu, nu, params, decays)
        return updates, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformation(init, update)


def _decay(b: float, count: jax.Array) -> jax.Array:
    return b * (1 - b**count) / (1 - b ** (count + 1))


def _mix(new: jax.Array, old: jax.Array, decay: jax.Array) -> jax.Array:
    return ((1 - decay) * new + decay * old).astype(old.dtype)
