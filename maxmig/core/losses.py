"""Losses of a language model."""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenLosses:
    """Sums over the counted tokens.

    Attributes:
        cross_entropy: sum of -log p(target), nats, the z-loss not included.
        z_loss: sum of z_loss_multiplier * log(Z)^2.
        tokens: number of counted targets, float32.
    """

    cross_entropy: Array
    z_loss: Array
    tokens: Array


def token_losses(logits: Array, targets: Array, counted: Array, z_loss: float = 0.0) -> TokenLosses:
    """Cross entropy, and the z-loss of PaLM (Chowdhery et al. 2022, section 5), summed.

    Args:
        logits: [B, L, V].
        targets: int32 [B, L].
        counted: [B, L], non-zero where the target counts.
        z_loss: multiplier of log(Z)^2.
    """
    logits = logits.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[:, :, None], axis=-1, mode="clip")[:, :, 0]
    weights = (counted != 0).astype(jnp.float32)
    return TokenLosses(
        cross_entropy=jnp.sum((log_z - chosen) * weights),
        z_loss=jnp.sum(z_loss * jnp.square(log_z) * weights),
        tokens=jnp.sum(weights),
    )
