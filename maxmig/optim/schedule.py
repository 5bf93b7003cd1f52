"""Learning rate over steps, as in MaxText."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from maxmig.config import Config

Decay = Callable[[jax.Array, float], jax.Array]


def _cosine(fraction: jax.Array, final: float) -> jax.Array:
    a = 0.5 * (jnp.cos(jnp.pi * fraction) + 1)
    return a + final * (1 - a)


def _linear(fraction: jax.Array, final: float) -> jax.Array:
    return 1 - fraction * (1 - final)


_DECAYS: dict[str, Decay] = {"cosine": _cosine, "linear": _linear}


def build(cfg: Config) -> optax.Schedule:
    """Linear warm-up from 0, then a cosine (or a plateau and a decay, `wsd`), then 0.

    A decay of n steps reaches its final value at its last step: step i has the fraction i / (n-1).
    Pieces of length zero are left out.
    """
    o = cfg.optimizer
    total = (
        cfg.train.steps if o.learning_rate_schedule_steps == -1 else o.learning_rate_schedule_steps
    )
    warmup = int(total * o.warmup_steps_fraction)
    pieces: list[tuple[int, optax.Schedule]] = [
        (warmup, optax.linear_schedule(0.0, o.learning_rate, warmup or 1))
    ]
    if o.lr_schedule_type == "wsd":
        decay = int(total * o.wsd_decay_steps_fraction)
        pieces.append((total - warmup - decay, optax.constant_schedule(o.learning_rate)))
        pieces.append((decay, _decay(cfg, decay, o.wsd_decay_style)))
    else:
        pieces.append((total - warmup, _decay(cfg, total - warmup, "cosine")))
    pieces = [piece for piece in pieces if piece[0] > 0]
    pieces.append((0, optax.constant_schedule(0.0)))
    ends = [sum(length for length, _ in pieces[: i + 1]) for i in range(len(pieces) - 1)]
    return optax.join_schedules([schedule for _, schedule in pieces], ends)


def _decay(cfg: Config, steps: int, style: str) -> optax.Schedule:
    o = cfg.optimizer

    def schedule(step: jax.Array) -> jax.Array:
        fraction = jnp.asarray(step, jnp.float32) / max(steps - 1, 1)
        return o.learning_rate * _DECAYS[style](fraction, o.learning_rate_final_fraction)

    return schedule
