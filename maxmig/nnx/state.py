"""The training state: a module that holds the model and its optimizer."""

from typing import Any

import optax
from flax import nnx


class State(nnx.Module):
    """Weights, optimizer state and step, as MaxText's TrainStateNNX holds them."""

    def __init__(self, model: nnx.Module, optimizer: nnx.Optimizer):
        self.model = model
        self.optimizer = optimizer

    def apply_gradients(self, *, grads: Any, **kwargs: Any) -> "State":
        """The same state after one update in place; `kwargs` go to the optimizer."""
        self.optimizer.update(self.model, grads, **kwargs)
        return self


def create(model: nnx.Module, tx: optax.GradientTransformation) -> State:
    """A state at step 0."""
    return State(model, nnx.Optimizer(model, tx, wrt=nnx.Param))
