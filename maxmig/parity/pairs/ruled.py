"""Mapping files with rules, as `ckpt convert --map` takes them, carried out on a pair's leaves."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters import disk, names, ops
from maxmig.converters.mapping import carry, files, rules, state
from maxmig.converters.mapping.files import Document
from maxmig.converters.mapping.state import Item
from maxmig.converters.transfers import Op
from maxmig.parity.pairs import mapping as tables
from maxmig.parity.pairs.mapping import Entry

_TABLE = {"schema_version", "kind", "leaves", "dropped"}  # what `--save-mapping` writes


def given(value: Any, sources: Mapping[str, Any], targets: Mapping[str, Any]) -> tables.Mapping:
    """The mapping that a user gave, held against the leaves of both sides.

    Args:
        value: a file, of leaves or of rules; a dict NNX leaf -> Linen leaf; or a mapping.
        sources, targets: the leaves of both sides, with shapes.

    Raises:
        ConfigError: it is nothing of the kind, or a rule cannot be carried out.
        DataError: the file cannot be read, or a leaf is not there or does not fit.
    """
    is_file = isinstance(value, str | Path)
    where = str(value) if is_file else "the mapping that was given"
    if not is_file or not _has_rules(Path(value)):
        return tables.check(tables.of(value), sources, targets, where)
    found = _carried(files.read(value), sources, targets, where)
    return tables.check(found, sources, targets, where)


def _has_rules(path: Path) -> bool:
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError):
        return False  # the reader of tables says what is wrong
    return isinstance(found, dict) and bool(found.keys() & {"rules", "maxmig_map"})


def _carried(
    document: Document, sources: Mapping[str, Any], targets: Mapping[str, Any], where: str
) -> tables.Mapping:
    """What the rules make of the Linen leaves, by the names that the NNX side has for them."""
    ours, theirs = _canonical(sources), _canonical(targets)
    begun = state.start({path: disk.describe(sources[p]) for path, p in ours.items()}, None)
    meant = [i for i, rule in enumerate(document.rules) if _of_modules(rule, begun)]
    told = [document.places[i] for i in meant]
    carry.out(begun, [document.rules[i] for i in meant], strict=True, told=told)
    entries = []
    for path, item in begun.items.items():
        if path in theirs or item.sources != (path,):
            known = [ours[source] for source in item.sources]
            rank = len(sources[known[0]].shape) if known else 0
            entry = _entry(theirs.get(path, path), item, rank, where)
            entries += [dataclasses.replace(entry, sources=tuple(known))] if known else []
    gone = {ours[path]: why.removeprefix("left out: ") for path, why in begun.dropped.items()}
    return tables.Mapping(tuple(entries), gone)


def _canonical(leaves: Mapping[str, Any]) -> dict[str, str]:
    """{canonical path: path}: a member of a list has a numbered name in rules."""
    found = {}
    for path in leaves:
        section, _, rest = path.partition("/")
        found[f"{section}/{names.canonical(tuple(rest.split('/')))}"] = path
    return found


def _of_modules(rule: rules.Rule, begun: state.State) -> bool:
    """Whether a rule is of what modules hold; a checkpoint has a state and random keys besides.

    Which containers are lists the NNX module itself tells.
    """
    if isinstance(rule, rules.Random | rules.Keys | rules.Listed):
        return False
    told = getattr(getattr(rule, "where", None), "collection", None)
    return told is None or any(path.startswith(f"{told}/") for path in begun.items)


def _entry(target: str, item: Item, rank: int, where: str) -> Entry:
    match item.op:
        case ops.Stack(axis) | ops.Concat(axis):
            op = "stack" if isinstance(item.op, ops.Stack) else "concat"
            return Entry(target, item.sources, op, axis)
        case ops.Take(axis, index):
            return Entry(target, item.sources, "take", axis, index)
        case ops.Slice(axis, start, stop):
            return Entry(target, item.sources, "slice", axis, start, stop)
        case ops.Reshape(shape):
            return Entry(target, item.sources, "reshape", shape=shape)
    axes = list(range(rank))
    for move in _moves(item.op):
        if move is None:
            raise errors.DataError(
                f"{where}: {target}: the rules do several things to this leaf "
                f"({', then '.join(item.why)}); parity follows one operation a leaf: leave "
                "--mapping out, which has the mapping traced, or let one of the modules have it so"
            )
        axes.insert(move.target, axes.pop(move.source))
    if axes == sorted(axes):
        return Entry(target, item.sources)
    return Entry(target, item.sources, "transpose", axes=tuple(axes))


def _moves(op: Op) -> Iterator[ops.MoveAxis | None]:
    """The moves of single axes that an operation consists of; None where it does more."""
    match op:
        case ops.Same():
            return
        case ops.MoveAxis():
            yield op
        case ops.Then(first, second):
            yield from _moves(first)
            yield from _moves(second)
        case _:
            yield None
