"""Pairs of users' own, in the style of Flax's examples: stock layers, no helpers of maxmig."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class LinenMLP(nn.Module):
    """Nested calls and equal shapes: the outer layer is Dense_0, since Python builds it first."""

    features: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.features)(nn.relu(nn.Dense(self.features)(x)))
        return nn.Dense(self.features)(nn.tanh(x))


class MLP(nnx.Module):
    def __init__(self, features: int = 8, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(features, features, rngs=rngs)
        self.second = nnx.Linear(features, features, rngs=rngs)
        self.third = nnx.Linear(features, features, rngs=rngs)

    def __call__(self, x):
        return self.third(jnp.tanh(self.second(nnx.relu(self.first(x)))))


def mlp():
    return LinenMLP(), MLP(rngs=nnx.Rngs(1)), (normal(4, 8),)


class LinenCNN(nn.Module):
    momentum: float = 0.99

    @nn.compact
    def __call__(self, x, train: bool = True):
        for features in (4, 8):
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum)(x)
            x = nn.avg_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.Dropout(0.25, deterministic=not train)(nn.relu(nn.Dense(16)(x)))
        return nn.Dense(3)(x)


class CNN(nnx.Module):
    def __init__(self, *, momentum: float = 0.99, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 4, (3, 3), use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(4, momentum=momentum, rngs=rngs)
        self.conv2 = nnx.Conv(4, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(8, momentum=momentum, rngs=rngs)
        self.dense = nnx.Linear(32, 16, rngs=rngs)
        self.dropout = nnx.Dropout(0.25, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            x = nnx.avg_pool(nnx.relu(norm(conv(x))), (2, 2), strides=(2, 2))
        x = self.dropout(nnx.relu(self.dense(x.reshape((x.shape[0], -1)))))
        return self.head(x)


def cnn():
    return LinenCNN(), CNN(rngs=nnx.Rngs(1)), {"x": normal(2, 8, 8, 1), "train": True}


class LinenBlock(nn.Module):
    """Pre-LN; the depth of a head is no power of 2, so that the two scalings round differently."""

    width: int = 12
    heads: int = 2
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, mask):
        h = nn.LayerNorm(dtype=self.dtype)(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype)(h, mask=mask)
        h = nn.LayerNorm(dtype=self.dtype)(x)
        h = nn.Dense(2 * self.width, dtype=self.dtype)(h)
        return x + nn.Dense(self.width, dtype=self.dtype)(nn.gelu(h))


class LinenTransformer(nn.Module):
    vocab: int = 16
    width: int = 12
    layers: int = 2
    tied: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.vocab, self.width, dtype=self.dtype)
        x = embed(tokens)
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x = LinenBlock(self.width, dtype=self.dtype)(x, mask)
        x = nn.LayerNorm(dtype=self.dtype)(x)
        if self.tied:
            return embed.attend(x)
        return nn.Dense(self.vocab, use_bias=False, dtype=self.dtype)(x)


class Block(nnx.Module):
    def __init__(self, width: int, heads: int, *, dtype: str, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, dtype=dtype, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(width, 2 * width, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x, mask):
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    def __init__(self, *, tied: bool = False, dtype: str = "float32", rngs: nnx.Rngs):
        self.embed = nnx.Embed(16, 12, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(Block(12, 2, dtype=dtype, rngs=rngs) for _ in range(2))
        self.norm = nnx.LayerNorm(12, dtype=dtype, rngs=rngs)
        self.tied = tied
        if not tied:
            self.head = nnx.Linear(12, 16, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        mask = nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        return self.embed.attend(x) if self.tied else self.head(x)


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 16, (2, 6)).astype("int32")


def transformer():
    return LinenTransformer(), Transformer(rngs=nnx.Rngs(1)), (tokens(),)


def transformer_bf16():
    return (
        LinenTransformer(dtype="bfloat16"),
        Transformer(dtype="bfloat16", rngs=nnx.Rngs(1)),
        (tokens(),),
    )


class LinenNorm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8, dtype="bfloat16")(nn.LayerNorm(dtype="bfloat16")(x))


class Norm(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(8, dtype="bfloat16", rngs=rngs)
        self.dense = nnx.Linear(8, 8, dtype="bfloat16", rngs=rngs)

    def __call__(self, x):
        return self.dense(self.norm(x))


def norm_bf16():
    return LinenNorm(), Norm(rngs=nnx.Rngs(1)), (normal(64, 8),)


def tied():
    return LinenTransformer(tied=True), Transformer(tied=True, rngs=nnx.Rngs(1)), (tokens(),)


class LinenTagger(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.RNN(nn.OptimizedLSTMCell(5))(x)
        x = nn.RNN(nn.LSTMCell(4))(x)
        return nn.Dense(2)(x)


class Tagger(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.lower = nnx.RNN(nnx.OptimizedLSTMCell(3, 5, rngs=rngs), rngs=rngs)
        self.upper = nnx.RNN(nnx.LSTMCell(5, 4, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.upper(self.lower(x)))


def lstm():
    return LinenTagger(), Tagger(rngs=nnx.Rngs(1)), (normal(2, 4, 3),)


class LinenVAE(nn.Module):
    """The noise is an argument, as in Flax's example."""

    latents: int = 3

    @nn.compact
    def __call__(self, x, z_rng):
        h = nn.relu(nn.Dense(8, name="fc1")(x))
        mean = nn.Dense(self.latents, name="fc2_mean")(h)
        logvar = nn.Dense(self.latents, name="fc2_logvar")(h)
        z = mean + jax.random.normal(z_rng, logvar.shape) * jnp.exp(0.5 * logvar)
        h = nn.relu(nn.Dense(8, name="fc3")(z))
        return nn.Dense(6, name="fc4")(h), mean, logvar


