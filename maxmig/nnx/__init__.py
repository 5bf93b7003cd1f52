"""The NNX wing: who owns which array, and how layers are lifted; core does the arithmetic."""

from maxmig.nnx.decoder import Decoder, Layer, Model
from maxmig.nnx.layers import Attention, Dense, Embed, Mlp, Moe, Norm
from maxmig.nnx.state import State
from maxmig.nnx.wing import Wing

__all__ = [
    "Attention",
    "Decoder",
    "Dense",
    "Embed",
    "Layer",
    "Mlp",
    "Model",
    "Moe",
    "Norm",
    "State",
    "Wing",
]
