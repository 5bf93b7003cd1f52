"""Layers that Linen and NNX lay out differently, as tables that are read in both directions.

A table maps groups of Linen leaves to NNX leaves below the layer's path: one to one is a new name,
several to one are joined along their last axis, in this order. `extra` are Linen leaves that NNX
has no place for: they must be zero, and are made as zeros on the way back.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from maxmig.converters.leaves import Leaf


@dataclass(frozen=True)
class Relayout:
    """One kind of layer.

    Attributes:
        groups: {NNX leaf: Linen leaves}.
        extra: Linen leaves without a place in NNX.
    """

    groups: Mapping[str, tuple[str, ...]]
    extra: tuple[str, ...] = ()

    @property
    def linen(self) -> list[str]:
        """All Linen leaves that have a place."""
        return [name for names in self.groups.values() for name in names]


def _gates(prefix: str, gates: str, leaf: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{gate}/{leaf}" for gate in gates)


KINDS: dict[str, Relayout] = {
    "optimized-lstm": Relayout(
        {
            "dense_i/kernel": _gates("i", "ifgo", "kernel"),
            "dense_h/kernel": _gates("h", "ifgo", "kernel"),
            "dense_h/bias": _gates("h", "ifgo", "bias"),
        }
    ),
    "lstm": Relayout(
        {
            **{f"i{gate}/kernel": (f"i{gate}/kernel",) for gate in "igo"},
            "if_/kernel": ("if/kernel",),
            **{
                f"h{gate}/{leaf}": (f"h{gate}/{leaf}",)
                for gate in "ifgo"
                for leaf in ("kernel", "bias")
            },
        }
    ),
    "gru": Relayout(
        {
            "dense_i/kernel": _gates("i", "rzn", "kernel"),
            "dense_i/bias": _gates("i", "rzn", "bias"),
            "dense_h/kernel": _gates("h", "rzn", "kernel"),
        },
        ("hn/bias",),
    ),
    "simple-cell": Relayout(
        {
            "dense_i/kernel": ("i/kernel",),
            "dense_i/bias": ("i/bias",),
            "dense_h/kernel": ("h/kernel",),
        }
    ),
}

CLASSES = {
    "OptimizedLSTMCell": "optimized-lstm",
    "LSTMCell": "lstm",
    "GRUCell": "gru",
    "SimpleCell": "simple-cell",
}


def in_linen(owners: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """The layers in a Linen tree that NNX lays out differently: {path: kind}, and those that might
    be of two kinds (LSTMCell and OptimizedLSTMCell store the same; only a name tells them apart).
    """
    found: dict[str, str] = {}
    unclear: list[str] = []
    for owner in owners:
        for mark, kinds in (("if/kernel", ("optimized-lstm", "lstm")), ("hn/kernel", ("gru",))):
            at = owner.removesuffix(f"/{mark}")
            if at == owner or not _all(KINDS[kinds[0]].linen, at, owners):
                continue
            named = _class(at)
            if len(kinds) == 1:
                found[at] = kinds[0]
            elif named in kinds:
                found[at] = named
            else:
                unclear.append(at)
    for owner in owners:
        at = owner.removesuffix("/h/kernel")
        if (
            at != owner
            and _class(at) == "simple-cell"
            and _all(KINDS["simple-cell"].linen, at, owners)
        ):
            found[at] = "simple-cell"
    return found, unclear


def in_nnx(leaves: Mapping[str, Leaf]) -> dict[str, str]:
    """The same in an NNX tree: {path: kind}; there the shapes tell."""
    found: dict[str, str] = {}
    for owner in leaves:
        at = owner.removesuffix("/if_/kernel")
        if at != owner and _all(KINDS["lstm"].groups, at, leaves):
            found[at] = "lstm"
        at = owner.removesuffix("/dense_h/kernel")
        if at == owner or f"{at}/dense_i/kernel" not in leaves:
            continue
        shape = leaves[owner].shape
        if len(shape) == 3:
            for name in ("optimized-lstm", "gru", "simple-cell"):
                own = set(KINDS[name].groups) == {
                    f"dense_{x}"
                    for x in ("i/kernel", "h/kernel", "i/bias", "h/bias")
                    if f"{at}/dense_{x}" in leaves
                }
                if own and stack_axes(name, "nnx", at, leaves):
                    found[at] = name
            continue
        gates = shape[-1] // shape[-2] if len(shape) > 1 and shape[-2] else 0
        bias_i, bias_h = (f"{at}/dense_{x}/bias" in leaves for x in "ih")
        if gates == 4 and bias_h and not bias_i:
            found[at] = "optimized-lstm"
        elif gates == 3 and bias_i and not bias_h:
            found[at] = "gru"
        elif gates == 1 and bias_i and not bias_h:
            found[at] = "simple-cell"
    return found


def stack_axes(kind: str, side: str, at: str, leaves: Mapping[str, Leaf]) -> list[int]:
    """The axes on which the layers of a stack of such layers can be, as the shapes tell.

    Without that axis all must have the shapes of one layer; a leaf with fewer axes has its layers
    on its last one. More than one axis: it cannot be told; none: it is no stack.
    """
    groups = KINDS[kind].groups
    if side == "nnx":
        parts = {name: len(of) for name, of in groups.items()}
    else:
        parts = dict.fromkeys(KINDS[kind].linen, 1)
    shapes = {name: leaves[f"{at}/{name}"].shape for name in parts if f"{at}/{name}" in leaves}
    if len(shapes) < len(parts) or any(
        len(shape) != (3 if name.endswith("kernel") else 2) for name, shape in shapes.items()
    ):
        return []
    found = []
    for axis in range(3):
        bare = {name: _without(shape, axis) for name, shape in shapes.items()}
        layers = {shape[min(axis, len(shape) - 1)] for shape in shapes.values()}
        sizes = {shape[-1] / parts[name] for name, shape in bare.items()}
        hidden = {
            shape[0]
            for name, shape in bare.items()
            if name.removeprefix("dense_").startswith("h") and name.endswith("kernel")
        }
        if len(layers) == 1 and len(sizes | hidden) == 1:
            found.append(axis)
    return found


def feature_axis(rank: int, layers: int | None) -> int:
    """Where the features are: on the last axis that is not that of the layers."""
    return rank - 2 if layers is not None and layers >= rank - 1 else rank - 1


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    at = min(axis, len(shape) - 1)
    return shape[:at] + shape[at + 1 :]


def _all(names: Collection[str], at: str, owners: Collection[str]) -> bool:
    return all(f"{at}/{name}" in owners for name in names)


def _class(at: str) -> str | None:
    name = at.rpartition("/")[2].rpartition("_")[0]
    return CLASSES.get(name)
