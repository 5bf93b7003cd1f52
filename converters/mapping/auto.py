"""The rules that lead from one layout to another where nobody says more: as `ckpt map` writes them.

Nothing is guessed: where a name does not tell, the error says which rule to write.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from maxmig import errors, trees
from maxmig.converters import axes, stacks
from maxmig.converters.layouts import Layout
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import levels, normed, relayouts, rules, shaped, steps
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import State

BESIDE = "collection_scan_axis"  # in the metadata: where conversions stacked what is no parameter
_NUMBERED = re.compile(r"(.+)_(\d+)")


def layers(state: State, source: Layout, target: Layout) -> tuple[Rule, ...]:
    """Rules for the layers that the two frameworks lay out differently.

    Raises:
        ConvertError: a layer might be of two kinds.
    """
    if source.family == target.family:
        return ()
    params = {path[7:]: item.leaf for path, item in state.items.items() if path[:7] == "params/"}
    wrappers = _wrappers(state, target)
    if target.family == "nnx":
        found, unclear = relayouts.in_linen(params.keys())
        if unclear:
            at = unclear[0]
            raise errors.ConvertError(
                f"{', '.join(unclear)}: LSTMCell and OptimizedLSTMCell store the same leaves in "
                "Linen, but not in NNX, and the name does not tell which it is; say it in a "
                f"mapping file, `- {{layer: {at}, kind: optimized-lstm, to: nnx}}` or "
                f"`- {{layer: {at}, kind: lstm, to: nnx}}` (start from `ckpt map`)"
            )
    else:
        found = relayouts.in_nnx(params)
    return (
        *(rules.Layer(at, found[at], target.family) for at in trees.sort(found)),
        *wrappers,
    )


def _wrappers(state: State, target: Layout) -> list[rules.Layer]:
    """Rules for SpectralNorm and WeightNorm."""
    if target.family == "nnx":
        found, problems = normed.in_linen(state)
        if any(rule.kind == "weight-norm" for rule in found):
            state.notes.append(
                "weight-norm: its scales are written as parameters, as flax 0.12.12 has them; for "
                "an older flax, where they are raw arrays, say `kind: weight-norm-raw` in a "
                "mapping file (start from `ckpt map`)"
            )
        if problems:
            raise errors.ConvertError("the mapping cannot be done:\n  " + "\n  ".join(problems))
        return found
    owners = {path.partition("/")[2] for path in state.items if path[:10] != "opt_state/"}
    for at, kind in normed.in_nnx(owners).items():
        raise errors.ConvertError(
            f"{at}: {kind}: Linen keeps the wrapped layer beside the wrapper, under a name that "
            "an NNX tree does not hold; say it in a mapping file, "
            f"`- {{layer: {at}, kind: {kind}, wraps: Dense_0, to: linen}}`"
        )
    return []


def apart(scanning: tuple[Rule, ...]) -> set[str]:
    """What an NNX tree writes as a list since it was a stack, of names that do not tell it."""
    taken = (rule for rule in scanning if isinstance(rule, rules.Unstack))
    found = {rule.at for rule in taken if rule.to == f"{rule.at}_{{}}"}
    return {at for at in found if at.rpartition("/")[2] not in stacks.NAMES}


def scan(
    state: State,
    *,
    scan: bool | None,
    axis: int | None,
    source_axis: int | None,
    known: bool = False,
    beside: int | None = None,
) -> tuple[tuple[Rule, ...], int | None]:
    """Rules that stack layers or take them apart, and the layer axis of the result.

    Stacks in stacks are taken apart on all levels. Layers that are apart are stacked on the
    outermost: whether parts of a layer that look alike were a stack, the tree does not tell.

    Args:
        state: the state.
        scan: stack the layers, take them apart, or None: leave them.
        axis: the layer axis of the result; None keeps the source's, or takes the default.
        source_axis: the layer axis of the source, where it is known; None tells it from the shapes.
        known: only stacks with known names.
        beside: the layer axis of what follows no parameter, where the metadata tell it.

    Raises:
        ConvertError: what is to be stacked, or on which axis it is, cannot be told.
    """
    if scan is None and axis is None:
        return (), source_axis
    owners = trees.sort(state.params)
    stacked = steps.containers(owners, scanned=True)
    listed = steps.containers(owners, scanned=False)
    leaves = {path: item.leaf for path, item in state.items.items() if path[:7] == "params/"}
    if scan and not known:
        listed = _layered(leaves, listed, state)
    every = state.leaves()
    on = {} if known or (scan and listed) else _unnamed(state, stacked, listed, source_axis, scan)
    if stacked:
        needed = not scan or axis is not None or bool(listed)
        source_axis = _stacked_on(every, stacked, source_axis, state, needed=needed)
        on |= {} if source_axis is None else dict.fromkeys(stacked, source_axis)
    elif on:
        source_axis = next(iter(on.values()))
    if scan is False:
        if not on and not listed and not known:
            _none(leaves, state, "--no-scan")
        return _apart(every, on, known, beside), source_axis
    if stacked and source_axis is None:
        return (), None  # all stays where it is, so that its axis need not be known
    result = axis if axis is not None else source_axis if on else _default(every, listed)
    assert result is not None
    found: list[Rule] = []
    if scan:
        if not listed and not stacked and not known:
            listed = _siblings(leaves, stacked=bool(on))
        if listed and axis is None and not on:
            whose = "MaxText's" if result else "that of nn.scan and nnx.vmap"
            state.notes.append(f"layers are stacked on axis {result}, {whose}; --scan-axis chooses")
        found += [rules.Stack(f"{at}_{{}}", at, result) for at in listed]
    elif not on and not known:
        _none(leaves, state, "--scan-axis", listed)
    found += _moved(every, on, result, beside)
    return tuple(_within(rule, leaves) for rule in found), result


def _default(leaves: Mapping[str, Leaf], listed: Iterable[str]) -> int:
    """The layer axis of what is stacked where nobody says it: MaxText's of its own trees."""
    return axes.DEFAULT_AXIS if axes.maxtext(leaves, listed) else 0


