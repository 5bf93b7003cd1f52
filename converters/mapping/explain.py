"""Why a leaf goes where it goes."""

import difflib
import itertools
from dataclasses import dataclass

from maxmig import errors, trees
from maxmig.converters import leaves, ops, skeletons
from maxmig.converters.leaves import DiskPath, Leaf
from maxmig.converters.mapping.plan import Planned
from maxmig.converters.mapping.state import Item, nodes


@dataclass(frozen=True)
class Told:
    """What there is to say of one leaf.

    Attributes:
        leaf: its path in the source's tree.
        stored: its shape and type.
        canonical: its canonical path, the same in all layouts.
        facts: why it is that, in words.
        targets: {path in the result: how it comes about}; empty when it is left out.
        fate: what becomes of it.
    """

    leaf: str
    stored: str
    canonical: str
    facts: tuple[str, ...]
    targets: dict[str, str]
    fate: str


def explain(planned: Planned, path: str) -> Told:
    """What becomes of one leaf.

    Args:
        planned: a conversion.
        path: the leaf: its path on disk, its canonical path, or a parameter's path in the model.

    Raises:
        ConfigError: there is no such leaf; names that are like it are told.
    """
    source = planned.source
    name = _find(planned, path)
    at = source.places[name]
    stored = source.tree[at]
    assert isinstance(stored, Leaf)
    targets: dict[str, str] = {}
    rules: list[str] = []
    for place, canonical in planned.written.items():
        item = planned.state.items[canonical] if isinstance(canonical, str) else None
        if item is not None and name in item.sources:
            targets[leaves.spell(place)] = how(item, name)
            rules += item.why
    fate = next(e.what for e in planned.conversion.accounting.fates if e.path == name)
    facts = [
        f"layout {source.layout.name}: {'; '.join(source.why)}",
        *_spelling(planned, name, at),
        *_follows(planned, name),
        *(f"rule: {rule}" for rule in dict.fromkeys(rules)),
        *_lists(planned, name),
    ]
    if targets:
        facts.append(f"layout {planned.target.name}: {planned.target.title}")
    return Told(leaves.spell(at), str(stored), name, tuple(facts), targets, fate)


def _lists(planned: Planned, name: str) -> list[str]:
    """What is written as a place in a list, and was a name of its own."""
    found = []
    for place, canonical in planned.written.items():
        item = planned.state.items[canonical] if isinstance(canonical, str) else None
        if item is None or name not in item.sources:
            continue
        before = set(map(str, planned.source.places[name]))
        for container, number in itertools.pairwise(map(str, place)):
            if number.isdecimal() and f"{container}_{number}" in before:
                found.append(
                    f"rule: list {container}: {container}_{number} is number {number} of the list "
                    f"{container} (a mapping file without this rule, or `- unlist: {container}`, "
                    "keeps the name)"
                )
    return list(dict.fromkeys(found))


def how(item: Item, name: str | None = None) -> str:
    """How a leaf of the result comes about, in words."""
    if item.made is not None:
        return item.made
    cast = "".join(f", {why}" for why in item.why if why.startswith("cast "))
    match item.op:
        case ops.Same():
            return f"as it is{cast}"
        case ops.Stack(axis):
            place = f" as number {item.sources.index(name)}" if name in item.sources else ""
            return f"stacked with {len(item.sources) - 1} others on axis {axis}{place}{cast}"
        case ops.Take(axis, index):
            return f"number {index} on axis {axis}{cast}"
        case ops.MoveAxis(a, b):
            return f"axis {a} moved to {b}{cast}"
        case ops.Concat(axis):
            return f"joined with {len(item.sources) - 1} others along axis {axis}{cast}"
        case ops.Slice(axis, begin, end):
            return f"places {begin} to {end} of axis {axis}{cast}"
        case ops.Words():
            return "the words of random keys, for a container that has no type for them"
        case ops.Keys(impl):
            return f"random keys of kind {impl}, made of their words"
    return f"{item.op}{cast}"


def listing(planned: Planned) -> list[tuple[str, str, str]]:
    """Every leaf of the result: (path in the result, paths in the source, how)."""
    found = []
    for place, canonical in planned.written.items():
        if not isinstance(canonical, str):
            found.append((leaves.spell(place), "", f"a hole: {canonical.value}"))
            continue
        item = planned.state.items[canonical]
        sources = [leaves.spell(planned.source.places[name]) for name in item.sources]
        told = sources[0] if sources else "-"
        if len(sources) > 1:
            told += f" and {len(sources) - 1} more"
        found.append((leaves.spell(place), told, how(item)))
    return sorted(found, key=lambda row: trees.natural_key(row[0]))


def _find(planned: Planned, path: str) -> str:
    source = planned.source
    wanted = path.strip("/")
    by_disk = {leaves.spell(at): name for name, at in source.places.items()}
    for name in (wanted, f"params/{wanted}"):
        if name in source.places:
            return name
    if wanted in by_disk:
        return by_disk[wanted]
    known = [*by_disk, *source.places]
    near = difflib.get_close_matches(wanted, known, 5, 0.5)
    near += [name for name in known if wanted and wanted in name][:5]
    told = ", ".join(dict.fromkeys(near)) or "none"
    raise errors.ConfigError(
        f"{source.place}: expected the path of a leaf, got {path!r}; like it are: {told}"
    )


def _spelling(planned: Planned, name: str, at: DiskPath) -> list[str]:
    form = planned.source.form
    section, _, owner = name.partition("/")
    found = []
    if at[-1] == "value" and form.wrapped:
        found.append("'value' is the wrapper of every NNX variable here, no part of the name")
    elif at[-1] == "value" and owner in form.boxed:
        found.append("'value' is the box of a partitioned Linen parameter, no part of the name")
    if section == "aux":
        found.append("random state, told by its type or by its place below rngs")
    elif section in planned.conversion.metadata["maxmig"]["form"].get("beside", ()):
        found.append("no part of the model: a field of the training state, kept beside it")
    elif section not in ("params", "aux", "step", skeletons.ROOT):
        found.append(f"of the collection {section!r}")
    elif name == "step":
        found.append("the step counter")
    return found


def _follows(planned: Planned, name: str) -> list[str]:
    if not name.startswith(f"{skeletons.ROOT}/"):
        return []
    for prefix, _ in nodes(planned.source.skeleton):
        if name.startswith(prefix + "/"):
            owner = name[len(prefix) + 1 :]
            return [f"{prefix} has the model's paths: it follows the parameter {owner}"]
    return ["a single array of the optimizer: it follows no parameter"]
