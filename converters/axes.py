"""On which axis the layers of stacks are: as known, or as the shapes tell; it is never guessed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from maxmig import errors
from maxmig.converters import evidence, stacks
from maxmig.converters.leaves import Leaf

DEFAULT_AXIS = 1  # MaxText's param_scan_axis, which its checkpoints do not record
ADVICE = "name it with --from-scan-axis"


class Unclear(errors.ConvertError):
    """Layers may be on several axes, or be no stack's at all, and nothing tells it."""


def layer_axis(leaves: Mapping[str, Leaf], known: int | None = None) -> int | None:
    """The layer axis of a scanned state: as known, else as the shapes tell; None if unscanned.

    Raises:
        ConvertError: the shapes contradict what is known, or tell nothing; `Unclear` if they leave
            more than one axis.
    """
    found = roots(leaves)
    return told_axis(leaves, found, known, []) if found else None


def nested(leaves: Mapping[str, Leaf]) -> bool:
    """Whether there are stacks in the layers of stacks."""
    for path in leaves:
        place = stacks.scanned(path)
        if place is not None and stacks.scanned("/".join(path.split("/")[place + 1 :])) is not None:
            return True
    return False


def roots(leaves: Iterable[str]) -> list[str]:
    """The outermost stacks of parameters with known names, by model path: `decoder/layers`."""
    found: dict[str, None] = {}
    for path in leaves:
        section, _, model = path.partition("/")
        place = stacks.scanned(model) if section == "params" else None
        if place is not None:
            found["/".join(model.split("/")[: place + 1])] = None
    return list(found)


def maxtext(leaves: Mapping[str, Leaf], layers: Iterable[str] | None = None) -> bool:
    """Whether the parameters have the names of MaxText's decoder, whatever layout holds them.

    Args:
        leaves: leaves by canonical path.
        layers: the stacks by model path, where their layers are apart; None: those that there are.
    """
    return (
        "params/token_embedder/embedding" in leaves
        and any(path.startswith("params/decoder/decoder_norm/") for path in leaves)
        and any(at.startswith("decoder/") for at in (roots(leaves) if layers is None else layers))
    )


def evident_axes(
    leaves: Mapping[str, Leaf], stacked: Sequence[str], axes: Iterable[int]
) -> dict[int, dict[str, int]]:
    """The axes on which the parameters of each stack agree: {axis: {stack: layers}}.

    A leaf with fewer axes has its layers on its last one.

    Args:
        leaves: leaves by canonical path.
        stacked: the stacks, by model path.
        axes: those that are tried.
    """
    held = evidence.inside(leaves, stacked)
    found: dict[int, dict[str, int]] = {}
    for axis in dict.fromkeys(axes):
        lengths: dict[str, set[int]] = defaultdict(set)
        for at in stacked:
            for leaf in held[at].get("params", {}).values():
                lengths[at].add(evidence.length(leaf, axis))
        if lengths and all(len(each) == 1 and -1 not in each for each in lengths.values()):
            found[axis] = {at: next(iter(each)) for at, each in lengths.items()}
    return found


def told_axis(
    leaves: Mapping[str, Leaf],
    stacked: Sequence[str],
    known: int | None,
    notes: list[str],
    *,
    usual: int | None = None,
    advice: str = ADVICE,
) -> int:
    """The layer axis of stacks; takes what told it to `notes`.

    Each stack has to tell it by itself: stacks of one model may be on several axes.

    Args:
        leaves: all leaves by canonical path, of every collection.
        stacked: the stacks, by model path.
        known: the axis, where it is known.
        notes: are added to.
        usual: the axis where several remain; None: MaxText's, for a tree that has its names.
        advice: what to do where nothing tells it.

    Raises:
        ConvertError: the shapes contradict what is known, or tell nothing; `Unclear` if they leave
            more than one axis.
    """
    if known is not None and known >= 0 and known in evident_axes(leaves, stacked, (known,)):
        return known
    held = evidence.inside(leaves, stacked)
    own = {at: evidence.axes(held[at]["params"]) for at in stacked}
    if known is not None:
        ranks = (len(leaf.shape) for each in held.values() for leaf in each["params"].values())
        agreed = evident_axes(leaves, stacked, range(max(ranks, default=0)))
        raise errors.ConvertError(
            f"the layers cannot be on axis {known}: the stacked parameters have different lengths "
            f"there (axes on which they agree: {sorted(agreed) or 'none'})"
        )
    for at, each in own.items():
        if not each.agreed:
            path = next(p for p in leaves if p.startswith(f"params/{at}/"))
            raise errors.ConvertError(
                f"{at}: the layer axis is neither in the metadata nor evident: no axis has one "
                f"length in all parameters of the stack, such as {path} {leaves[path]}"
            )
    _refuse_single(held, advice)
    unclear = {at: each for at, each in own.items() if len(each.left) > 1}
    if not unclear:
        return _only(held, own, notes)
    if usual is None and maxtext(leaves):
        usual = DEFAULT_AXIS
    if usual is not None and all(usual in each.left for each in own.values()):
        others = ", ".join(map(str, _others(own, usual)))
        told = f"layer axis {usual}: MaxText's default; the shapes do not tell it from axis"
        notes.append(f"{told} {others} ({ADVICE})")
        return usual
    told = "; ".join(f"{at}: {spelt(each.left)}" for at, each in unclear.items())
    if any(axis < 0 for each in unclear.values() for axis in each.left):
        advice += "; one counted from the end needs a mapping file (`ckpt map`, `transpose:` rules)"
    raise Unclear(
        f"neither metadata nor shapes tell on which axis the layers are: {told}; {advice}"
    )


