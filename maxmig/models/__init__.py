"""Model families: from a configuration to a model's description.

A family is a function from the configuration to one decoder layer; what all families share (tables,
stack, last norm, head) is `common`.
"""

from collections.abc import Callable

from maxmig.config import Config
from maxmig.core import decoder
from maxmig.models import common, gpt3, llama2, mixtral

FAMILIES: dict[str, Callable[[Config], decoder.Model]] = {
    "gpt3": gpt3.model,
    "llama2": llama2.model,
    "mixtral": mixtral.model,
}


def build(cfg: Config) -> decoder.Model:
    """The description of the model that a configuration asks for."""
    return FAMILIES[cfg.model.decoder_block](cfg)


numerics = common.numerics
dropout_rate = common.dropout_rate

__all__ = ["FAMILIES", "build", "dropout_rate", "numerics"]
