"""A training state on its way from one layout to another: what each leaf is now made of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from maxmig import errors, trees
from maxmig.converters import ops, skeletons
from maxmig.converters.leaves import Leaf
from maxmig.converters.transfers import Op


@dataclass(frozen=True)
class Item:
    """One canonical leaf: its shape and type now, and how it comes from leaves of the source.

    Attributes:
        leaf: shape and type.
        sources: canonical paths in the source; none for a leaf that is made.
        op: how it is made of them.
        why: the rules that had a hand in it, in order.
        made: the origin of a leaf without a source.
    """

    leaf: Leaf
    sources: tuple[str, ...]
    op: Op = field(default_factory=ops.Same)
    why: tuple[str, ...] = ()
    made: str | None = None


@dataclass
class State:
    """All leaves by canonical path, the optimizer's containers, and what was left out.

    Attributes:
        items: what there is now.
        skeleton: the optimizer's containers.
        dropped: {canonical path in the source: why it is left out}.
        zeros: leaves of the source that may only be left out if they are zero.
        lists: containers that an NNX tree writes as lists.
        named: containers that it does not, as a user says.
        boxed: leaves of the source that were boxed parameters once, and are to be such again.
        notes: what a reader should know.
    """

    items: dict[str, Item]
    skeleton: skeletons.Skeleton
    dropped: dict[str, str] = field(default_factory=dict)
    zeros: dict[str, str] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    boxed: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def params(self) -> frozenset[str]:
        """The parameters' model paths."""
        return skeletons.params_of(self.items)

    def leaves(self) -> dict[str, Leaf]:
        """Shapes and types by canonical path."""
        return {path: item.leaf for path, item in self.items.items()}


def start(leaves: Mapping[str, Leaf], skeleton: skeletons.Skeleton) -> State:
    """The state of the source itself."""
    return State({path: Item(leaf, (path,)) for path, leaf in leaves.items()}, skeleton)


@dataclass
class Tree:
    """One set of leaves with model paths: the parameters, a collection, or what follows them.

    Attributes:
        prefix: where it is: `params`, `batch_stats`, `opt_state/0/mu`.
        kind: `params`, `moments` or `other`.
        leaves: {model path: shape and type}.
        masked: model paths that have no leaf here (only `moments`).
        params: shapes and types of the parameters by model path.
    """

    prefix: str
    kind: str
    leaves: dict[str, Leaf]
    masked: frozenset[str]
    params: Mapping[str, Leaf]

    def follows(self, owner: str) -> bool:
        """Whether a leaf has its parameter's shape, layer axis and all."""
        if self.kind == "params":
            return True
        parameter = self.params.get(owner)
        return parameter is not None and parameter.shape == self.leaves[owner].shape

    def path(self, owner: str) -> str:
        """The canonical path of a leaf; a field of one array has no path in it."""
        return f"{self.prefix}/{owner}" if owner else self.prefix


def forest(state: State) -> list[Tree]:
    """All trees of a state; the parameters come first."""
    params = {
        path.partition("/")[2]: item.leaf
        for path, item in state.items.items()
        if path.startswith("params/")
    }
    found = [Tree("params", "params", params, frozenset(), params)]
    others: dict[str, dict[str, Leaf]] = {}
    for path, item in state.items.items():
        section, slash, owner = path.partition("/")
        if slash and section not in ("params", skeletons.ROOT):
            others.setdefault(section, {})[owner] = item.leaf
    found += [Tree(name, "other", held, frozenset(), params) for name, held in others.items()]
    for prefix, node in nodes(state.skeleton):
        masked = frozenset(node["params"])
        names = node.get("apart") or [name for name in params if name not in masked]
        held = {name: state.items[f"{prefix}/{name}"].leaf for name in names}
        found.append(Tree(prefix, "moments", held, masked, params))
    return found


def alone(state: State) -> list[Tree]:
    """The leaves that are in no tree: fields of one array, and what the optimizer keeps beside
    what follows the parameters.
    """
    held = {tree.path(owner) for tree in forest(state) for owner in tree.leaves}
    rest: dict[str, dict[str, Leaf]] = {}
    for path, item in state.items.items():
        if path not in held:
            section, _, owner = path.partition("/")
            rest.setdefault(section, {})[owner] = item.leaf
    return [Tree(name, "other", found, frozenset(), {}) for name, found in rest.items()]


