"""What is asked of a user's own rules, beside that they can be carried out."""

import difflib
import json
from collections.abc import Iterable, Iterator

from maxmig import errors, trees
from maxmig.converters import skeletons
from maxmig.converters.mapping import rules, traced
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import State

_SHOWN = 12
_NO_MODEL = ("aux", "step", skeletons.ROOT)


def spelt(rule: Rule) -> str:
    """A rule on one line, cut off where it is long."""
    text = json.dumps(rule.data(), ensure_ascii=False).replace('"', "")
    return text if len(text) <= 120 else f"{text[:117]}..."


def check(rule: Rule, state: State) -> None:
    """Refuses what would do something else than it says.

    Raises:
        ConvertError: an axis that is not there, or a table that does not name every leaf.
    """
    match rule:
        case rules.Stack():
            inside = (path for path in state.params if rule.members.fullmatch(path))
            _axis(rule.axis, _rank(inside, state) + 1)
        case rules.Unstack(at, _, axis):
            _axis(axis, _inside(at, state))
        case rules.MoveAxis(at, source, target):
            _axis(source, _inside(at, state))
            _axis(target, _inside(at, state))
        case traced.Leaves():
            _total(rule, state)


def idle(rule: Rule, state: State) -> str:
    """What to say of a rule that matches nothing, or changes nothing."""
    named = rule.where.path if isinstance(rule, rules.Drop) else ""
    if named in {path.partition("/")[0] for path in state.items} - {"params", *_NO_MODEL}:
        return (
            f"a path is one in the model's modules; {named} is none, but a collection, or a field "
            f"of the TrainState: {{drop: {{collection: {named}}}, reason: ...}} leaves it out"
        )
    paths = trees.sort(state.params)
    more = f"\n  ... and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return (
        "a rule matches nothing, or changes nothing; leave it out, or name what is there. The "
        "parameters are\n  " + "\n  ".join(paths[:_SHOWN]) + more
    )


def strange(done: Iterable[Rule], state: State) -> Iterator[str]:
    """What a user may have misspelt: random state beside the model's modules, not in them."""
    known = {path.partition("/")[0] for path in state.params}
    for rule in done:
        if isinstance(rule, rules.Random):
            name = rule.owner().partition("/")[0]
            like = [] if name in known else difflib.get_close_matches(name, sorted(known), 1, 0.8)
            if like:
                yield (
                    f"random {rule.at}: no parameter is in {name}; where {like[0]} is meant, "
                    "correct the rule"
                )


def _inside(at: str, state: State) -> int:
    return _rank((p for p in state.params if rules.Where(at).rest(p) is not None), state)


def _rank(paths: Iterable[str], state: State) -> int:
    return max((len(state.items[f"params/{path}"].leaf.shape) for path in paths), default=0)


def _axis(axis: int, rank: int) -> None:
    if rank and axis >= rank:
        raise errors.ConvertError(
            f"expected a layer axis from 0 to {rank - 1}, which is the last one that a parameter "
            f"there has, got {axis}"
        )


def _total(table: traced.Leaves, state: State) -> None:
    """Every leaf of the model must be a source, once; a leaf that is cut must be used up."""
    used = [path for entry in table.entries for path in entry.sources]
    sections = {path.partition("/")[0] for path in used} | {"params"}
    held = {p for p in state.items if p.partition("/")[0] in sections - set(_NO_MODEL)}
    if lost := trees.sort(held - set(used)):
        told = f"\n  ... and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        raise errors.ConvertError(
            f"a table must name every leaf, but {len(lost)} of {len(held)} are in no line of it; "
            "add a line for each under leaves:, or under dropped: with a reason:\n  "
            + "\n  ".join(lost[:_SHOWN])
            + told
        )
    parts: dict[str, list[traced.Entry]] = {}
    for entry in table.entries:
        if entry.op in ("take", "slice"):
            parts.setdefault(entry.sources[0], []).append(entry)
    for path, cut in parts.items():
        item = state.items.get(path)
        if item is not None and not _used_up(cut, item.leaf.shape):
            raise errors.ConvertError(
                f"{path}: its parts in leaves: ({', '.join(e.target for e in cut)}) do not make up "
                f"{item.leaf}: expected each number of one axis in exactly one of them"
            )


def _used_up(cut: list[traced.Entry], shape: tuple[int, ...]) -> bool:
    axis = cut[0].get("axis")
    if any(e.op != cut[0].op or e.get("axis") != axis for e in cut) or axis >= len(shape):
        return False
    if cut[0].op == "take":
        return sorted(e.get("index") for e in cut) == list(range(shape[axis]))
    ends = sorted((e.get("start"), e.get("stop")) for e in cut)
    joints = [0, *(stop for _, stop in ends)]
    return [start for start, _ in ends] == joints[:-1] and joints[-1] == shape[axis]
