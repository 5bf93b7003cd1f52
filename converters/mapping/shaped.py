"""Stacks of layers that no name tells: subtrees in which everything has one axis more.

`scale` of a norm, and `bias` beside a kernel, have one axis in a single layer. Where they have two,
and one axis is equally long in all that is in a subtree, that is the layers' axis.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from maxmig import errors, trees
from maxmig.converters import stacks
from maxmig.converters.leaves import Leaf


def find(leaves: Mapping[str, Leaf], outside: Collection[str], known: int | None) -> dict[str, int]:
    """The outermost stacks: {path of a subtree: layer axis}.

    Args:
        leaves: parameters by model path.
        outside: subtrees that are stacks by their names.
        known: the layer axis, where it is known.

    Raises:
        ConvertError: a subtree is a stack, but on more than one axis.
    """
    inside: dict[str, dict[str, Leaf]] = {}
    for path, leaf in leaves.items():
        if not any(path.startswith(f"{at}/") for at in outside):
            for place, letter in enumerate(path):
                if letter == "/":
                    inside.setdefault(path[:place], {})[path[place + 1 :]] = leaf
    found: dict[str, int] = {}
    for at in trees.sort(inside):
        if any(at.startswith(f"{outer}/") for outer in found):
            continue
        if axes := _axes(inside[at]):
            found[at] = _one(at, axes, known)
    return found


def sequentials(leaves: Mapping[str, Leaf], listed: Iterable[str]) -> list[str]:
    """Those of the known names whose members are no stack's, but a Sequential's (`layers_0`).

    They are single layers, with gaps in their numbers where a function is, or of several shapes. Of
    layers that hold others one that is missing is a fault, which is found when they are stacked.

    Args:
        leaves: parameters by canonical path.
        listed: `decoder/layers`, whose members are `decoder/layers_0`, ...
    """
    found = []
    for at in listed:
        members: dict[int, dict[str, Leaf]] = defaultdict(dict)
        for path, leaf in leaves.items():
            whole, index = stacks.unscanned(path.partition("/")[2]) or ("", 0)
            if whole.startswith(f"{at}/"):
                members[index][whole[len(at) + 1 :]] = leaf
        single = all("/" not in rest for held in members.values() for rest in held)
        gaps = sorted(members) != list(range(len(members)))
        if single and (gaps or any(held != members[0] for held in members.values())):
            found.append(at)
    return found


def _axes(held: Mapping[str, Leaf]) -> list[int]:
    """The axes on which the layers can be; none: it is no stack, or does not look like one."""
    ranks = [len(leaf.shape) for leaf in held.values()]
    if min(ranks) < 2:
        return []
    fits = [axis for axis in range(max(ranks)) if _agree(held, axis)]
    fits = [axis for axis in fits if axis < 2] or fits
    modules = {path.rpartition("/")[0] for path in held}
    norm = any(_name(path) == "scale" and len(leaf.shape) == 2 for path, leaf in held.items())
    if norm:
        return fits
    return [axis for axis in fits if len(modules) > 1 and _biased(held, axis)]


def _agree(held: Mapping[str, Leaf], axis: int) -> bool:
    lengths = {leaf.shape[min(axis, len(leaf.shape) - 1)] for leaf in held.values()}
    return len(lengths) == 1 and min(lengths) > 1


def _biased(held: Mapping[str, Leaf], axis: int) -> bool:
    """Whether a bias has the features of its kernel, and the layers."""
    for path, leaf in held.items():
        kernel = held.get(f"{path.removesuffix('bias')}kernel") if _name(path) == "bias" else None
        if kernel is None or len(leaf.shape) != 2 or len(kernel.shape) < 3:
            continue
        features = leaf.shape[0] if axis else leaf.shape[1]
        rest = kernel.shape[:axis] + kernel.shape[axis + 1 :]
        if rest[-1] == features:
            return True
    return False


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _one(at: str, axes: list[int], known: int | None) -> int:
    if known in axes:
        return axes[axes.index(known)]
    if len(axes) == 1:
        return axes[0]
    raise errors.ConvertError(
        f"{at}: looks like a stack of layers, but the shapes do not tell on which axis they are "
        f"(axes on which all agree: {axes}); name it with --from-scan-axis"
    )
