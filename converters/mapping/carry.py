"""Carries rules out on a state: those on single leaves (`steps`), and those on whole trees."""

import dataclasses
import re
from collections.abc import Sequence

from maxmig import errors, trees
from maxmig.converters import axes, ops, stacks
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import derive, relayouts, rules, steps, strictly, traced
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import (
    Item,
    State,
    Tree,
    alone,
    apply,
    forest,
    nodes,
    with_node,
)

_PLACE = re.compile(r"/\d+(?:/|$)")
ZERO = "zero, as it must be: NNX has no place for it"


def out(
    state: State, todo: Sequence[Rule], *, strict: bool = False, told: Sequence[str] = ()
) -> tuple[Rule, ...]:
    """Carries rules out, in order; the rules with what they need to be inverted.

    Args:
        state: is changed.
        todo: the rules.
        strict: the rules are a user's own: they must match something, and be possible here.
        told: where each rule stands, for messages.

    Raises:
        ConvertError: something does not fit; everything that is wrong with a rule is listed.
        ConfigError: so it is with a user's rule.
    """
    done: list[Rule] = []
    for number, each in enumerate(todo):
        try:
            for rule in _spread(each, state):
                rule = _completed(rule, state)
                if strict:
                    strictly.check(rule, state)
                _checked(state, rule, strict)
                if strict:
                    _refuse_places(state)
                done.append(rule)
        except errors.ConvertError as error:
            if not strict:
                raise
            where = f"{told[number]}: " if number < len(told) else ""
            raise errors.ConfigError(f"{where}{strictly.spelt(each)}: {error}") from error
    for rule in done:
        if isinstance(rule, rules.Random):
            rule.owner(state.lists)  # only now: a `list:` rule that changes nothing is refused
    if strict:
        _refuse_leaves_in_leaves(state)
        state.notes += strictly.strange(done, state)
    return tuple(done)


def _refuse_leaves_in_leaves(state: State) -> None:
    above = (
        (path[:at], path)
        for path in state.items
        for at, letter in enumerate(path)
        if letter == "/" and path[:at] in state.items
    )
    if problems := [f"{leaf}: is a leaf, and holds {path}" for leaf, path in above]:
        raise errors.ConfigError("the mapping cannot be done:\n  " + "\n  ".join(problems))


def _refuse_places(state: State) -> None:
    """Moments follow canonical names only, in which a place of a list is a part of a name."""
    if not any("params" in node for _, node in nodes(state.skeleton)):
        return
    wrong = [owner for owner in trees.sort(state.params) if _PLACE.search(owner)]
    if wrong:
        names = [f"{owner}: say {stacks.joined(tuple(owner.split('/')))}" for owner in wrong]
        raise errors.ConvertError(
            "a member of a list has a numbered name in a mapping, such as blocks_0 (`- list: "
            "blocks` has NNX write blocks/0):\n  " + "\n  ".join(names)
        )


def _checked(state: State, rule: Rule, strict: bool) -> None:
    problems: list[str] = []
    before = (dict(state.items), set(state.lists), set(state.named)) if strict else None
    _one(state, rule, problems)
    if problems:
        what = "the layers cannot be restacked" if _scans(rule) else "the mapping cannot be done"
        raise errors.ConvertError(f"{what}:\n  " + "\n  ".join(problems))
    if before == (state.items, state.lists, state.named):
        raise errors.ConvertError(strictly.idle(rule, state))


def _spread(rule: Rule, state: State) -> list[Rule]:
    """The rule for each of the numbers that a `*` in its path stands for."""
    if not isinstance(rule, rules.Stack | rules.Unstack) or "*" not in rule.at:
        return [rule]
    pattern = re.escape(rule.at).replace(r"\*", r"(\d+)")
    pattern = re.sub(r"\\\{(?::0\d)?\\\}", r"\\d+", pattern)
    matches = (re.fullmatch(f"{pattern}(?:/.*)?", owner) for owner in trees.sort(state.params))
    numbers = dict.fromkeys(match.groups() for match in matches if match)
    return [
        dataclasses.replace(rule, at=_numbered(rule.at, each), to=_numbered(rule.to, each))
        for each in numbers
    ] or [rule]


def _numbered(text: str, numbers: tuple[str, ...]) -> str:
    if text.count("*") != len(numbers):
        raise errors.ConvertError(
            f"{text}: expected as many * as on the other side of the rule ({len(numbers)})"
        )
    for number in numbers:
        text = text.replace("*", number, 1)
    return text


