"""The training state: Flax's TrainState."""

from typing import Any

import jax.numpy as jnp
import optax
from flax.training import train_state


class State(train_state.TrainState):
    """Weights, optimizer state and step; the optimizer may want more than gradients."""

    def apply_gradients(self, *, grads: Any, **kwargs: Any) -> "State":
        """The state after one update; `kwargs` go to the optimizer."""
        updates, opt_state = self.tx.update(grads, self.opt_state, self.params, **kwargs)
        params = optax.apply_updates(self.params, updates)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state)


def create(apply: Any, params: Any, tx: optax.GradientTransformation) -> State:
    """A state at step 0."""
    step = jnp.zeros((), jnp.int32)
    return State(step=step, apply_fn=apply, params=params, tx=tx, opt_state=tx.init(params))
