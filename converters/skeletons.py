"""Optimizer containers, told by structure: a subtree that has the model's paths follows the model.

A *skeleton* keeps what plain paths lose: which container is a tuple, where it has an empty state,
which parameters a mask left out. It is JSON, so that a checkpoint's metadata can hold it:
`{"tuple": [...]}`, `{"dict": {...}}`, `{"params": [masked-out paths]}`, `"array"`, or None. Where
the parameters are stacked and what follows them is not (a known fault of one converter), a node has
`"apart": [paths]` too.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from maxmig import errors, trees
from maxmig.converters import leaves, names, stacks
from maxmig.converters.leaves import DiskPath, Hole

Skeleton = Any
ROOT = "opt_state"


@dataclass(frozen=True)
class Style:
    """How a layout writes optimizer containers.

    Attributes:
        level: param-shaped subtrees sit below a further `params` key.
        lists: tuples are lists; otherwise dicts with the keys "0", "1", ...
        holes: empty states are written as None and empty containers as such; otherwise not at all.
        split: unscanned layers are written as `layers/3`.
        empties: what is empty is written as `{}`, as state dictionaries have it.
        inner: all of this holds for the outermost container alone, and the `params` level for `mu`
            and `nu` in it or in its entries; what is deeper is written as NNX does.
    """

    level: bool
    lists: bool
    holes: bool
    split: bool
    empties: bool = False
    inner: bool = False

    def below(self, skeleton: Skeleton) -> "Callable[[Any, Skeleton], Style]":
        """The style of what is in a container, by its key there."""
        if not self.inner:
            return lambda key, child: self
        native = dataclasses.replace(self, level=False, lists=False, holes=False, inner=False)

        def of(key: Any, child: Skeleton) -> Style:
            if isinstance(skeleton, Mapping) and "tuple" in skeleton:
                return self  # an entry of a chain; it may have moments itself
            moments = key in ("mu", "nu") and isinstance(child, Mapping) and "params" in child
            return dataclasses.replace(self, inner=False) if moments else native

        return of


def read(
    nested: Any, params: frozenset[str], canonical: str = ROOT, *, empties: bool = False
) -> tuple[Skeleton, dict[str, Any]]:
    """The skeleton of a stored optimizer state, and its leaves by canonical path.

    Takes tuples as lists as well as as dicts keyed "0", "1", ..., and param-shaped subtrees with or
    without the `params` level, so one reader serves all layouts.

    Args:
        nested: the stored state as nested dicts and lists; None is an empty state.
        params: the canonical paths of all parameters, without the leading `params/`.
        canonical: the canonical path of this state.
        empties: `{}` stands for whatever is empty, as in a state dictionary.
    """
    if nested is None:
        return None, {}
    if empties and nested == {}:
        return _EMPTIES.get(canonical.rpartition("/")[2]), {}
    if isinstance(nested, list):
        return _children("tuple", enumerate(nested), params, canonical, empties)
    if not isinstance(nested, Mapping):
        return "array", {canonical: nested}
    if found := _param_shaped(nested, params):
        node, held = found
        return node, {f"{canonical}/{name}": leaf for name, leaf in held.items()}
    if nested and all(key.isdigit() for key in nested):
        items = [nested.get(str(i)) for i in range(max(map(int, nested)) + 1)]
        return _children("tuple", enumerate(items), params, canonical, empties)
    return _children("dict", nested.items(), params, canonical, empties)


# What optax has under these names, where it is empty; elsewhere it is an empty state.
_EMPTIES: dict[str, Skeleton] = {"skip_state": {"tuple": []}, "hyperparams_states": {"dict": {}}}


def _children(
    kind: str,
    items: Iterable[tuple[Any, Any]],
    params: frozenset[str],
    canonical: str,
    empties: bool,
) -> tuple[Skeleton, dict[str, Any]]:
    skeletons: dict[Any, Skeleton] = {}
    held: dict[str, Any] = {}
    for key, value in items:
        skeletons[key], found = read(value, params, f"{canonical}/{key}", empties=empties)
        held |= found
    return {kind: list(skeletons.values()) if kind == "tuple" else skeletons}, held


def _param_shaped(
    nested: Mapping[str, Any], params: frozenset[str]
) -> tuple[Skeleton, dict[str, Any]] | None:
    candidates: list[Any] = [nested]
    if set(nested) == {"params"} and isinstance(nested["params"], Mapping):
        candidates.append(nested["params"])
    for subtree in candidates:
        entries = {names.canonical(keys): value for keys, value in leaves.walk(subtree)}
        if entries and params.issuperset(entries):
            held = {k: value for k, value in entries.items() if not isinstance(value, Hole)}
            return {"params": trees.sort(params - set(held))}, held
        whole = {name: (stacks.unscanned(name) or (name, 0))[0] for name in entries}
        if entries and params.issuperset(whole.values()):
            held = {k: value for k, value in entries.items() if not isinstance(value, Hole)}
            masked = trees.sort(params - {whole[name] for name in held})
            return {"params": masked, "apart": trees.sort(held)}, held
    return None


def infer(flat: Iterable[str]) -> Skeleton:
    """The best skeleton that canonical paths alone can tell: empty states at a tuple's end, empty
    containers and masks of whole subtrees are lost.
    """
    flat = list(flat)
    params = params_of(flat)
    state: dict[DiskPath, str] = {
        tuple(path.split("/"))[1:]: path for path in flat if path.startswith(f"{ROOT}/")
    }
    if not state:
        return None
    return read(leaves.nest(state), params)[0]


def params_of(flat: Iterable[str]) -> frozenset[str]:
    """The parameters' paths without the leading `params/`."""
    return frozenset(path.removeprefix("params/") for path in flat if path.startswith("params/"))


