"""The rules that lead from one layout to another where nobody says more: as `ckpt map` writes them.

Nothing is guessed: where a name does not tell, the error says which rule to write.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from maxmig import errors, trees
from maxmig.converters import restack, stacks
from maxmig.converters.layouts import Layout
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import normed, relayouts, rules, steps
from maxmig.converters.mapping.rules import Rule, Where
from maxmig.converters.mapping.state import State

_NUMBERED = re.compile(r"(.+)_(\d+)")
_SCANNED = re.compile(r"Scan\w+_\d+")


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


def lists(owners: Iterable[str]) -> tuple[Rule, ...]:
    """Which numbered names an NNX tree writes as lists: those that a Linen `setup` gives to lists.

    Linen's compact modules number classes (`Dense_0`), and a person numbers from 1 as often as from
    0 (`conv_1`); only `blocks_0`, `blocks_1` of one kind, and Sequential's `layers_0`, are lists.
    """
    groups: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for owner in owners:
        segments = owner.split("/")
        for place, segment in enumerate(segments[:-1]):
            if (match := _NUMBERED.fullmatch(segment)) and not segment[0].isupper():
                at = "/".join([*segments[:place], match[1]])
                groups[at][int(match[2])].add("/".join(segments[place + 1 :]))
    found: dict[str, list[str]] = defaultdict(list)
    for at, members in groups.items():
        alike = len({frozenset(rest) for rest in members.values()}) == 1
        whole = sorted(members) == list(range(len(members))) and len(members) > 1
        if at.rpartition("/")[2] in ("layers", *stacks.NAMES) or (alike and whole):
            kind = re.sub(r"_\d+(?=/|$)", r"_\\d+", re.escape(at).replace(r"\-", "-"))
            found[kind].append(at)
    return tuple(
        rules.Listed(Where(alike[0]) if len(alike) == 1 else Where(kind, regex=True))
        for kind, alike in found.items()
    )


def scan(
    state: State, *, scan: bool | None, axis: int | None, source_axis: int | None
) -> tuple[tuple[Rule, ...], int | None]:
    """Rules that stack layers or take them apart, and the layer axis of the result.

    Args:
        state: the state.
        scan: stack the layers, take them apart, or None: leave them.
        axis: the layer axis of the result; None keeps the source's, or takes the default.
        source_axis: the layer axis of the source, where it is known; None tells it from the shapes.

    Raises:
        ConvertError: what is to be stacked, or on which axis it is, cannot be told.
    """
    if scan is None and axis is None:
        return (), source_axis
    owners = trees.sort(state.params)
    stacked = steps.containers(owners, scanned=True)
    listed = steps.containers(owners, scanned=False)
    auto = [] if stacked else _scan_named(owners)
    leaves = {path: item.leaf for path, item in state.items.items() if path[:7] == "params/"}
    if auto and (scan is False or axis is not None):
        stacked = auto
        source_axis = _auto_axis(leaves, auto, source_axis)
    elif stacked:
        held = {p: p[7:] for p in leaves if stacks.scanned(p[7:]) is not None}
        source_axis = restack.told_axis(leaves, held, source_axis, state.notes)
    if scan is False:
        return tuple(
            rules.Unstack(at, f"{at}_{{}}", source_axis or 0) for at in stacked
        ), source_axis
    result = axis if axis is not None else source_axis if stacked else restack.DEFAULT_AXIS
    assert result is not None
    found: list[Rule] = []
    if scan:
        if not listed and not stacked:
            listed = _siblings(leaves)
            result = axis if axis is not None else 0  # Linen's and NNX's own default
        found += [rules.Stack(f"{at}_{{}}", at, result) for at in listed]
    if stacked and source_axis != result:
        assert source_axis is not None
        found += [rules.MoveAxis(at, source_axis, result) for at in stacked]
    return tuple(found), result


def _scan_named(owners: Iterable[str]) -> list[str]:
    """Stacks that Linen's nn.scan named by itself: `ScanBlock_0`."""
    found: dict[str, None] = {}
    for owner in owners:
        segments = owner.split("/")
        for place, segment in enumerate(segments[:-1]):
            if _SCANNED.fullmatch(segment):
                found["/".join(segments[: place + 1])] = None
                break
    return list(found)


def _auto_axis(leaves: Mapping[str, Leaf], at: list[str], known: int | None) -> int:
    inside = [
        leaf.shape for path, leaf in leaves.items() for a in at if path[7:].startswith(a + "/")
    ]

    def agree(axis: int) -> bool:
        return len({shape[min(axis, len(shape) - 1)] if shape else -1 for shape in inside}) == 1

    if known is not None and agree(known):
        return known
    last = max((len(shape) for shape in inside), default=0) - 1
    fits = [axis for axis in (0, 1) if agree(axis)]
    fits = fits or [axis for axis in range(2, last + 1) if agree(axis)]
    if len(fits) == 1:
        return fits[0]
    raise errors.ConvertError(
        f"{', '.join(at)}: the shapes do not tell on which axis the layers are (axes on which all "
        f"agree: {fits or 'none'}); name it with --from-scan-axis"
    )


def _siblings(leaves: Mapping[str, Leaf]) -> list[str]:
    """Numbered siblings of one kind that may be layers of a stack: blocks, not single layers."""
    groups: dict[str, dict[int, dict[str, Leaf]]] = defaultdict(lambda: defaultdict(dict))
    for path, leaf in leaves.items():
        segments = path[7:].split("/")
        for place, segment in enumerate(segments[:-1]):
            if match := _NUMBERED.fullmatch(segment):
                at = "/".join([*segments[:place], match[1]])
                groups[at][int(match[2])]["/".join(segments[place + 1 :])] = leaf
                break  # the outermost
    found = [
        at
        for at, members in groups.items()
        if len(members) > 1
        and sorted(members) == list(range(len(members)))
        and all(member == members[0] for member in members.values())
        and any("/" in rest for rest in members[0])
    ]
    if len(found) == 1:
        return found
    told = ", ".join(f"{at}_{{}}" for at in found) or "none"
    raise errors.ConvertError(
        "--scan: which layers are to be stacked? No name is known for a stack, and the numbered "
        f"siblings of one kind are: {told}; say it in a mapping file: "
        f"`- {{stack: '{found[0] if found else 'block'}_{{}}', to: "
        f"{found[0] if found else 'block'}, axis: 0}}` (start from `ckpt map`)"
    )
