"""maxmig: moves JAX language models from Flax Linen to Flax NNX without losing a digit."""

__version__ = "0.1.0"