def _layered(leaves: Mapping[str, Leaf], listed: list[str], state: State) -> list[str]:
    """Those of the stacks whose layers are apart that are no Sequential's; says what is left."""
    left = shaped.sequentials(leaves, listed)
    if left:
        told = ", ".join(f"{at}_{{}}" for at in left)
        state.notes.append(f"{told}: left apart: single layers, with gaps or of several shapes")
    found = [at for at in listed if at not in left]
    others = [at for at in _groups(leaves, blocks=True) if at not in listed] if found else []
    if others:
        told = ", ".join(f"{at}_{{}}" for at in others)
        state.notes.append(
            f"{told}: left apart: no known name of a stack; if they are layers, say `- {{stack: "
            f"'{others[0]}_{{}}', to: {others[0]}, axis: 0}}` in a mapping file (start from `ckpt "
            "map`)"
        )
    return found


def unused(state: State, axis: int, apart: tuple[Rule, ...] | None) -> None:
    """Says of a layer axis that a user gives where it is that of no stack.

    Args:
        state: what is converted.
        axis: the axis.
        apart: the rules that take stacks apart; None: the stacks are left as they are.
    """
    ranks = [len(item.leaf.shape) for path, item in state.items.items() if path[:7] == "params/"]
    taken = apart is None or any(isinstance(rule, rules.Unstack) for rule in apart)
    if not taken or axis >= max(ranks, default=0):
        told = "does nothing: there is no stack with that axis"
        state.notes.append(f"--from-scan-axis {axis} {told}")


def _apart(
    leaves: Mapping[str, Leaf], on: Mapping[str, int], known: bool, beside: int | None
) -> tuple[Rule, ...]:
    """Rules that take stacks apart on all levels."""
    turns = [rule for at, axis in on.items() for rule in levels.turned(leaves, at, axis, beside)]
    leaves = levels.after(leaves, turns)
    for at, axis in on.items():
        levels.check_shared(leaves, at, axis)
    params = {path: leaf for path, leaf in leaves.items() if path[:7] == "params/"}
    apart = levels.apart(leaves, on, known=known)
    return (*turns, *(_within(rule, params) for rule in apart))