class VAE(nnx.Module):
    def __init__(self, *, swapped: bool = False, rngs: nnx.Rngs):
        self.fc1 = nnx.Linear(6, 8, rngs=rngs)
        self.fc2_mean = nnx.Linear(8, 3, rngs=rngs)
        self.fc2_logvar = nnx.Linear(8, 3, rngs=rngs)
        self.fc3 = nnx.Linear(3, 8, rngs=rngs)
        self.fc4 = nnx.Linear(8, 6, rngs=rngs)
        self.swapped = swapped

    def __call__(self, x, z_rng):
        h = nnx.relu(self.fc1(x))
        mean, logvar = self.fc2_mean(h), self.fc2_logvar(h)
        if self.swapped:
            mean, logvar = logvar, mean
        z = mean + jax.random.normal(z_rng, logvar.shape) * jnp.exp(0.5 * logvar)
        return self.fc4(nnx.relu(self.fc3(z))), mean, logvar


def vae():
    return LinenVAE(), VAE(rngs=nnx.Rngs(1)), {"x": normal(4, 6), "z_rng": jax.random.key(3)}


# Negative controls: outputs agree, or nearly, and yet it is not the same model.


def untied():
    return LinenTransformer(tied=True), Transformer(rngs=nnx.Rngs(1)), (tokens(),)


def tied_by_mistake():
    return LinenTransformer(), Transformer(tied=True, rngs=nnx.Rngs(1)), (tokens(),)


def momentum():
    return LinenCNN(), CNN(momentum=0.9, rngs=nnx.Rngs(1)), {"x": normal(2, 8, 8, 1), "train": True}


class StoppedMLP(MLP):
    def __call__(self, x):
        h = jax.lax.stop_gradient(nnx.relu(self.first(x)))
        return self.third(jnp.tanh(self.second(h)))


def stopped():
    return LinenMLP(), StoppedMLP(rngs=nnx.Rngs(1)), (normal(4, 8),)


def exchanged():
    return (
        LinenVAE(),
        VAE(swapped=True, rngs=nnx.Rngs(1)),
        {"x": normal(4, 6), "z_rng": jax.random.key(3)},
    )


class GRULinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.RNN(nn.GRUCell(4))(x)


class GRU(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.rnn = nnx.RNN(nnx.GRUCell(3, 4, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.rnn(x)


def gru():
    return GRULinen(), GRU(rngs=nnx.Rngs(1)), (normal(2, 4, 3),)