def nodes(
    skeleton: skeletons.Skeleton, canonical: str = skeletons.ROOT
) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """The param-shaped subtrees of an optimizer's state: (canonical path, node)."""
    match skeleton:
        case {"params": _}:
            yield canonical, skeleton
        case {"tuple": items}:
            for index, item in enumerate(items):
                yield from nodes(item, f"{canonical}/{index}")
        case {"dict": fields}:
            for key, item in fields.items():
                yield from nodes(item, f"{canonical}/{key}")


@dataclass(frozen=True)
class Step:
    """Some leaves of one tree become others.

    Attributes:
        sources: their model paths before.
        targets: {model path after: how it is made of all sources}.
        why: the rule, for people.
    """

    sources: tuple[str, ...]
    targets: Mapping[str, Op]
    why: str


def apply(state: State, tree: Tree, steps: list[Step], problems: list[str]) -> None:
    """Carries out steps on one tree of a state, masked leaves included."""
    taken: dict[str, Item] = {}
    made: dict[str, Item] = {}
    unmasked: set[str] = set()
    masks: set[str] = set()
    for step in steps:
        hidden = [owner for owner in step.sources if owner in tree.masked]
        if hidden and len(hidden) == len(step.sources):
            unmasked |= set(hidden)
            masks |= set(step.targets)
            continue
        if hidden:
            problems.append(
                f"{tree.prefix}/{hidden[0]}: has no state here, but {step.sources[0]} and others "
                f"have; they cannot become one leaf ({step.why})"
            )
            continue
        items = [state.items[tree.path(owner)] for owner in step.sources]
        taken |= {tree.path(o): i for o, i in zip(step.sources, items, strict=True)}
        for target, op in step.targets.items():
            path = tree.path(target)
            if path in made:
                problems.append(f"{path}: two leaves would have this path ({step.why})")
                continue
            try:
                made[path] = _made(items, op, step.why)
            except errors.ConvertError as error:
                problems.append(f"{path}: {error}")
    for path in taken:
        del state.items[path]
    for path, item in made.items():
        if path in state.items:
            problems.append(f"{path}: there already; two leaves would have this path")
        state.items[path] = item
    if tree.kind == "moments" and (unmasked or masks):
        new = trees.sort((tree.masked - unmasked) | masks)
        state.skeleton = with_node(state.skeleton, tree.prefix, {"params": new})


def _made(items: list[Item], op: Op, why: str) -> Item:
    leaf = op.result([item.leaf for item in items])
    told = tuple(dict.fromkeys([*(text for item in items for text in item.why), why]))
    if len(items) == 1:
        (item,) = items
        if item.made is not None and not isinstance(op, ops.Same | ops.Words):
            raise errors.ConvertError(f"it is made, not stored; nothing can be done to it ({why})")
        before, after = item.op, op
        if isinstance(after, ops.Same):
            after = before
        elif not isinstance(before, ops.Same):
            after = ops.Then(before, after)
        return Item(leaf, item.sources, after, told, item.made)
    if any(item.made for item in items):
        raise errors.ConvertError(f"a part of it is made, not stored; leave that out ({why})")
    sources = tuple(source for item in items for source in item.sources)
    if any(not isinstance(item.op, ops.Same) for item in items):
        counts = tuple(len(item.sources) for item in items)
        op = ops.Join(tuple(item.op for item in items), counts, op)
    return Item(leaf, sources, op, told)


def with_node(skeleton: skeletons.Skeleton, at: str, node: skeletons.Skeleton) -> object:
    """The skeleton with another node at a canonical path."""
    keys = at.split("/")[1:]
    if not keys:
        return node

    def put(inner: skeletons.Skeleton, rest: list[str]) -> skeletons.Skeleton:
        if not rest:
            return node
        match inner:
            case {"tuple": items}:
                place = int(rest[0])
                return {
                    "tuple": [put(v, rest[1:]) if i == place else v for i, v in enumerate(items)]
                }
            case {"dict": fields}:
                # A key may hold slashes of its own; the longest that fits is meant.
                for size in range(len(rest), 0, -1):
                    name = "/".join(rest[:size])
                    if name in fields:
                        return {"dict": fields | {name: put(fields[name], rest[size:])}}
        raise errors.ConvertError(f"{at}: not in the optimizer's skeleton")

    return put(skeleton, keys)