def _moved(
    leaves: Mapping[str, Leaf], on: Mapping[str, int], axis: int, beside: int | None
) -> list[Rule]:
    """Rules that move the layers of stacks that are not on an axis yet."""
    moved = [at for at, own in on.items() if own != axis]
    params = {path: leaf for path, leaf in leaves.items() if path[:7] == "params/"}
    _refuse_nested(params, moved)
    turns = [rule for at in moved for rule in levels.turned(leaves, at, on[at], beside)]
    return [*turns, *(rules.MoveAxis(at, on[at], axis) for at in moved)]


def _stacked_on(
    leaves: Mapping[str, Leaf], stacked: list[str], known: int | None, state: State, *, needed: bool
) -> int | None:
    """The layer axis of stacks with known names; None if nothing tells it and it is not needed."""
    try:
        return axes.told_axis(leaves, stacked, known, state.notes)
    except errors.ConvertError:
        if needed or known is not None:
            raise
        return None


def _unnamed(
    state: State, stacked: list[str], listed: list[str], axis: int | None, scan: bool | None
) -> dict[str, int]:
    """The stacks that have no known name, and their layer axes; says which they are.

    What was taken apart before, and what is in a layer that is apart, is none.
    """
    every = state.leaves()
    params = {path: leaf for path, leaf in every.items() if path[:7] == "params/"}
    inside = {path[7:]: leaf for path, leaf in params.items()}
    named = levels.scan_named(owner for owner in inside if stacks.scanned(owner) is None)
    found: dict[str, int] = {}
    if named:
        fits = axis is not None and axis in axes.evident_axes(every, named, (axis,))
        on = axes.told_axis(every, named, axis if fits else None, state.notes)
        found = dict.fromkeys(named, on)
    cut = [path[7:] for path in params if any(w[:8] == "unstack " for w in state.items[path].why)]
    heads: dict[str, int] = {}
    looking = shaped.find(inside, [*stacked, *named, *cut], axis, apart=listed, heads=heads)
    own = _told(every, stacked, axis)
    state.notes += (_maybe(at, each) for at, each in heads.items() if own in (None, each))
    groups = _groups(params, blocks=True)
    parts = [at for at in looking if any(re.match(rf"{re.escape(g)}_\d+/", at) for g in groups)]
    if parts and not scan:
        raise errors.ConvertError(
            f"{parts[0]}: looks like a stack of layers, but is a part of layers that are apart "
            f"({', '.join(f'{at}_{{}}' for at in groups)}); if it is a stack, say it in a mapping "
            f"file (start from `ckpt map`), `- {{unstack: {parts[0]}, to: '{parts[0]}_{{}}', axis: "
            f"{looking[parts[0]]}}}`, else leave the option out"
        )
    for at in parts:
        del looking[at]
    for at, own in looking.items():
        state.notes.append(
            f"{at}: taken for a stack of layers on axis {own}, as its shapes tell; if it is none, "
            "write the rules yourself (start from `ckpt map`)"
        )
    return found | looking


def _told(leaves: Mapping[str, Leaf], stacked: list[str], known: int | None) -> int | None:
    try:
        return axes.told_axis(leaves, stacked, known, []) if stacked else None
    except errors.ConvertError:
        return None


def _maybe(at: str, axis: int) -> str:
    return (
        f"{at}: left as it is: one module (attention), or a stack of layers on axis {axis}; if it "
        f"is a stack, say it in a mapping file (start from `ckpt map`), `- {{unstack: {at}, to: "
        f"'{at}_{{}}', axis: {axis}}}`"
    )


def _none(
    leaves: Mapping[str, Leaf], state: State, option: str, listed: Iterable[str] = ()
) -> None:
    """Says that there is no stack; refuses, unless layers are apart that could be meant.

    Raises:
        ConvertError: nothing is known that could be done.
    """
    apart = ", ".join(f"{at}_{{}}" for at in [*listed, *_groups(leaves, blocks=True)])
    if option == "--no-scan" and apart:
        state.notes.append(f"{option}: no stack was found; {apart} are apart already")
        return
    told = f"{apart} are apart (--scan stacks them)" if apart else "no name or shape tells of one"
    raise errors.ConvertError(
        f"{option}: no stack of layers was found: {told}; if there is one, say it in a mapping "
        "file (start from `ckpt map`), `- {unstack: PATH, to: 'PATH_{}', axis: 0}` or "
        "`- {move_axis: PATH, from: 0, to: 1}`, else leave the option out"
    )


