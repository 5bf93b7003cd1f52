"""What rules out a layer axis on which the parameters' shapes agree.

Three things tell: random state and statistics in the same stack, which ride on axis 0 or on that
of the parameters; biases, which have the features of their kernels; and a module outside of the
stack that has the same leaves as one layer.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from maxmig.converters.leaves import KEY_WORDS, Leaf

Held = Mapping[str, Mapping[str, Leaf]]  # {section: {path below the stack: leaf}}
_OTHERS = ("params", "opt_state")  # the optimizer's state has its parameters' shapes


class Place(NamedTuple):
    """One stack, as if its layers were on an axis."""

    at: str
    held: Held
    axis: int
    layers: int


def length(leaf: Leaf, axis: int) -> int:
    """How long a leaf is on an axis, or on its last one if it has fewer; -1 of a scalar."""
    return leaf.shape[min(axis, len(leaf.shape) - 1)] if leaf.shape else -1


def without(leaf: Leaf, axis: int) -> tuple[int, ...]:
    """The shape in one layer."""
    at = min(axis, len(leaf.shape) - 1)
    return leaf.shape[:at] + leaf.shape[at + 1 :]


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


def against(leaves: Mapping[str, Leaf], evident: Mapping[int, Mapping[str, int]]) -> dict[int, str]:
    """{axis: why the layers are not on it}.

    A test tells nothing where no axis passes it, and so is a fact of the model.

    Args:
        leaves: leaves by canonical path.
        evident: {axis: {stack: layers}}.
    """
    if len(evident) < 2:
        return {}
    stacked = list(next(iter(evident.values())))
    held = inside(leaves, stacked)
    found: dict[int, str] = {}
    for at in stacked:
        beside = _alike(leaves, at, held[at])
        places = [Place(at, held[at], axis, layers[at]) for axis, layers in evident.items()]
        for tested in (
            {place.axis: _miscounted(place) for place in places},
            {place.axis: _misfit_bias(place) for place in places},
            {place.axis: _unlike(place, beside) for place in places},
        ):
            if not all(tested.values()):
                found |= {axis: why for axis, why in tested.items() if why and axis not in found}
    return found


def _miscounted(place: Place) -> str:
    """A leaf of another collection that does not have so many layers."""
    beside: dict[str, list[int]] = defaultdict(list)
    for path, leaf in place.held["params"].items():
        beside[path.rpartition("/")[0]].append(len(leaf.shape))
    for section, others in place.held.items():
        if section in _OTHERS:
            continue
        for path, leaf in others.items():
            if _counts(leaf, beside[path.rpartition("/")[0]]) and place.layers not in (
                length(leaf, 0),
                length(leaf, place.axis),
            ):
                return (
                    f"{section}/{place.at}/{path} {leaf} has not {place.layers} layers, as on axis "
                    f"{place.axis}"
                )
    return ""


def _counts(leaf: Leaf, beside: list[int]) -> bool:
    """Whether a leaf is one for each layer: layers may also share what is not a parameter.

    Counters and keys are single numbers in a layer; statistics have no fewer axes than the
    parameters that they are of.
    """
    words = leaf.dtype == "uint32" and leaf.shape and leaf.shape[-1] in KEY_WORDS.values()
    if leaf.is_key or (words and len(leaf.shape) == 2):
        return bool(leaf.shape)
    if len(leaf.shape) == 1:
        return "int" in leaf.dtype and not words  # raw words of a key may be shared
    return bool(beside) and len(leaf.shape) >= min(beside)


def _misfit_bias(place: Place) -> str:
    """A bias that has not the features of its kernel."""
    params = place.held["params"]
    for path, bias in params.items():
        module, _, name = path.rpartition("/")
        kernel = params.get(f"{module}/kernel" if module else "kernel") if name == "bias" else None
        if kernel is None or len(kernel.shape) < len(bias.shape):
            continue
        own, whole = without(bias, place.axis), without(kernel, place.axis)
        if whole[len(whole) - len(own) :] != own:
            return (
                f"on axis {place.axis}, {place.at}/{path} {bias} would not fit its kernel {kernel}"
            )
    return ""


def _alike(leaves: Mapping[str, Leaf], at: str, held: Held) -> dict[str, dict[str, Leaf]]:
    """Modules beside a stack that have the same leaves as one layer: {name: leaves}."""
    names = held["params"].keys()
    if len({name.rpartition("/")[0] for name in names}) < 2:
        return {}  # one small module is soon like another
    begin = f"params/{at}".rpartition("/")[0] + "/"
    found: dict[str, dict[str, Leaf]] = defaultdict(dict)
    for path, leaf in leaves.items():
        if path.startswith(begin):
            name, _, rest = path[len(begin) :].partition("/")
            found[begin[7:] + name][rest] = leaf
    return {name: each for name, each in found.items() if name != at and each.keys() == names}


def _unlike(place: Place, beside: Mapping[str, Mapping[str, Leaf]]) -> str:
    """A module outside of the stack that one layer would not be like."""
    for name, module in beside.items():
        for path, leaf in place.held["params"].items():
            if without(leaf, place.axis) != module[path].shape:
                return (
                    f"on axis {place.axis}, a layer of {place.at} would not have the shapes of "
                    f"{name}"
                )
    return ""
