"""One training step and one evaluation step, for any backend, on canonical flat trees."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from maxmig.backend import Backend
from maxmig.core import losses, part
from maxmig.core.context import Context
from maxmig.view import View

Array = jax.Array
Batch = Mapping[str, Array]
Flat = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a step wants from the configuration.

    Attributes:
        seed: of all random streams.
        dropout: whether the model drops anything in training.
        accumulation: number of micro-batches of one update.
        clip: largest global norm of the gradients; 0 does not clip.
        z_loss: multiplier of log(Z)^2 in the loss.
        grad_dtype: dtype that gradients are cast to.
        schedule: learning rate over steps, to be reported.
    """

    seed: int
    dropout: bool
    accumulation: int
    clip: float
    z_loss: float
    grad_dtype: Any
    schedule: optax.Schedule


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Loss:
    """A batch's loss: `total` is what is differentiated, the rest is reported.

    Attributes:
        total: cross entropy and z-loss, a mean over the counted targets, and auxiliary losses.
        cross_entropy: mean of -log p(target), nats.
        z_loss: mean of the z-loss.
        auxiliary: losses of the layers, by name, each a mean over the layers that have it.
        tokens: number of counted targets.
    """

    total: Array
    cross_entropy: Array
    z_loss: Array
    auxiliary: Mapping[str, Array]
    tokens: Array

    def named(self) -> dict[str, Array]:
        """Each part by its name, the auxiliary losses by theirs."""
        parts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return parts | parts.pop("auxiliary")


def loss(
    backend: Backend,
    params: Mapping[str, Array],
    batch: Batch,
    key: Array | None,
    *,
    z_loss: float,
    tokens: Array | None = None,
    share: float = 1.0,
) -> Loss:
    """The loss of a batch, or a micro-batch's part of it.

    Args:
        backend: what runs the model.
        params: parameters by canonical path.
        batch: int32 [B, L] by MaxText's names.
        key: random key of dropout, or None.
        z_loss: multiplier of log(Z)^2.
        tokens: number of counted targets of the whole batch; this batch's by default.
        share: this micro-batch's share of losses that are means over micro-batches.

    Returns:
        Parts that sum over the micro-batches to the loss of the whole batch, so that the gradient
        of the sum is the gradient of what is reported.
    """
    context = Context(batch["inputs_position"], batch["inputs_segmentation"], key)
    out = backend.apply(params, batch["inputs"], context)
    sums = losses.token_losses(out.logits, batch["targets"], batch["targets_segmentation"], z_loss)
    count = (sums.tokens if tokens is None else tokens) + 1e-8
    auxiliary = {name: share * value for name, value in _auxiliary(out.aux).items()}
    cross_entropy, z = sums.cross_entropy / count, sums.z_loss / count
    total = cross_entropy + z + sum(auxiliary.values(), jnp.zeros(()))
    return Loss(total, cross_entropy, z, auxiliary, sums.tokens)


def _auxiliary(aux: Mapping[str, Array]) -> dict[str, Array]:
    """The losses among a model's auxiliary values: means over the layers of all stacks, by name."""
    found: dict[str, list[Array]] = {}
    for path, values in aux.items():
        if path.endswith("_loss"):
            found.setdefault(path.rsplit("/", 1)[-1], []).append(jnp.ravel(values))
    return {name: jnp.mean(jnp.concatenate(each)) for name, each in found.items()}