def together(state: State, axis: int | None) -> None:
    """Stacks what follows stacked parameters but was left apart (a fault of one converter).

    Raises:
        ConvertError: the layer axis cannot be told, or layers are missing.
    """
    apart = [(prefix, node) for prefix, node in nodes(state.skeleton) if "apart" in node]
    if not apart:
        return
    leaves = state.leaves()
    axis = axes.layer_axis(leaves, axis)
    problems: list[str] = []
    for tree in forest(state):
        node = dict(apart).get(tree.prefix)
        if node is None:
            continue
        for at in steps.containers(list(tree.leaves), scanned=False):
            found, wrong = steps.of(rules.Stack(f"{at}_{{}}", at, axis or 0), _alone(tree))
            problems += wrong
            apply(state, tree, found, problems)
        clean = {"params": node["params"]}
        state.skeleton = with_node(state.skeleton, tree.prefix, clean)
        state.notes.append(f"{tree.prefix}: was not stacked as its parameters are; it is now")
    for path, item in state.items.items():
        owner = next((p for p, _ in apart if path.startswith(p + "/")), None)
        if (
            owner
            and leaves.get("params/" + path[len(owner) + 1 :], item.leaf).shape != item.leaf.shape
        ):
            problems.append(f"{path}: {item.leaf} does not fit its parameter")
    if problems:
        raise errors.ConvertError("the layers cannot be restacked:\n  " + "\n  ".join(problems))


def _alone(tree: Tree) -> Tree:
    """The tree as if it held parameters, so that it follows nothing."""
    return dataclasses.replace(tree, kind="params", params=tree.leaves)


def _scans(rule: Rule) -> bool:
    return isinstance(rule, rules.Stack | rules.Unstack | rules.MoveAxis)


def _one(state: State, rule: Rule, problems: list[str]) -> None:
    match rule:
        case rules.Drop():
            _drop(state, rule)
        case rules.Collection():
            _collect(state, rule, problems)
        case rules.Listed(where, listed):
            owners = {path.partition("/")[2] for path in state.items}
            for at in {c for owner in owners for c in _numbered_containers(owner)}:
                if where.rest(at) == "":
                    (state.lists if listed else state.named).add(at)
                    (state.named if listed else state.lists).discard(at)
        case rules.Random():
            _random(state, rule, problems)
        case _:
            if isinstance(rule, rules.Layer) and rule.kind in relayouts.KINDS:
                _extra(state, rule, problems)
            one_field = isinstance(rule, rules.Keys) and rule.where.collection is not None
            for tree in (*forest(state), *(alone(state) if one_field else ())):
                if not _meant(rule, tree):
                    continue
                found, wrong = steps.of(rule, tree)
                problems += wrong
                if not wrong:
                    apply(state, tree, found, problems)


def _meant(rule: Rule, tree: Tree) -> bool:
    """Whether a rule is of all collections, or of the tree's own."""
    where = getattr(rule, "where", None)
    return where is None or where.within("params" if tree.kind == "moments" else tree.prefix)


def _numbered_containers(owner: str) -> list[str]:
    segments = owner.split("/")
    return [
        "/".join([*segments[:place], segment.rpartition("_")[0]])
        for place, segment in enumerate(segments)
        if segment.rpartition("_")[2].isdecimal() and segment.rpartition("_")[0]
    ]


def _drop(state: State, rule: rules.Drop) -> None:
    alone = rule.where.collection
    if alone in state.items and not rule.where.path:  # a field that is one array
        item = state.items.pop(alone)
        state.dropped |= dict.fromkeys(item.sources, f"left out: {rule.reason}")
    for tree in forest(state):
        if not _meant(rule, tree):
            continue
        gone = [owner for owner in tree.leaves if rule.where.rest(owner) is not None]
        for owner in gone:
            item = state.items.pop(f"{tree.prefix}/{owner}")
            state.dropped |= dict.fromkeys(item.sources, f"left out: {rule.reason}")
        hidden = [owner for owner in tree.masked if rule.where.rest(owner) is not None]
        if tree.kind == "moments" and hidden:
            left = trees.sort(tree.masked - set(hidden))
            state.skeleton = with_node(state.skeleton, tree.prefix, {"params": left})


