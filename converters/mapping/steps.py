"""What each rule of a mapping does to one tree, as steps on single leaves."""

import math
from functools import singledispatch

from maxmig.converters import ops, stacks
from maxmig.converters.leaves import KEY_WORDS, Leaf
from maxmig.converters.mapping import normed, relayouts, rules, traced
from maxmig.converters.mapping.state import Step, Tree
from maxmig.converters.transfers import Op

Steps = tuple[list[Step], list[str]]
_FOLLOW = (
    "follows a parameter but has another shape (factored statistics?); what is to be done to it is "
    "not known. Convert without this, or --params-only"
)


def layer_axis(tree: Tree, owner: str, axis: int, *, stacked: bool) -> int:
    """Where the layers of one leaf are: parameters and what follows them on `axis`, others on 0."""
    leaf = tree.leaves[owner]
    if tree.kind == "other" and not (stacked and tree.follows(owner)):
        return 0
    return min(axis, len(leaf.shape) - (1 if stacked else 0))


@singledispatch
def of(rule: rules.Rule, tree: Tree) -> Steps:
    """The steps of a rule on one tree, and what is wrong."""
    raise TypeError(rule)


@of.register
def _(rule: rules.Rename, tree: Tree) -> Steps:
    found = []
    for owner in [*tree.leaves, *tree.masked]:
        target = rule.target(owner)
        if target is not None and target != owner:
            found.append(Step((owner,), {target: ops.Same()}, f"rename {rule.where}"))
    return found, []


@of.register
def _(rule: rules.Stack, tree: Tree) -> Steps:
    pattern = rule.members
    groups: dict[str, dict[int, str]] = {}
    depth = 0
    for owner in tree.params:
        if match := pattern.fullmatch(owner):
            depth = max(depth, int(match[1]) + 1)
    for owner in [*tree.leaves, *tree.masked]:
        if match := pattern.fullmatch(owner):
            groups.setdefault(rule.to + match[2], {})[int(match[1])] = owner
    found, problems = [], []
    why = f"stack {rule.at}"
    for target, layers in groups.items():
        missing = [index for index in range(depth or max(layers) + 1) if index not in layers]
        if missing and tree.prefix == "aux":
            continue  # shared between layers: left as it is
        where = f"{tree.prefix}/{target}"
        if missing:
            problems.append(
                f"{where}: layers {missing} of {depth or max(layers) + 1} have no such leaf"
            )
            continue
        sources = tuple(layers[index] for index in range(len(layers)))
        held = [owner for owner in sources if owner in tree.leaves]
        if not held:
            found.append(Step(sources, {target: ops.Same()}, why))
            continue
        kinds = {tree.leaves[owner] for owner in held}
        if len(kinds) > 1:
            problems.append(f"{where}: the layers differ: {', '.join(sorted(map(str, kinds)))}")
        elif tree.kind == "moments" and not tree.follows(held[0]):
            problems.append(f"{tree.prefix}/{held[0]}: {tree.leaves[held[0]]} {_FOLLOW}")
        else:
            same = tree.kind != "other" or tree.follows(held[0])
            at = min(rule.axis, len(tree.leaves[held[0]].shape)) if same else 0
            found.append(Step(sources, {target: ops.Stack(at)}, why))
    return found, problems


@of.register
def _(rule: rules.Unstack, tree: Tree) -> Steps:
    found, problems = [], []
    layers = _layers(tree, rule.at, rule.axis)
    for owner in [*tree.leaves, *tree.masked]:
        rest = rules.Where(rule.at).rest(owner)
        if rest is None:
            continue
        why = f"unstack {rule.at}"
        if owner in tree.masked:
            names: dict[str, Op] = {rule.to.format(i) + rest: ops.Same() for i in range(layers)}
            found.append(Step((owner,), names, why))
            continue
        leaf = tree.leaves[owner]
        if tree.kind == "moments" and not tree.follows(owner):
            problems.append(f"{tree.prefix}/{owner}: {leaf} {_FOLLOW}")
            continue
        at = layer_axis(tree, owner, rule.axis, stacked=True)
        count = leaf.shape[at] if 0 <= at < len(leaf.shape) else -1
        if layers and count != layers:
            if tree.prefix == "aux":
                continue
            problems.append(
                f"{tree.prefix}/{owner}: expected {layers} layers on axis {at}, got {leaf}"
            )
            continue
        names = {rule.to.format(i) + rest: ops.Take(at, i) for i in range(count)}
        found.append(Step((owner,), names, why))
    return found, problems


