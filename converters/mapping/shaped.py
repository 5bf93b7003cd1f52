"""Stacks of layers that no name tells: subtrees in which everything has one axis more.

`scale` of a norm, and `bias` beside a kernel, have one axis in a single layer, and kernels two.
Where all have one more, and one axis is equally long in all that is in a subtree, that is the
layers' axis. A norm over two axes, alone or beside kernels of one layer, is no stack, and the scale
of a quantised kernel is no norm's. One attention layer with a norm over heads has the shapes of a
stack if it has as many heads as features in each: it is none, unless its axis is said, and that of
no other stack.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from maxmig import errors, trees
from maxmig.converters import axes, evidence, stacks
from maxmig.converters.leaves import Leaf

PLURAL = re.compile(r".*[^s]s")  # a list's or a stack's name: `blocks`
_LIKELY = re.compile(r"h|.*([^s]s|block|layer|stack|stage)|Scan\w+")


def find(
    leaves: Mapping[str, Leaf],
    outside: Collection[str],
    known: int | None,
    apart: Collection[str] = (),
    heads: dict[str, int] | None = None,
) -> dict[str, int]:
    """The outermost stacks: {path of a subtree: layer axis}.

    Args:
        leaves: parameters by model path.
        outside: subtrees that are stacks by their names, and what else is in none.
        known: the layer axis, where it is known.
        apart: stacks of known names whose layers are apart: these hold none.
        heads: is added to: what is as soon one module, such as attention, as a stack on an axis,
            or beside a stack has no name of one.

    Raises:
        ConvertError: a subtree is a stack, but on more than one axis.
    """
    gone = frozenset(outside)
    inside: dict[str, dict[str, Leaf]] = {}
    for path, leaf in leaves.items():
        above = [path[:place] for place, letter in enumerate(path) if letter == "/"]
        if path in gone or not gone.isdisjoint(above):
            continue
        whole, _ = (stacks.unscanned(path) if apart else None) or ("", 0)
        depth = next((at.count("/") for at in apart if whole.startswith(f"{at}/")), len(above))
        for at in above[:depth]:
            inside.setdefault(at, {})[path[len(at) + 1 :]] = leaf
    found: dict[str, int] = {}
    for at in trees.sort(inside):
        if any(f"{at}/".startswith(f"{outer}/") for outer in found):
            continue
        fits = _axes(inside[at])
        first = [axis for axis in fits if axis >= 0]
        if first == [1] and (gone or known != 1) and _headed(inside[at]):
            if heads is not None and not any(at.startswith(f"{outer}/") for outer in heads):
                heads[at] = 1
        elif fits:
            axis = _one(at, fits, known)
            _refuse_part(at, axis, inside)
            found[_among(at, inside)] = axis
    # Beside a stack that a name tells, what has the shapes of one by chance needs a name too.
    named = {at: axis for at, axis in found.items() if _LIKELY.fullmatch(_name(at))}
    if not gone and not named:
        return found
    if heads is not None:
        heads |= {at: axis for at, axis in found.items() if at not in named}
    return named


def _among(at: str, inside: Mapping[str, Mapping[str, Leaf]]) -> str:
    """Which of some modules is the stack, of which each but the last holds the next and no more.

    Raises:
        ConvertError: not just one of them has a plural name.
    """
    modules = [at]
    while len(below := {path.partition("/")[0] for path in inside[modules[-1]]}) == 1:
        if f"{modules[-1]}/{(name := next(iter(below)))}" not in inside:
            break
        modules.append(f"{modules[-1]}/{name}")
    named = [module for module in modules if PLURAL.fullmatch(_name(module))]
    if len(modules) == 1 or len(named) == 1:
        return named[0] if len(modules) > 1 else at
    raise errors.ConvertError(
        f"{at}: looks like a stack of layers, but {' or '.join(modules)} may be the one; say it in "
        f"a mapping file (start from `ckpt map`), `- {{unstack: {modules[-1]}, to: "
        f"'{modules[-1]}_{{}}', axis: 0}}`"
    )


def _refuse_part(at: str, axis: int, inside: Mapping[str, Mapping[str, Leaf]]) -> None:
    """A stack may have numbers too, one for each layer, which alone do not look like a stack.

    Raises:
        ConvertError: all that is in a module around it has as many layers.
    """
    for place, letter in enumerate(at):
        around = inside.get(at[:place], {}) if letter == "/" else {}
        if around and len({evidence.length(leaf, axis) for leaf in around.values()}) == 1:
            raise errors.ConvertError(
                f"{at}: looks like a stack of layers, but {at[:place]} may be the one, as all in "
                "it has as many; say it in a mapping file (start from `ckpt map`), `- {unstack: "
                f"{at[:place]}, to: '{at[:place]}_{{}}', axis: {axis}}}`"
            )


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


def _axes(held: Mapping[str, Leaf]) -> dict[int, int]:
    """The axes on which the layers can be: {axis: layers}; none: it does not look like a stack."""
    if min(len(leaf.shape) for leaf in held.values()) < 2:
        return {}
    if any(_is_weight(path) and len(leaf.shape) < 3 for path, leaf in held.items()):
        return {}  # a kernel of one layer
    fits = evidence.axes(held).left
    # Many an array has an axis of length 1: it counts beside a longer one.
    if max(fits, default=-1) < 0 or max(fits.values()) < 2:
        return {}
    if _normed(held):
        return fits
    modules = {path.rpartition("/")[0] for path in held}
    return fits if len(modules) > 1 and any(_biased(held, axis) for axis in fits) else {}


def _is_weight(path: str) -> bool:
    """Whether a leaf is a kernel, or the numbers of a quantised one."""
    module, _, name = path.rpartition("/")
    return name == "kernel" or (name == "qvalue" and _name(module) == "kernel")


def _normed(held: Mapping[str, Leaf]) -> bool:
    """Whether there is a norm whose scale has the layers' axis, beside a module with weights."""
    modules: dict[str, dict[str, Leaf]] = {}
    for path, leaf in held.items():
        module, _, name = path.rpartition("/")
        modules.setdefault(module, {})[name] = leaf
    norms = {
        module
        for module, own in modules.items()
        if "scale" in own
        and own.keys() <= {"scale", "bias"}
        and all(len(leaf.shape) == 2 for leaf in own.values())
    }
    rest = (leaf for m, own in modules.items() if m not in norms for leaf in own.values())
    return bool(norms) and any(len(leaf.shape) > 2 for leaf in rest)


