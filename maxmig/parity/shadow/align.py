"""Which equation of one side belongs to which of the other.

Equations that use a parameter are anchors: they are paired by the parameter's name. What lies
between two anchors is paired by primitive and shape.
"""

import difflib
from collections.abc import Sequence

from maxmig.parity.shadow.events import Event
from maxmig.parity.static import primitives

Pairs = list[tuple[int, int]]

# Whether a loop goes on: i < 3 belongs to i <= 3, and the turn in which they differ is told.
_COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne"}


def pairs(control: Sequence[Event], candidate: Sequence[Event]) -> Pairs:
    """Indices of events that belong together, rising on both sides."""
    ours, theirs = [key(e) for e in control], [key(e) for e in candidate]
    if ours == theirs:
        return [(i, i) for i in range(len(ours))]
    anchors = _anchors(control, candidate)
    found: Pairs = []
    start = (0, 0)
    for end in (*anchors, (len(ours), len(theirs))):
        gap = (ours[start[0] : end[0]], theirs[start[1] : end[1]])
        found += [(start[0] + i, start[1] + j) for i, j in _match(*gap)]
        if end[0] < len(ours) and end[1] < len(theirs):
            found.append(end)
        start = (end[0] + 1, end[1] + 1)
    return found


def key(event: Event) -> tuple[object, ...]:
    """What two equations that belong together have in common.

    The primitive, the shape, parameters among the operands, and the turn of each loop.
    """
    name = event.eqn.primitive.name
    name = primitives.RENAMED.get(name, name)
    if event.decides and name in _COMPARISONS:
        name = "comparison"
    sizes = tuple(sorted(s for s in event.eqn.outvars[0].aval.shape if s != 1))
    return (name, sizes, event.params, event.loops)


def _anchors(control: Sequence[Event], candidate: Sequence[Event]) -> Pairs:
    ours = [(key(e), i) for i, e in enumerate(control) if e.params]
    theirs = [(key(e), i) for i, e in enumerate(candidate) if e.params]
    matched = _match([k for k, _ in ours], [k for k, _ in theirs])
    return [(ours[i][1], theirs[j][1]) for i, j in matched]


def _match(ours: Sequence[object], theirs: Sequence[object]) -> Pairs:
    if list(ours) == list(theirs):
        return [(i, i) for i in range(len(ours))]
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    return [
        (block.a + k, block.b + k)
        for block in matcher.get_matching_blocks()
        for k in range(block.size)
    ]
