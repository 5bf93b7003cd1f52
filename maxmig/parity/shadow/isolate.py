"""Each layer of the candidate on its own: fed with what the control computed, not with its own."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from maxmig.parity.programs import Program
from maxmig.parity.shadow import align, lockstep, rules
from maxmig.parity.shadow.events import Event
from maxmig.parity.shadow.lockstep import Gap
from maxmig.parity.shadow.results import Layer
from maxmig.parity.shadow.walk import Walk
from maxmig.parity.static import describe

_NUMBERED = re.compile(r"(.*?_\d+)(/|$)")
_SMALLEST = 1e-11
OUTSIDE = "outside of the model"


def isolate(control: Program, candidate: Program, inputs: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The difference that each layer makes by itself.

    The last results of each layer of the candidate are replaced by the control's before the next
    layer sees them. What follows in the same layer is compared with what it was fed alike.

    Args:
        control, candidate: programs that can be evaluated in float64.
        inputs: an array for each input of either side, by its name.
    """
    walks = Walk(control), Walk(candidate)
    events = [list(walk.events()) for walk in walks]
    aligned = align.pairs(*events)
    labels = _labels(events, aligned)
    # What a later layer uses of an earlier one is replaced, and is what a layer answers for.
    crossing = _crossing(walks[1], events[1], aligned, labels)
    with rules.float64():
        gaps, _, _ = lockstep.run(*walks, inputs, aligned, forced=crossing)
    label = dict(zip(aligned, labels, strict=True))
    found: dict[str, list[Gap]] = {}
    for gap in gaps:
        if gap.pair in crossing:
            found.setdefault(label[gap.pair], []).append(gap)
    return tuple(
        Layer(name, max(g.relative for g in group), len(group), _SMALLEST)
        for name, group in found.items()
    )


def _labels(events: Sequence[Sequence[Event]], aligned: align.Pairs) -> list[str]:
    """The layer of each pair: the path down to the layer's number, or the module's first names."""
    named = any(5 * sum(bool(e.path) for e in side) > len(side) for side in events)
    found, last = [], OUTSIDE
    for i, j in aligned:
        pair = events[0][i], events[1][j]
        path = next((e.path for e in pair if e.path), "")
        path = path or next((describe.module(n) for e in pair for n in e.params), "")
        if path:
            match = _NUMBERED.match(path)
            last = match[1] if match else "/".join(path.split("/")[:2])
        elif named:  # what has no name stands outside of all modules
            last = OUTSIDE
        found.append(last)
    return found


def _crossing(
    walk: Walk, events: Sequence[Event], aligned: align.Pairs, labels: Sequence[str]
) -> set[tuple[int, int]]:
    """Pairs whose results another layer uses, or that are outputs."""
    layer = {j: label for (_, j), label in zip(aligned, labels, strict=True)}
    pair = {j: (i, j) for i, j in aligned}
    last, found = "", {pair[k] for fed in walk.outputs.values() for k in fed if k in pair}
    for j, event in enumerate(events):
        last = layer.get(j, last)
        found |= {pair[k] for k in event.fed if k in pair and layer[k] != last}
    return found