def _collect(state: State, rule: rules.Collection, problems: list[str]) -> None:
    owners = [
        path.partition("/")[2]
        for path in state.items
        if path.startswith(f"{rule.source}/")
        and rule.where.rest(path.partition("/")[2]) is not None
    ]
    for tree in forest(state):
        if tree.kind != "moments":
            continue
        kept = set(owners) & tree.leaves.keys()
        if rule.source == "params" and kept:
            problems.append(
                f"{tree.prefix}/{sorted(kept)[0]}: the optimizer trains it: a parameter"
            )
        masked = tree.masked - set(owners) if rule.source == "params" else tree.masked
        if rule.target == "params":
            masked |= set(owners)
        new = {"params": trees.sort(masked)}
        state.skeleton = with_node(state.skeleton, tree.prefix, new)
    for owner in owners:
        path = f"{rule.target}/{owner}"
        if path in state.items:
            problems.append(f"{path}: there already; two leaves would have this path")
        state.items[path] = state.items.pop(f"{rule.source}/{owner}")


def _random(state: State, rule: rules.Random, problems: list[str]) -> None:
    size = 4
    for length in rule.shape:
        size *= length
    if rule.impl not in derive.WORDS:
        problems.append(
            f"random {rule.at}: impl: expected one of {', '.join(derive.WORDS)}, got {rule.impl!r}"
        )
        return
    for name, leaf in (
        ("key", derive.key_leaf(rule.impl, rule.shape)),
        ("count", Leaf(rule.shape, "uint32", size)),
    ):
        path = f"aux/{rule.owner()}/{name}"
        if path in state.items:
            problems.append(f"{path}: there already; two leaves would have this path")
        why = "random state, derived from (seed, path, step)"
        state.items[path] = Item(leaf, (), made=why)


def _extra(state: State, rule: rules.Layer, problems: list[str]) -> None:
    """Linen leaves that NNX has no place for: zero, or the conversion would lose them."""
    for name in relayouts.KINDS[rule.kind].extra:
        for tree in forest(state):
            owner = f"{rule.at}/{name}"
            path = f"{tree.prefix}/{owner}"
            if rule.to == "nnx" and path in state.items:
                item = state.items.pop(path)
                if not isinstance(item.op, ops.Same):
                    problems.append(f"{path}: is put together or cut; convert in two steps")
                state.zeros |= dict.fromkeys(item.sources, f"{rule.kind} at {rule.at}")
                state.dropped |= dict.fromkeys(item.sources, ZERO)
            elif rule.to == "nnx" and owner in tree.masked:
                left = trees.sort(tree.masked - {owner})
                state.skeleton = with_node(state.skeleton, tree.prefix, {"params": left})
            elif rule.to == "linen":  # averages of the parameters have it too
                whole = f"{rule.at}/dense_i/bias"
                if whole in tree.masked:
                    masked = trees.sort({*tree.masked, owner})
                    state.skeleton = with_node(state.skeleton, tree.prefix, {"params": masked})
                elif whole in tree.leaves:
                    leaf = tree.leaves[whole]
                    gates = len(relayouts.KINDS[rule.kind].groups["dense_i/bias"])
                    layers = steps.stacked_on(rule, tree)
                    known = layers[0] if layers else None
                    axis = relayouts.feature_axis(len(leaf.shape), known)
                    size = leaf.shape[axis] // gates
                    shape = (*leaf.shape[:axis], size, *leaf.shape[axis + 1 :])
                    why = f"zeros: NNX's {rule.kind} has no {name}"
                    state.items[path] = Item(leaf.reshaped(shape), (), made=why)


def _completed(rule: Rule, state: State) -> Rule:
    """The rule with the sizes and digits that its inverse needs."""
    if isinstance(rule, rules.Stack):
        return rule.completed(state.params)
    if isinstance(rule, rules.Concat) and rule.sizes is None:
        found = [state.items.get(f"params/{source}") for source in rule.sources]
        shapes = [item.leaf.shape for item in found if item is not None]
        if len(shapes) == len(found) and all(len(shape) > rule.axis for shape in shapes):
            return dataclasses.replace(rule, sizes=tuple(shape[rule.axis] for shape in shapes))
    if isinstance(rule, traced.Leaves):
        paths = {path for entry in rule.entries for path in entry.sources}
        held = {path: state.items[path].leaf.shape for path in sorted(paths) if path in state.items}
        return traced.Leaves(rule.entries, tuple(held.items()))
    return rule
