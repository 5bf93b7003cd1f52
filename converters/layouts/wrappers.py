"""The further key `value`: of NNX variables, and of Linen's boxes for partitioned parameters.

A module, or a parameter, may truly be called `value`, so what is not plain is not guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from maxmig.converters import leaves
from maxmig.converters.layouts.base import Hints
from maxmig.converters.layouts.facts import Facts, is_random
from maxmig.converters.leaves import DiskPath, DiskTree

# Names that parameters have and modules do not.
PARAMETERS = {
    *("kernel", "bias", "scale", "embedding", "mean", "var", "negative_slope"),
    *("wi", "wi_0", "wi_1", "wo", "pos_embedding", "cls", "lora_a", "lora_b"),
    *("cached_key", "cached_value", "cache_index", "recurrent_kernel"),
}


@dataclass
class Bare:
    """A tree without wrappers.

    Attributes:
        keys: each disk path without its wrapper.
        wrapped: the sections in which everything is wrapped.
        boxed: the keys (within their section) of single wrapped parameters.
        notes: what was found.
        problems: what cannot be told.
    """

    keys: dict[DiskPath, DiskPath]
    wrapped: list[str] = field(default_factory=list)
    boxed: set[DiskPath] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def strip(
    tree: DiskTree,
    sections: Mapping[str, DiskPath],
    *,
    boxes: Mapping[str, DiskPath] | None = None,
    known: frozenset[str] | None = None,
    hints: Hints | None = None,
) -> Bare:
    """Takes wrappers off.

    Args:
        tree: the disk tree.
        sections: {name: keys} in which NNX variables may be wrapped, all or none.
        boxes: {name: keys} in which single parameters may be boxed; None: nowhere.
        known: the boxed ones, where they are known: keys within their section, joined with `/`.
        hints: what a person says of some.
    """
    facts = Facts(tree)
    bare = Bare({path: path for path in tree})
    open_sections: dict[str, DiskPath] = {}
    seen: set[DiskPath] = set()
    for name, start in sections.items():
        inside = [p for p in tree if p[: len(start)] == start]
        if start in seen:
            if any(sections[w] == start for w in bare.wrapped):
                bare.wrapped.append(name)
            continue
        seen.add(start)
        if facts.wrapped(start):
            bare.wrapped.append(name)
            spelt = leaves.spell(start) or "the tree"
            bare.notes.append(f"{spelt}: every leaf is wrapped in a 'value'")
            bare.keys |= {p: p[:-1] for p in inside if p[-1] == "value"}
        elif inside:
            open_sections[name] = start
    if boxes is not None:
        for start in boxes.values():
            if not any(sections[name] == start for name in bare.wrapped):
                _unbox(facts, start, known, hints or Hints(), bare)
        _follow(open_sections, tree, boxes.get("params", ()), bare)
    return bare


def _unbox(
    facts: Facts, start: DiskPath, known: frozenset[str] | None, hints: Hints, bare: Bare
) -> None:
    for path in facts.arrays:
        if path[: len(start)] != start or path[-1] != "value" or len(path) < len(start) + 2:
            continue
        if facts.children[path[:-1]] != {"value"}:
            continue
        inner = path[len(start) : -1]
        if leaves.spell(inner) in hints.boxed | hints.unboxed:
            box: bool | None = leaves.spell(inner) in hints.boxed
        elif known is not None:
            box = leaves.spell(inner) in known
        else:
            box = _is_box(facts, path[:-1])
        if box is None:
            bare.problems.append(
                f"{leaves.spell(path)}: is this a boxed parameter {inner[-1]!r}, or a parameter "
                f"'value' of a module {inner[-1]!r}? Nothing tells; say it in a mapping file: "
                f"`boxed: [{leaves.spell(inner)}]` or `unboxed: [{leaves.spell(inner)}]`"
            )
        elif box:
            bare.keys[path] = path[:-1]
            bare.boxed.add(inner)


def _is_box(facts: Facts, node: DiskPath) -> bool | None:
    """Whether {value: array} is a box; None when it might as well be a module."""
    if node[-1] in PARAMETERS or is_random(node):
        return True
    siblings = facts.children[node[:-1]] - {str(node[-1])}
    own = [
        key
        for key in siblings
        if (*node[:-1], key) in facts.tree or facts.children[(*node[:-1], key)] == {"value"}
    ]
    if siblings and len(own) == len(siblings) and set(own) & PARAMETERS:
        return True  # beside parameters only, one of which is surely one
    return None


def _follow(sections: Mapping[str, DiskPath], tree: DiskTree, params: DiskPath, bare: Bare) -> None:
    """What follows a boxed parameter (its moments) is boxed as well.

    The longest end of a path that is a parameter's is meant: `mu/attention/value/kernel` follows
    `attention/value/kernel`, also if there is a `value/kernel`.
    """
    start = sections.get("opt_state")
    if start is None or not bare.boxed:
        return
    size = len(params)
    known = {keys[size:] for keys in bare.keys.values() if keys[:size] == params}
    sizes = sorted({len(keys) for keys in known}, reverse=True)
    for path in tree:
        if path[: len(start)] == start and path[-1] == "value":
            inner = path[:-1]
            ends = (inner[-n:] for n in sizes if n < len(inner))
            owner = next((end for end in ends if end in known), None)
            if owner in bare.boxed:
                bare.keys[path] = inner