def _only(held: evidence.Stacks, own: Mapping[str, evidence.Axes], notes: list[str]) -> int:
    """The only axis that is left of each stack.

    Raises:
        ConvertError: it is not the same of all, or not that of a rule.
    """
    each = {at: next(iter(found.left)) for at, found in own.items()}
    axis = max(each.values())
    if min(each.values()) < 0:
        raise errors.ConvertError(
            f"{', '.join(own)}: the shapes leave only axis {min(each.values())} for the layers, "
            "counted from the end, which is not one axis of all arrays; bring it to axis 0 in a "
            "mapping file (start from `ckpt map`), by a `transpose:` rule for each array"
        )
    for at, one in each.items():  # axis 2 may be the last of all in one, and axis 3 in another
        if any(
            evidence.place(leaf, one) != evidence.place(leaf, axis)
            for leaf in held[at]["params"].values()
        ):
            told = ", ".join(f"{at} on axis {one}" for at, one in each.items())
            raise errors.ConvertError(
                f"the stacks have their layers on several axes: {told}; say each in a mapping file "
                f"(start from `ckpt map`), `- {{unstack: {at}, to: '{at}_{{}}', axis: {one}}}`"
            )
    why = [
        f"on axis {other}, {at}/{told}"
        for at, found in own.items()
        for other, told in found.against.items()
    ]
    notes.append(
        f"layer axis {axis}: "
        + ("; ".join(why) or "the only one on which all stacked parameters agree")
    )
    return axis


def _refuse_single(stacked: evidence.Stacks, advice: str) -> None:
    """A module may have a stack's name and be none, or hold one beside a norm of its own.

    Raises:
        Unclear: a kernel has the axes of one layer, or an array may be of all layers: it is as long
            as there are layers, and as wide as they are.
    """
    for at, held in stacked.items():
        params = held["params"]
        for path, leaf in params.items():
            if path.rpartition("/")[2] == "kernel" and len(leaf.shape) < 3:
                told = f"no stack, as far as one can tell: {path} {leaf} has the axes of one layer"
            elif len(leaf.shape) == 1 and any(
                other.shape.count(leaf.shape[0]) > 1 for other in params.values()
            ):
                told = (
                    f"{path} {leaf} may be a number for each of {leaf.shape[0]} layers, or an "
                    "array of which there is one"
                )
            else:
                continue
            raise Unclear(f"{at}: {told}; if it is a stack, {advice}")


def besides_usual(leaves: Mapping[str, Leaf]) -> list[int]:
    """The axes besides MaxText's default that its layers might be on; none where it is told."""
    held = evidence.inside(leaves, roots(leaves) if maxtext(leaves) else ())
    own = {at: evidence.axes(each["params"]) for at, each in held.items()}
    return _others(own, DEFAULT_AXIS) if all(DEFAULT_AXIS in e.left for e in own.values()) else []


def _others(own: Mapping[str, evidence.Axes], usual: int) -> list[int]:
    others = {axis for each in own.values() for axis in each.left} - {usual}
    return sorted(others, key=_order)


def spelt(left: Mapping[int, int]) -> str:
    """Axes with the number of layers on each."""
    return " or ".join(f"axis {axis} ({left[axis]} layers)" for axis in sorted(left, key=_order))


def _order(axis: int) -> tuple[bool, int]:
    return axis < 0, abs(axis)
