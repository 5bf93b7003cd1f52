"""Skips the update of a step whose loss or gradient norm stands out of the recent past."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

State = dict[str, Any]


def skip_on_spikes(
    inner: optax.GradientTransformation, interval: int, factor: float
) -> optax.GradientTransformationExtraArgs:
    """MaxText's rule: accept while value - mean <= factor * standard deviation.

    Mean and (Bessel-corrected) deviation are of the last `interval` losses and gradient norms;
    nothing is skipped before half of them are known. A skipped step changes neither weights nor the
    inner state, but its values enter the record.

    The update wants `loss=` and `grad_norm=`; without `loss` it is the inner optimizer's.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> State:
        return {
            "inner_state": inner.init(params),
            "losses": jnp.zeros((interval,), jnp.float32),
            "grad_norms": jnp.zeros((interval,), jnp.float32),
            "count": jnp.zeros((), jnp.int32),
            "is_skipped": jnp.zeros((), jnp.bool_),
        }

    def update(grads: Any, state: State, params: Any = None, **kwargs: Any) -> tuple[Any, State]:
        updates, inner_state = inner.update(grads, state["inner_state"], params, **kwargs)
        if "loss" not in kwargs:
            return updates, state | {"inner_state": inner_state}
        count, loss, norm = state["count"], kwargs["loss"], kwargs["grad_norm"]
        calm = _calm(state["losses"], count, loss, factor)
        calm &= _calm(state["grad_norms"], count, norm, factor)
        accept = calm | (count + 1 < max(2, interval // 2))
        slot = count % interval
        return (
            jax.tree.map(lambda u: jnp.where(accept, u, jnp.zeros_like(u)), updates),
            {
                "inner_state": jax.tree.map(
                    lambda new, old: jnp.where(accept, new, old), inner_state, state["inner_state"]
                ),
                "losses": state["losses"].at[slot].set(loss.astype(jnp.float32)),
                "grad_norms": state["grad_norms"].at[slot].set(norm.astype(jnp.float32)),
                "count": count + 1,
                "is_skipped": ~accept,
            },
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _calm(past: jax.Array, count: jax.Array, value: jax.Array, factor: float) -> jax.Array:
    known = jnp.minimum(count, past.size)
    weights = (jnp.arange(past.size) < known).astype(jnp.float32)
    n = known.astype(jnp.float32)
    mean = jnp.sum(past * weights) / jnp.maximum(n, 1)
    variance = jnp.sum(jnp.square(past - mean) * weights) / jnp.maximum(n - 1, 1)
    return value - mean <= factor * jnp.sqrt(variance)
