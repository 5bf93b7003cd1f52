"""Flax's own layers: which NNX class stands for which Linen class, and how their leaves differ."""

import dataclasses
import re
from collections.abc import Iterable

# Linen class -> NNX class, where the names differ; the others are called alike.
TWINS = {
    "Dense": "Linear",
    "DenseGeneral": "LinearGeneral",
    "MultiHeadDotProductAttention": "MultiHeadAttention",
    "SelfAttention": "MultiHeadAttention",
}
SAME = {
    *("Einsum", "Conv", "ConvTranspose", "Embed", "BatchNorm", "LayerNorm", "RMSNorm"),
    *("GroupNorm", "InstanceNorm", "LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"),
    *("PReLU", "WeightNorm", "SpectralNorm"),
}
NNX = SAME | set(TWINS.values())

# Layers that have no class in NNX (flax 0.12.12), and what to use.
WITHOUT_TWIN = {
    "ConvLSTMCell": "write the cell on nnx.Conv",
    "ConvLocal": "write it on jax.lax.conv_general_dilated_local",
    "MGUCell": "write the cell on nnx.Linear",
    "Fp8DotGeneralOp": "use qwix, or the bridge",
    "Fp8DirectDotGeneralOp": "use qwix, or the bridge",
    "Fp8Einsum": "use qwix, or the bridge",
    "NANOOFp8DotGeneralOp": "use qwix, or the bridge",
}

# Layers of several parts, mapped as a whole.
WHOLE = {"LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell", "MultiHeadAttention"}

# Of them, those whose parts are layers that others write by hand, in the order of their calls.
PARTS = {"MultiHeadAttention": ("query", "key", "value", "query_ln", "key_ln", "out")}
PART_KINDS = {"query_ln": "LayerNorm", "key_ln": "LayerNorm"}


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one NNX leaf of a layer is made of Linen leaves of the same layer.

    Attributes:
        name: of the rule.
        target: the NNX leaf, `params/dense_i/kernel`.
        sources: the Linen leaves, in order.
        op: `same` or `concat`; both have an inverse.
        axis: along which they are joined.
    """

    name: str
    target: str
    sources: tuple[str, ...]
    op: str = "same"
    axis: int = 0


def _gates(name: str, part: str, gates: tuple[str, ...], leaf: str) -> Rule:
    axis = 1 if leaf == "kernel" else 0
    sources = tuple(f"params/{gate}/{leaf}" for gate in gates)
    return Rule(name, f"params/{part}/{leaf}", sources, "concat", axis)


def _renamed(name: str, pairs: dict[str, str]) -> tuple[Rule, ...]:
    return tuple(
        Rule(name, f"params/{new}/{leaf}", (f"params/{old}/{leaf}",))
        for old, new in pairs.items()
        for leaf in ("kernel", "bias")
    )


_LSTM, _GRU = "lstm-fused-gates", "gru-fused-gates"

# NNX kind -> rules, tried from the first; where no source of a rule is there it is passed over.
RULES: dict[str, tuple[Rule, ...]] = {
    "OptimizedLSTMCell": (
        _gates(_LSTM, "dense_i", ("ii", "if", "ig", "io"), "kernel"),
        _gates(_LSTM, "dense_h", ("hi", "hf", "hg", "ho"), "kernel"),
        _gates(_LSTM, "dense_h", ("hi", "hf", "hg", "ho"), "bias"),
    ),
    "LSTMCell": _renamed("lstm-if-keyword", {"if": "if_"}),
    "GRUCell": (
        _gates(_GRU, "dense_i", ("ir", "iz", "in"), "kernel"),
        _gates(_GRU, "dense_i", ("ir", "iz", "in"), "bias"),
        _gates(_GRU, "dense_h", ("hr", "hz", "hn"), "kernel"),
    ),
    "SimpleCell": _renamed("simple-cell", {"i": "dense_i", "h": "dense_h"}),
}

# NNX kind -> Linen leaves without a home in NNX, and what it means.
LOSSY = {
    "GRUCell": {
        "params/hn/bias": "nnx.GRUCell has no bias on the recurrent candidate gate (hn/bias), so "
        "it computes the same only while that bias is zero; use a cell of your own with the bias"
    },
}


def of(cls: type) -> str:
    """Which of Flax's layers a class is, in the spelling of NNX; else the class's own name."""
    for base in cls.__mro__:
        if base.__module__.startswith("flax.linen"):
            name = TWINS.get(base.__name__, base.__name__)
            if name in NNX:
                return name
        elif base.__module__.startswith("flax.nnx") and base.__name__ in NNX:
            return base.__name__
    return plain(cls)


def plain(cls: type) -> str:
    """The class's name without the wrappers of Linen's transforms: `ScanCheckpointBlock`."""
    name = cls.__name__
    while True:
        found = re.match(r"(Scan|Vmap|Jit|Checkpoint|Remat_scan|MapVariables)(?=[A-Z])", name)
        if not found or cls.__module__.startswith(("flax.nnx", "flax.linen.recurrent")):
            return name
        name = name[found.end() :]


def natural(names: Iterable[str]) -> list[str]:
    """Sorted so that `layers_2` comes before `layers_10`."""

    def key(name: str) -> list[tuple[int, int, str]]:
        words = re.split(r"(\d+)", name)
        return [(0, int(w), "") if w.isdigit() else (1, 0, w) for w in words if w]

    return sorted(names, key=key)
