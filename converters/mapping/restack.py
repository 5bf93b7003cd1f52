"""A state with its layers stacked or apart, where nothing else changes."""

from collections.abc import Mapping, Sequence

from maxmig.converters import skeletons
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import auto, carry
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import State, start


def plan(
    leaves: Mapping[str, Leaf],
    skeleton: skeletons.Skeleton,
    *,
    scan: bool | None = None,
    axis: int | None = None,
    source_axis: int | None = None,
    rules: Sequence[Rule] = (),
) -> tuple[State, int | None]:
    """The state in another scan layout, of stacks with known names, and its layer axis.

    Args:
        leaves: the canonical leaves.
        skeleton: the optimizer's containers.
        scan: stack the layers, take them apart, or None: leave them.
        axis: the layer axis of the result; None keeps the source's, or takes the default.
        source_axis: the layer axis of the source, where it is known; None tells it from the shapes.
        rules: a user's own, which are carried out first.

    Raises:
        ConvertError: layers are missing or differ, or a leaf does not follow its parameter.
    """
    state = start(leaves, skeleton)
    carry.out(state, rules, strict=True)
    scanning, found = auto.scan(state, scan=scan, axis=axis, source_axis=source_axis, known=True)
    carry.out(state, scanning)
    return state, found
