"""On which axis the layers of stacks are: as known, or as the shapes tell; it is never guessed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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


def maxtext(leaves: Mapping[str, Leaf]) -> bool:
    """Whether the parameters have the names of MaxText's decoder, whatever layout holds them."""
    return (
        "params/token_embedder/embedding" in leaves
        and any(path.startswith("params/decoder/decoder_norm/") for path in leaves)
        and any(at.startswith("decoder/") for at in roots(leaves))
    )


def evident_axes(
    leaves: Mapping[str, Leaf], stacked: Sequence[str], axes: Iterable[int] = (0, 1)
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
    around: int | None = None,
    usual: int | None = None,
    advice: str = ADVICE,
) -> int:
    """The layer axis of stacks; takes what told it to `notes`.

    Args:
        leaves: all leaves by canonical path, of every collection.
        stacked: the stacks, by model path.
        known: the axis, where it is known.
        notes: are added to.
        around: the axis of the stack around these, which is tried too.
        usual: the axis where several remain; None: MaxText's, for a tree that has its names.
        advice: what to do where nothing tells it.

    Raises:
        ConvertError: the shapes contradict what is known, or tell nothing; `Unclear` if they leave
            more than one axis.
    """
    if known is not None and known in evident_axes(leaves, stacked, (known,)):
        return known
    found = _possible(leaves, stacked, around)
    if known is not None:
        raise errors.ConvertError(
            f"the layers cannot be on axis {known}: the stacked parameters have different lengths "
            f"there (axes on which they agree: {sorted(found.evident) or 'none'})"
        )
    if not found.evident:
        path = next(p for p in leaves if any(p.startswith(f"params/{at}/") for at in stacked))
        raise errors.ConvertError(
            "the layer axis is neither in the metadata nor evident: no axis has one length in all "
            f"stacked parameters, such as {path} {leaves[path]}"
        )
    _refuse_single(leaves, stacked, advice)
    if len(found.left) == 1:
        notes.append(_told(leaves, found))
        return found.left[0]
    if usual is None and maxtext(leaves):
        usual = DEFAULT_AXIS
    if usual is not None and usual in found.left:
        others = ", ".join(str(axis) for axis in found.left if axis != usual)
        notes.append(
            f"layer axis {usual}: MaxText's default; the shapes do not tell it from axis {others} "
            f"({ADVICE})"
        )
        return usual
    told = " or ".join(_spelt(axis, found.evident[axis]) for axis in sorted(found.left))
    raise Unclear(
        f"{', '.join(stacked)}: neither metadata nor shapes tell on which axis the layers are: "
        f"{told}; {advice}"
    )


def _refuse_single(leaves: Mapping[str, Leaf], stacked: Sequence[str], advice: str) -> None:
    """A module may have a stack's name and be none: then its kernels have the axes of one layer."""
    for at, held in evidence.inside(leaves, stacked).items():
        for path, leaf in held.get("params", {}).items():
            if path.rpartition("/")[2] == "kernel" and len(leaf.shape) < 3:
                raise Unclear(
                    f"{at}: no stack, as far as one can tell: {path} {leaf} has the axes of one "
                    f"layer; if it is a stack, {advice}"
                )


def besides_usual(leaves: Mapping[str, Leaf]) -> list[int]:
    """The axes besides MaxText's default that its layers might be on; none where it is told."""
    stacked = roots(leaves) if maxtext(leaves) else []
    left = _possible(leaves, stacked).left if stacked else []
    return [axis for axis in left if axis != DEFAULT_AXIS] if DEFAULT_AXIS in left else []


@dataclass(frozen=True)
class _Possible:
    """The axes that layers may be on.

    Attributes:
        evident: those on which the parameters agree: {axis: {stack: layers}}.
        rare: the same of axes beyond 1, where lower ones are possible.
        against: what rules evident ones out.
        left: the others; all where the evidence contradicts itself.
    """

    evident: Mapping[int, Mapping[str, int]]
    rare: Mapping[int, Mapping[str, int]]
    against: Mapping[int, str]
    left: Sequence[int]


def _possible(
    leaves: Mapping[str, Leaf], stacked: Sequence[str], around: int | None = None
) -> _Possible:
    ranks = (len(leaf.shape) for path, leaf in leaves.items() if path.startswith("params/"))
    # Axes beyond 1 are rare, and a weight's own last axis has often one length in all: they count
    # only where 0 and 1 are impossible.
    higher = evident_axes(leaves, stacked, range(2, max(ranks, default=0)))
    evident = evident_axes(leaves, stacked, (0, 1, *(() if around is None else (around,))))
    evident = evident or higher
    against = evidence.against(leaves, evident)
    return _Possible(
        evident,
        {axis: layers for axis, layers in higher.items() if axis not in evident},
        against,
        [axis for axis in evident if axis not in against] or list(evident),
    )


def _told(leaves: Mapping[str, Leaf], found: _Possible) -> str:
    axis = found.left[0]
    if found.against:
        return f"layer axis {axis}: {'; '.join(found.against.values())}"
    out = evidence.against(leaves, {axis: found.evident[axis], **found.rare})
    if others := [str(other) for other in found.rare if other not in out]:
        return (
            f"layer axis {axis}: the shapes do not tell it from axis {', '.join(others)}, which is "
            f"rare ({ADVICE})"
        )
    return f"layer axis {axis}: the only one on which all stacked parameters agree"


def _spelt(axis: int, layers: Mapping[str, int]) -> str:
    counts = dict.fromkeys(layers.values())
    return f"axis {axis} ({' or '.join(map(str, counts))} layers)"