def _within(rule: Rule, leaves: Mapping[str, Leaf]) -> Rule:
    """The rule with an axis that the stack has: leaves with fewer have their layers on the last."""
    if not isinstance(rule, rules.Stack | rules.Unstack | rules.MoveAxis):
        return rule
    begin = rule.at.removesuffix("{}") if isinstance(rule, rules.Stack) else f"{rule.at}/"
    ranks = [len(leaf.shape) for path, leaf in leaves.items() if path[7:].startswith(begin)]
    if not ranks:
        return rule  # in a layer that is not apart yet
    last = max(ranks) - (0 if isinstance(rule, rules.Stack) else 1)
    if isinstance(rule, rules.MoveAxis):
        return rules.MoveAxis(rule.at, min(rule.source, last), min(rule.target, last))
    return dataclasses.replace(rule, axis=min(rule.axis, last))


def remembered(found: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules of layers whose way back no name tells: stacks in the layers of others, stacks of
    other names, numbers that are filled with zeros; none if there is no such.
    """
    outer = tuple(f"{rule.at}_" for rule in found if isinstance(rule, rules.Unstack))

    def told(rule: Rule) -> bool:
        match rule:
            case rules.Unstack(at, _, _):
                return not at.startswith(outer) and at.rpartition("/")[2] in stacks.NAMES
            case rules.Stack(at, to, _):
                return at == f"{to}_{{}}" and to.rpartition("/")[2] in stacks.NAMES
        return True

    stacking = (rules.Stack, rules.Unstack, rules.MoveAxis)
    return () if all(map(told, found)) else tuple(r for r in found if isinstance(r, stacking))


def _refuse_nested(leaves: Mapping[str, Leaf], stacked: list[str]) -> None:
    for path in leaves:
        for at in stacked:
            rest = path[7 + len(at) + 1 :]
            if path[7:].startswith(f"{at}/") and stacks.scanned(rest) is not None:
                raise errors.ConvertError(
                    f"{path}: the layer axis of stacks in stacks cannot be moved; take the layers "
                    "apart first (--no-scan), then stack them on the axis (--scan --scan-axis)"
                )


def _siblings(leaves: Mapping[str, Leaf], *, stacked: bool) -> list[str]:
    """The numbered siblings that are the layers of a stack; none where all is stacked.

    Raises:
        ConvertError: there are none, or several.
    """
    found = _groups(leaves, blocks=True)
    if len(found) == 1 or (stacked and not found):
        return found
    told = ", ".join(f"{at}_{{}}" for at in found or _groups(leaves, blocks=False)) or "none"
    first = told.partition(", ")[0].removesuffix("_{}") if told != "none" else "block"
    raise errors.ConvertError(
        "--scan: which layers are to be stacked? No name is known for a stack, and the numbered "
        f"siblings of one kind are: {told}; say it in a mapping file: "
        f"`- {{stack: '{first}_{{}}', to: {first}, axis: 0}}` (start from `ckpt map`)"
    )


def _groups(leaves: Mapping[str, Leaf], *, blocks: bool) -> list[str]:
    """Numbered siblings of one kind; only those that hold layers of their own, if `blocks`."""
    groups: dict[str, dict[int, dict[str, Leaf]]] = defaultdict(lambda: defaultdict(dict))
    for path, leaf in leaves.items():
        segments = path[7:].split("/")
        for place, segment in enumerate(segments[:-1]):
            if match := _NUMBERED.fullmatch(segment):
                at = "/".join([*segments[:place], match[1]])
                groups[at][int(match[2])]["/".join(segments[place + 1 :])] = leaf
                break  # the outermost
    return [
        at
        for at, members in groups.items()
        if len(members) > 1
        and sorted(members) == list(range(len(members)))
        and all(member == members[0] for member in members.values())
        and (not blocks or any("/" in rest for rest in members[0]))
    ]