def _headed(held: Mapping[str, Leaf]) -> bool:
    """Whether all kernels have the two axes of a norm: heads, and the features in each."""
    norms = {leaf.shape for path, leaf in held.items() if _name(path) == "scale"}
    return len(norms) == 1 and all(
        norms & {leaf.shape, leaf.shape[:2], leaf.shape[1:]} for leaf in held.values()
    )


def _biased(held: Mapping[str, Leaf], axis: int) -> bool:
    """Whether a bias has the features of its kernel, and the layers."""
    return any(
        len(bias.shape) == 2
        and len(kernel.shape) > 2
        and evidence.fits(evidence.without(bias, axis), evidence.without(kernel, axis))
        for _, bias, kernel in evidence.biases(held)
    )


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _one(at: str, fits: Mapping[int, int], known: int | None) -> int:
    if known is not None and known in fits:
        return known
    axis = next(iter(fits))
    if len(fits) == 1 and axis >= 0:
        return axis
    told, advice = "the shapes do not tell on which axis they are", axes.ADVICE
    if known is not None:
        told = f"they cannot be on axis {known}, nor do the shapes tell which it is"
        advice = (
            f"say it in a mapping file (start from `ckpt map`), by `unstack: {at}` and its axis"
        )
    raise errors.ConvertError(
        f"{at}: looks like a stack of layers, but {told}: {axes.spelt(fits)}; {advice}"
    )