def loss_and_gradients(
    backend: Backend,
    params: Mapping[str, Array],
    batch: Batch,
    key: Array | None,
    *,
    z_loss: float,
    accumulation: int,
) -> tuple[Loss, Flat]:
    """The loss of a batch and its gradient, computed in `accumulation` micro-batches."""

    def partial(params: Any, batch: Any, key: Any, tokens: Any) -> tuple[Array, Loss]:
        share = 1.0 / accumulation
        part = loss(backend, params, batch, key, z_loss=z_loss, tokens=tokens, share=share)
        return part.total, part

    differentiate = jax.value_and_grad(partial, has_aux=True)
    params = dict(params)
    if accumulation == 1:
        (_, result), grads = differentiate(params, batch, key, None)
        return result, grads
    tokens = jnp.sum(batch["targets_segmentation"] != 0).astype(jnp.float32)

    def body(total: Any, item: Any) -> tuple[Any, None]:
        micro, index = item
        here = None if key is None else jax.random.fold_in(key, index)
        (_, result), grads = differentiate(params, micro, here, tokens)
        return jax.tree.map(jnp.add, total, (result, grads)), None

    micro = jax.tree.map(lambda x: _split(x, accumulation), dict(batch))
    first = jax.tree.map(lambda x: x[0], micro)
    (_, result), grads = jax.eval_shape(differentiate, params, first, key, tokens)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (result, grads))
    (result, grads), _ = jax.lax.scan(body, start, (micro, jnp.arange(accumulation)))
    return result, grads


def train_step(
    backend: Backend, view: View, settings: Settings, state: Flat, batch: Batch
) -> tuple[Flat, dict[str, Array]]:
    """One update.

    Args:
        backend: what runs the model.
        view: of the backend's training state.
        settings: what the step wants from the configuration.
        state: {params/..., opt_state/..., step}.
        batch: int32 [B, L] by MaxText's names.

    Returns:
        The next state, and scalars: loss, lm_loss, z_loss, total_weights, learning_rate,
        raw_grad_norm, grad_norm (after clipping), param_norm, and the auxiliary losses by name.
    """
    native = view.native(state)
    params = backend.params(native)
    result, grads = loss_and_gradients(
        backend,
        params,
        batch,
        step_key(settings, state["step"]),
        z_loss=settings.z_loss,
        accumulation=settings.accumulation,
    )
    grads = {path: g.astype(settings.grad_dtype) for path, g in grads.items()}
    raw_norm = global_norm(grads)
    grads = clip(grads, raw_norm, settings.clip)
    # Known without adding the squares up again, which would cost a pass over memory.
    norm = jnp.minimum(raw_norm, settings.clip) if settings.clip else raw_norm
    native = backend.update(native, grads, loss=result.total, grad_norm=raw_norm)
    state = view.flat(native)
    return state, {
        "loss": result.total,
        "lm_loss": result.cross_entropy,
        "z_loss": result.z_loss,
        "total_weights": result.tokens,
        "learning_rate": jnp.asarray(settings.schedule(state["step"] - 1), jnp.float32),
        "raw_grad_norm": raw_norm,
        "grad_norm": norm,
        "param_norm": global_norm(backend.params(native)),
        **result.auxiliary,
    }


def step_key(settings: Settings, step: Array) -> Array | None:
    """The key of all random streams of one step: a function of (seed, step) alone."""
    if not settings.dropout:
        return None
    root = part.stream(jax.random.key(settings.seed), "dropout")
    return jax.random.fold_in(root, step)


def global_norm(flat: Mapping[str, Array]) -> Array:
    """Square root of the sum of all squares, added up in canonical order."""
    squares = [jnp.sum(jnp.square(x.astype(jnp.float32))) for x in flat.values()]
    return jnp.sqrt(sum(squares[1:], squares[0]))


def clip(grads: Mapping[str, Array], norm: Array, limit: float) -> Flat:
    """Gradients scaled down to a global norm of `limit`; 0 leaves them."""
    if not limit:
        return dict(grads)

    def scale(g: Array) -> Array:
        return jnp.where(norm < limit, g, (g / norm.astype(g.dtype)) * limit)

    return {path: scale(g) for path, g in grads.items()}


def _split(x: Array, ways: int) -> Array:
    """[ways * b, L] -> [ways, b, L], row i to micro-batch i % ways: rows stay on their devices."""
    return jnp.swapaxes(jnp.reshape(x, (-1, ways, *x.shape[1:])), 0, 1)
