"""On which axes the layers of a stack can be, as the shapes of its parameters tell.

What rules an axis out is no coincidence of lengths, but a layer that Flax cannot have: leaves that
lack the axis or have another length on it, and biases without the features of their kernels. What
else is in the stack or beside it (counters, keys, statistics, modules with the same leaves) rules
nothing out: layers may share it, or it may be of other sizes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from maxmig.converters.leaves import Leaf

Shape = tuple[int, ...]
Stacks = Mapping[str, Mapping[str, Mapping[str, Leaf]]]  # {stack: {section: {path in it: leaf}}}

_OF_ANY_FORM = re.compile(r"(.*/)?Einsum_\d+")  # its bias may be of any axes of its kernel


@dataclass(frozen=True)
class Axes:
    """The axes on which the layers of one stack can be; negative ones count from the end.

    Attributes:
        agreed: those on which all leaves have one length: {axis: layers}.
        against: {axis: what rules it out}.
    """

    agreed: Mapping[int, int]
    against: Mapping[int, str]

    @property
    def left(self) -> dict[int, int]:
        """Those that nothing rules out: {axis: layers}."""
        return {axis: layers for axis, layers in self.agreed.items() if axis not in self.against}


def place(leaf: Leaf, axis: int) -> int:
    """Where an axis is in a leaf, on its last one if it has fewer; -1: nowhere."""
    rank = len(leaf.shape)
    return min(axis, rank - 1) if axis >= 0 else max(axis + rank, -1)


def length(leaf: Leaf, axis: int) -> int:
    """How long a leaf is on an axis, or on its last one if it has fewer; -1 if it is nowhere."""
    at = place(leaf, axis)
    return leaf.shape[at] if at >= 0 else -1


def without(leaf: Leaf, *axes: int) -> Shape:
    """The shape in one layer, of a stack in a stack if there are two axes."""
    gone = {place(leaf, axis) for axis in axes}
    return tuple(size for at, size in enumerate(leaf.shape) if at not in gone)


def inside(
    leaves: Mapping[str, Leaf], stacked: Iterable[str]
) -> dict[str, dict[str, dict[str, Leaf]]]:
    """What is in each stack: {stack: {section: {path below it: leaf}}}."""
    found: dict[str, dict[str, dict[str, Leaf]]] = {at: {} for at in stacked}
    for path, leaf in leaves.items():
        section, _, model = path.partition("/")
        end = model.find("/")
        while end >= 0:
            if model[:end] in found:
                found[model[:end]].setdefault(section, {})[model[end + 1 :]] = leaf
            end = model.find("/", end + 1)
    return found


def axes(params: Mapping[str, Leaf]) -> Axes:
    """The axes on which the layers of a stack can be: of any place, from the front or the end.

    Each is there once, under its first name. A test tells nothing where no axis passes it, and so
    is a fact of the model.

    Args:
        params: the parameters of the stack, by their paths in it.
    """
    ranks = [len(leaf.shape) for leaf in params.values()]
    agreed: dict[int, int] = {}
    seen: set[Shape] = set()
    # the last axis of all, -1, is that of the leaf with most of them: others have fewer
    for axis in (*range(max(ranks, default=0)), *range(-2, -min(ranks, default=0) - 1, -1)):
        places = tuple(place(leaf, axis) for leaf in params.values())
        lengths = {length(leaf, axis) for leaf in params.values()}
        if places not in seen and len(lengths) == 1 and -1 not in lengths:
            agreed[axis] = lengths.pop()
        seen.add(places)
    against = {axis: misfit(params, axis, agreed) for axis in agreed}
    if all(against.values()):
        against = {}
    return Axes(agreed, {axis: why for axis, why in against.items() if why})


def misfit(params: Mapping[str, Leaf], axis: int, agreed: Iterable[int] = ()) -> str:
    """Which bias would not have the features of its kernel in a layer; empty if all have.

    A layer may be a stack again, on another axis on which all agree: then it is the layers of that
    one in which a bias has to fit.
    """
    inner = [(axis, other) for other in agreed if other != axis]
    for path, bias, kernel in biases(params):
        if fits(without(bias, axis), without(kernel, axis)):
            continue
        deeper = ((without(bias, *both), without(kernel, *both)) for both in inner)
        if not any(len(b) > 0 and len(k) > 1 and fits(b, k) for b, k in deeper):
            return f"{path} {bias} would not fit its kernel {kernel}"
    return ""


def biases(params: Mapping[str, Leaf]) -> Iterable[tuple[str, Leaf, Leaf]]:
    """The biases beside kernels: (path, bias, kernel)."""
    for path, bias in params.items():
        module, _, name = path.rpartition("/")
        kernel = params.get(f"{module}/kernel" if module else "kernel") if name == "bias" else None
        if (
            kernel is not None
            and len(kernel.shape) >= len(bias.shape)
            and not _OF_ANY_FORM.fullmatch(module)
        ):
            yield path, bias, kernel


def fits(bias: Shape, kernel: Shape) -> bool:
    """Whether a module of Flax can have a bias beside a kernel.

    The features are last (Dense, DenseGeneral, Conv, ConvTranspose), or before the last of three
    axes or more (ConvTranspose with `transpose_kernel`); a bias may have the kernel's first axes
    too (DenseGeneral with `batch_dims`, ConvLocal).
    """
    if len(bias) == 1 and len(kernel) > 2 and bias[0] == kernel[-2]:
        return True
    rank = len(bias)
    return any(kernel[:i] + kernel[len(kernel) - rank + i :] == bias for i in range(max(rank, 1)))
