"""What the modules sow: values beside the outputs, such as auxiliary losses and intermediates."""

import dataclasses
from collections.abc import Iterable, Mapping

from maxmig.parity.pairs import kinds

SOWN = "sown/"

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Sown:
    """Which values of both sides belong together.

    Attributes:
        names: of each side, `sown/collection/module/name/0` -> the name that both share.
        left: of each side, what the other side has nothing like.
    """

    names: tuple[Mapping[str, str], Mapping[str, str]]
    left: tuple[tuple[str, ...], tuple[str, ...]]


def match(control: Shapes, candidate: Shapes) -> Sown:
    """Brings values of one name and shape together, in the order of their paths."""
    groups = _groups(control), _groups(candidate)
    names: tuple[dict[str, str], dict[str, str]] = ({}, {})
    left: tuple[list[str], list[str]] = ([], [])
    for key in dict.fromkeys([*groups[0], *groups[1]]):
        members = [side.get(key, []) for side in groups]
        if len(members[0]) != len(members[1]):
            for rest, paths in zip(left, members, strict=True):
                rest.extend(path.removeprefix(SOWN) for path in paths)
            continue
        shape = "x".join(map(str, key[1])) or "scalar"
        for i, both in enumerate(zip(*members, strict=True)):
            for side, path in zip(names, both, strict=True):
                side[path] = f"{SOWN}{key[0]}/{shape}/{i}"
    return Sown(names, (tuple(left[0]), tuple(left[1])))


def doubts(found: Iterable[Sown]) -> tuple[str, ...]:
    """Why what the control alone sows leaves a doubt."""
    lost = list(dict.fromkeys(path for one in found for path in one.left[0]))
    if not lost:
        return ()
    more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
    return (
        f"the control sows {lost[0]}{more}, and the candidate nothing of that name and shape, so "
        "it was not compared; sow it there too, or name in Pair(mutable=...) the collections that "
        "count",
    )


def notes(found: Iterable[Sown]) -> tuple[str, ...]:
    """What the candidate sows and the control does not."""
    more = list(dict.fromkeys(path for one in found for path in one.left[1]))
    return (f"the candidate sows what the control does not: {', '.join(more[:4])}",) if more else ()


def _groups(shapes: Shapes) -> dict[tuple[str, tuple[int, ...]], list[str]]:
    found: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for path in kinds.natural(shapes):
        words = [word for word in path.split("/") if not word.isdigit()]
        found.setdefault((words[-1], shapes[path]), []).append(path)
    return found