def paths(skeleton: Skeleton, params: Iterable[str]) -> set[str]:
    """The canonical paths of all leaves that a skeleton asks for."""
    style = Style(level=False, lists=True, holes=False, split=False)
    written = write(skeleton, (ROOT,), trees.sort(params), style)
    return {value for value in written.values() if isinstance(value, str)}


def moments(skeleton: Skeleton, params: Iterable[str], canonical: str = ROOT) -> dict[str, str]:
    """The leaves of param-shaped subtrees: {canonical path: the parameter that it follows}."""
    match skeleton:
        case {"apart": held}:
            return {f"{canonical}/{name}": name for name in held}
        case {"params": masked}:
            held = set(params) - set(masked)
            return {f"{canonical}/{name}": name for name in trees.sort(held)}
        case {"tuple": items}:
            pairs: Iterable[tuple[Any, Skeleton]] = enumerate(items)
        case {"dict": fields}:
            pairs = fields.items()
        case _:
            return {}
    found: dict[str, str] = {}
    for key, child in pairs:
        found |= moments(child, params, f"{canonical}/{key}")
    return found


def write(
    skeleton: Skeleton,
    path: DiskPath,
    params: Iterable[str],
    style: Style,
    canonical: str = ROOT,
    lists: Collection[str] | None = None,
    boxed: Collection[str] = (),
) -> dict[DiskPath, str | Hole]:
    """Where a layout writes a skeleton's leaves and holes: {disk path: canonical path or hole}.

    The inverse of `read` for a layout's own style. `lists` are the containers that are written as
    `blocks/0`; None: as the style says. `boxed` are the parameters that sit under `value`.
    """
    match skeleton:
        case None:
            return _empty(path, Hole.NONE, style)
        case "array":
            return {path: canonical}
        case {"apart": held}:
            return _write_params(frozenset(), path, held, style, canonical, lists, boxed)
        case {"params": masked}:
            return _write_params(frozenset(masked), path, params, style, canonical, lists, boxed)
        case {"tuple": items}:
            pairs = [(index if style.lists else str(index), s) for index, s in enumerate(items)]
            empty = Hole.EMPTY_LIST
        case {"dict": fields}:
            pairs = list(fields.items())
            empty = Hole.EMPTY_DICT
        case _:
            raise errors.ConvertError(
                f"{canonical}: expected an optimizer skeleton (tuple, dict, params, 'array' or "
                f"null), got {skeleton!r}; the metadata of the checkpoint are damaged"
            )
    if not pairs:
        return _empty(path, empty, style)
    found: dict[DiskPath, str | Hole] = {}
    below = style.below(skeleton)
    for key, child in pairs:
        at, name = (*path, key), f"{canonical}/{key}"
        held = write(child, at, params, below(key, child), name, lists, boxed)
        found |= held or ({at: Hole.NONE} if isinstance(key, int) else {})  # a list has no gaps
    return found


def _empty(path: DiskPath, hole: Hole, style: Style) -> dict[DiskPath, str | Hole]:
    if style.empties:
        return {path: Hole.EMPTY_DICT}
    return {path: hole} if style.holes else {}


def _write_params(
    masked: frozenset[str],
    path: DiskPath,
    params: Iterable[str],
    style: Style,
    canonical: str,
    lists: Collection[str] | None,
    boxed: Collection[str],
) -> dict[DiskPath, str | Hole]:
    start: DiskPath = (*path, "params") if style.level and not style.inner else path
    hole = Hole.EMPTY_DICT if style.empties else Hole.NONE
    if lists is None and not style.split:
        lists = ()
    found: dict[DiskPath, str | Hole] = {}
    for name in params:
        at = (*start, *names.keys(name, lists), *(("value",) if name in boxed else ()))
        found[at] = hole if name in masked else f"{canonical}/{name}"
    return found


def traced(skeleton: Skeleton) -> Skeleton:
    """What is left of a skeleton where empty states are not written and no metadata remember them:
    those at a tuple's end, empty containers, and subtrees that a mask left out whole.
    """
    match skeleton:
        case {"tuple": items}:
            kept = [traced(item) for item in items]
            while kept and kept[-1] is None:
                kept.pop()
            return {"tuple": kept} if kept else None
        case {"dict": fields}:
            held = {key: traced(item) for key, item in fields.items()}
            held = {key: item for key, item in held.items() if item is not None}
            return {"dict": held} if held else None
    return skeleton


def map_masks(skeleton: Skeleton, rename: Callable[[list[str]], list[str]]) -> Skeleton:
    """The skeleton with the masked-out paths of each param-shaped subtree renamed."""
    match skeleton:
        case {"params": masked}:
            return {"params": rename(masked)}
        case {"tuple": items}:
            return {"tuple": [map_masks(item, rename) for item in items]}
        case {"dict": fields}:
            return {"dict": {key: map_masks(item, rename) for key, item in fields.items()}}
    return skeleton