@of.register
def _(rule: rules.MoveAxis, tree: Tree) -> Steps:
    found = []
    for owner, leaf in tree.leaves.items():
        if rules.Where(rule.at).rest(owner) is None or not tree.follows(owner):
            continue
        last = len(leaf.shape) - 1
        source, target = min(rule.source, last), min(rule.target, last)
        if source != target:
            op = ops.MoveAxis(source, target)
            found.append(Step((owner,), {owner: op}, f"layer axis of {rule.at}"))
    return found, []


@of.register
def _(rule: rules.Concat, tree: Tree) -> Steps:
    present = [s for s in rule.sources if s in tree.leaves or s in tree.masked]
    if not present:
        return [], []
    if len(present) < len(rule.sources):
        lost = sorted(set(rule.sources) - set(present))
        return [], [f"{tree.prefix}/{rule.to}: concat: not there: {', '.join(lost)}"]
    why = f"concat to {rule.to}"
    return [Step(rule.sources, {rule.to: ops.Concat(rule.axis)}, why)], _shapes(tree, rule.sources)


@of.register
def _(rule: rules.Split, tree: Tree) -> Steps:
    if rule.at not in tree.leaves and rule.at not in tree.masked:
        return [], []
    if rule.at in tree.leaves:
        shape = tree.leaves[rule.at].shape
        if rule.axis >= len(shape) or sum(rule.sizes) != shape[rule.axis]:
            if tree.kind == "moments":
                return [], _shapes(tree, (rule.at,))
            told = f"{tree.prefix}/{rule.at}: split: sizes {list(rule.sizes)} do not make up axis"
            return [], [f"{told} {rule.axis} of {tree.leaves[rule.at]}"]
    targets: dict[str, Op] = {}
    begin = 0
    for name, size in zip(rule.to, rule.sizes, strict=True):
        targets[name] = ops.Slice(rule.axis, begin, begin + size)
        begin += size
    return [Step((rule.at,), targets, f"split {rule.at}")], _shapes(tree, (rule.at,))


@of.register
def _(rule: rules.Transpose, tree: Tree) -> Steps:
    found, problems = [], []
    for owner, leaf in tree.leaves.items():
        if rule.where.rest(owner) is None:
            continue
        if len(leaf.shape) != len(rule.axes):
            if tree.kind == "params":
                problems.append(
                    f"{tree.prefix}/{owner}: transpose: expected {len(rule.axes)} axes, got {leaf}"
                )
            continue
        found.append(Step((owner,), {owner: permuted(rule.axes)}, f"transpose {rule.where}"))
        problems += _shapes(tree, (owner,))
    return found, problems


def permuted(axes: tuple[int, ...]) -> Op:
    """A transposition as moves of single axes."""
    op: Op = ops.Same()
    order = list(range(len(axes)))
    for place, axis in enumerate(axes):
        at = order.index(axis)
        if at != place:
            move = ops.MoveAxis(at, place)
            order.insert(place, order.pop(at))
            op = move if isinstance(op, ops.Same) else ops.Then(op, move)
    return op


@of.register
def _(rule: rules.Keys, tree: Tree) -> Steps:
    found = []
    for owner, leaf in tree.leaves.items():
        if rule.where.rest(owner) is None:
            continue
        op: Op = ops.Words() if rule.raw else ops.Keys(rule.impl)
        words = leaf.dtype == "uint32" and leaf.shape[-1:] == (KEY_WORDS[rule.impl],)
        if leaf.impl == rule.impl if rule.raw else words:
            found.append(Step((owner,), {owner: op}, f"{rule.impl} keys"))
    return found, []


@of.register
def _(rule: traced.Leaves, tree: Tree) -> Steps:
    return traced.steps_of(rule, tree)


