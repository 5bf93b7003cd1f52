"""Small models in the style of Flax's examples, each in Linen and in NNX, and how they map.

The two of a pair are written as a person would write them: compact modules with numbered classes on
one side, attributes and lists on the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx


@dataclass(frozen=True)
class Pair:
    """A model twice.

    Attributes:
        linen: the Linen module.
        native: makes the NNX module.
        inputs: for both.
        mapping: the text of a mapping file; None: the rules that are found suffice.
    """

    linen: Any
    native: Callable[[], Any]
    inputs: tuple[Any, ...]
    mapping: str | None = None


class LinenBlock(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        y = nn.Conv(self.width, (3, 3), use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(self.width, (3, 3), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=not train)(y)
        return nn.relu(x + y)


class LinenResNet(nn.Module):
    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv_init")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="bn_init")(x))
        for _ in range(2):
            x = LinenBlock(4)(x, train)
        return nn.Dense(3)(x.mean((1, 2)))


class NativeBlock(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(width, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        y = self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))
        return nnx.relu(x + y)


class NativeResNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv_init = nnx.Conv(3, 4, (3, 3), use_bias=False, rngs=rngs)
        self.bn_init = nnx.BatchNorm(4, rngs=rngs)
        self.blocks = nnx.List([NativeBlock(4, rngs) for _ in range(2)])
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.relu(self.bn_init(self.conv_init(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


RESNET = r"""
maxmig_map: 1
from: linen-state
to: nnx-optimizer
rules:
- rename: {regex: 'LinenBlock_(\d+)/Conv_0/(.*)'}
  to: 'blocks_\1/conv1/\2'
- rename: {regex: 'LinenBlock_(\d+)/Conv_1/(.*)'}
  to: 'blocks_\1/conv2/\2'
- rename: {regex: 'LinenBlock_(\d+)/BatchNorm_0/(.*)'}
  to: 'blocks_\1/bn1/\2'
- rename: {regex: 'LinenBlock_(\d+)/BatchNorm_1/(.*)'}
  to: 'blocks_\1/bn2/\2'
- rename: Dense_0
  to: head
- list: blocks
"""


class LinenDecoder(nn.Module):
    """Boxed kernels beside biases without boxes; modules called `value`; a tied embedding."""

    @nn.compact
    def __call__(self, tokens: Any, train: bool = False) -> Any:
        init = nn.initializers.lecun_normal()
        boxed = nn.with_logical_partitioning(init, ("embed", "mlp"))
        embed = nn.Embed(
            11,
            8,
            embedding_init=nn.with_logical_partitioning(init, ("vocab", "embed")),
            name="embed",
        )
        x = embed(tokens)
        for layer in range(2):
            y = nn.LayerNorm(name=f"norm_{layer}")(x)
            mask = nn.make_causal_mask(tokens)
            x = x + nn.MultiHeadDotProductAttention(2, name=f"attention_{layer}")(y, mask=mask)
        x = nn.Dense(8, kernel_init=boxed, name="value")(x)
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return embed.attend(nn.LayerNorm(name="norm")(x))


class NativeDecoder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.norm_0, self.norm_1 = nnx.LayerNorm(8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs)
        self.attention_0 = nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False)
        self.attention_1 = nnx.MultiHeadAttention(2, 8, rngs=rngs, decode=False)
        self.value = nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        x = self.embed(tokens)
        mask = nnx.make_causal_mask(tokens)
        for norm, attention in ((self.norm_0, self.attention_0), (self.norm_1, self.attention_1)):
            x = x + attention(norm(x), mask=mask)
        return self.embed.attend(self.norm(self.dropout(self.value(x))))


DECODER = """
maxmig_map: 1
from: linen-state
to: nnx-optimizer
rules:
- random: dropout/rngs
"""


class LinenSeq2Seq(nn.Module):
    @nn.compact
    def __call__(self, source: Any, target: Any, train: bool = False) -> Any:
        carry, _ = nn.RNN(nn.LSTMCell(6, name="LSTMCell_0"), return_carry=True, name="encoder")(
            source
        )
        cell = nn.OptimizedLSTMCell(6, name="OptimizedLSTMCell_0")
        y = nn.RNN(cell, name="decoder")(target, initial_carry=carry)
        return nn.Dense(4, name="out")(y)


class NativeSeq2Seq(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.encoder = nnx.RNN(nnx.LSTMCell(3, 6, rngs=rngs), return_carry=True, rngs=rngs)
        self.decoder = nnx.RNN(nnx.OptimizedLSTMCell(4, 6, rngs=rngs), rngs=rngs)
        self.out = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, source: Any, target: Any) -> Any:
        carry, _ = self.encoder(source)
        return self.out(self.decoder(target, initial_carry=carry))


SEQ2SEQ = """
maxmig_map: 1
from: linen-state
to: nnx-optimizer
rules:
- layer: LSTMCell_0
  kind: lstm
  to: nnx
- layer: OptimizedLSTMCell_0
  kind: optimized-lstm
  to: nnx
- rename: LSTMCell_0
  to: encoder/cell
- rename: OptimizedLSTMCell_0
  to: decoder/cell
- random: encoder/rngs
- random: decoder/rngs
"""


class LinenVAE(nn.Module):
    def setup(self) -> None:
        self.encoders = [nn.Dense(6), nn.Dense(4)]
        self.decoder = nn.Sequential([nn.Dense(6), nn.relu, nn.Dense(5)])

    def __call__(self, x: Any, z_rng: Any, train: bool = False) -> Any:
        hidden = self.encoders[1](nn.relu(self.encoders[0](x)))
        mean, logvar = jnp.split(hidden, 2, -1)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(z_rng, mean.shape)
        return self.decoder(z), mean, logvar


class NativeVAE(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.encoders = nnx.List([nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)])
        self.decoder = nnx.Sequential(
            nnx.Linear(2, 6, rngs=rngs), nnx.relu, nnx.Linear(6, 5, rngs=rngs)
        )

    def __call__(self, x: Any, z_rng: Any) -> Any:
        hidden = self.encoders[1](nnx.relu(self.encoders[0](x)))
        mean, logvar = jnp.split(hidden, 2, -1)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(z_rng, mean.shape)
        return self.decoder(z), mean, logvar


def pairs() -> dict[str, Pair]:
    """All pairs by name."""
    key = jax.random.key(5)
    image = jax.random.normal(key, (2, 5, 5, 3))
    tokens = jax.random.randint(key, (2, 6), 0, 11)
    return {
        "resnet": Pair(LinenResNet(), lambda: NativeResNet(nnx.Rngs(7)), (image,), RESNET),
        "decoder": Pair(LinenDecoder(), lambda: NativeDecoder(nnx.Rngs(7)), (tokens,), DECODER),
        "seq2seq": Pair(
            LinenSeq2Seq(),
            lambda: NativeSeq2Seq(nnx.Rngs(7)),
            (jax.random.normal(key, (2, 4, 3)), jax.random.normal(key, (2, 5, 4))),
            SEQ2SEQ,
        ),
        "vae": Pair(
            LinenVAE(),
            lambda: NativeVAE(nnx.Rngs(7)),
            (jax.random.normal(key, (3, 5)), jax.random.key(1)),
        ),
    }
