"""A state with its layers stacked or apart, where nothing else changes."""

from collections.abc import Mapping, Sequence

from maxmig.converters import skeletons
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import auto, carry, rules
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import State, start


def plan(
    leaves: Mapping[str, Leaf],
    skeleton: skeletons.Skeleton,
    *,
    scan: bool | None = None,
    axis: int | None = None,
    source_axis: int | None = None,
) -> tuple[State, int | None]:
    """The state in another scan layout, of stacks with known names, and its layer axis.

    Args:
        leaves: the canonical leaves.
        skeleton: the optimizer's containers.
        scan: stack the layers, take them apart, or None: leave them.
        axis: the layer axis of the result; None keeps the source's, or takes the default.
        source_axis: the layer axis of the source, where it is known; None tells it from the shapes.

    Raises:
        ConvertError: layers are missing or differ, or a leaf does not follow its parameter.
    """
    state = start(leaves, skeleton)
    return state, on(state, scan=scan, axis=axis, source_axis=source_axis)


def on(
    state: State,
    *,
    scan: bool | None = None,
    axis: int | None = None,
    source_axis: int | None = None,
    todo: Sequence[Rule] = (),
    beside: int | None = None,
) -> int | None:
    """The same of a state that is changed.

    Args:
        state: is changed.
        scan: stack the layers, take them apart, or None: leave them.
        axis: the layer axis of the result; None keeps the source's, or takes the default.
        source_axis: the layer axis of the source, where it is known; None tells it from the shapes.
        todo: a user's rules, carried out first.
        beside: the layer axis of what follows no parameter, where it is known.

    Raises:
        ConvertError: layers are missing or differ, or a leaf does not follow its parameter.
    """
    done = carry.out(state, todo, strict=True)
    source_axis = axis_after(done, source_axis)
    scanning, found = auto.scan(
        state, scan=scan, axis=axis, source_axis=source_axis, known=True, beside=beside
    )
    carry.out(state, scanning)
    return found


def axis_after(done: Sequence[Rule], axis: int | None) -> int | None:
    """The layer axis after rules that move it, as a file or the way back may have them."""
    moved = [rule for rule in done if isinstance(rule, rules.MoveAxis)]
    if any(axis is None or axis >= rule.source for rule in moved):
        return max(rule.target for rule in moved)
    stacked = [rule.axis for rule in done if isinstance(rule, rules.Stack)]
    return max(stacked) if stacked and axis is None else axis