@of.register
def _(rule: rules.Layer, tree: Tree) -> Steps:
    if rule.kind in normed.KINDS:
        return normed.steps_of(rule, tree)
    kind = relayouts.KINDS[rule.kind]
    found, problems = [], []
    why = f"{rule.kind} at {rule.at}"
    axes = stacked_on(rule, tree)
    if axes is not None and len(axes) != 1:
        return [], [
            f"{tree.prefix}/{rule.at}: {rule.kind}: its layers are stacked, and the shapes do not "
            "tell on which axis; take them apart first (a conversion with --no-scan or an unstack "
            "rule), then convert"
        ]
    layers = axes[0] if axes else None
    for name, parts in kind.groups.items():
        whole = f"{rule.at}/{name}"
        sources = tuple(f"{rule.at}/{part}" for part in parts)
        if rule.to == "nnx":
            present = [s for s in sources if s in tree.leaves or s in tree.masked]
            if len(present) == len(sources):
                op = _joined(tree, sources[0], layers) if len(sources) > 1 else ops.Same()
                if (whole,) != sources:
                    found.append(Step(sources, {whole: op}, why))
                problems += _shapes(tree, sources) if len(sources) > 1 else []
        elif whole in tree.leaves or whole in tree.masked:
            if (whole,) != sources:
                found.append(Step((whole,), _cut(tree, whole, sources, layers), why))
            problems += _shapes(tree, (whole,)) if len(sources) > 1 else []
    return found, problems


def stacked_on(rule: rules.Layer, tree: Tree) -> list[int] | None:
    """On which axes the layers of a stack of such layers can be; None: it needs not be known."""
    kind = relayouts.KINDS[rule.kind]
    inside = rules.Where(rule.at).rest
    stacked = any(len(p.shape) > 2 for name, p in tree.params.items() if inside(name) is not None)
    if not stacked or all(len(parts) == 1 for parts in kind.groups.values()):
        return None
    side = "linen" if rule.to == "nnx" else "nnx"
    return relayouts.stack_axes(rule.kind, side, rule.at, tree.params)


def _joined(tree: Tree, owner: str, layers: int | None) -> Op:
    leaf = tree.leaves.get(owner)
    if leaf is None or not leaf.shape:
        return ops.Same()
    return ops.Concat(relayouts.feature_axis(len(leaf.shape), layers))


def _cut(tree: Tree, whole: str, parts: tuple[str, ...], layers: int | None) -> dict[str, Op]:
    leaf = tree.leaves.get(whole)
    if leaf is None or not leaf.shape or len(parts) == 1:
        return dict.fromkeys(parts, ops.Same())
    axis = relayouts.feature_axis(len(leaf.shape), layers)
    size = leaf.shape[axis] // len(parts)
    return {part: ops.Slice(axis, i * size, (i + 1) * size) for i, part in enumerate(parts)}


def _shapes(tree: Tree, owners: tuple[str, ...]) -> list[str]:
    """What does not have its parameter's shape can be renamed, but not cut or joined."""
    if tree.kind != "moments":
        return []
    odd = [o for o in owners if o in tree.leaves and not tree.follows(o)]
    return [f"{tree.prefix}/{owner}: {tree.leaves[owner]} {_FOLLOW}" for owner in odd]


def _layers(tree: Tree, at: str, axis: int) -> int:
    """How many layers a stack has, as its parameters tell."""
    counts = [
        leaf.shape[min(axis, len(leaf.shape) - 1)]
        for owner, leaf in tree.params.items()
        if leaf.shape and rules.Where(at).rest(owner) is not None
    ]
    return max(set(counts), key=counts.count) if counts else 0


def containers(owners: list[str], *, scanned: bool) -> list[str]:
    """The stacks with known names in some model paths, stacked or listed: `decoder/layers`."""
    found: dict[str, None] = {}
    for owner in owners:
        if scanned:
            place = stacks.scanned(owner)
            if place is not None:
                found["/".join(owner.split("/")[: place + 1])] = None
        elif whole := stacks.unscanned(owner):
            place = stacks.scanned(whole[0])
            assert place is not None
            found["/".join(whole[0].split("/")[: place + 1])] = None
    return list(found)


def size(leaf: Leaf) -> int:
    """How many elements."""
    return math.prod(leaf.shape)
