"""The Linen wing: who owns which array, and how layers are lifted; core does the arithmetic."""

from maxmig.linen.decoder import Decoder, Layer, Model
from maxmig.linen.layers import Attention, Dense, Embed, Mlp, Moe, Norm
from maxmig.linen.state import State
from maxmig.linen.wing import Wing

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
