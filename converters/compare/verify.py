"""Proves that a checkpoint holds another one, array by array, through the conversion between them.

Every array of the result is held against what its transfer makes of the source: moved, stacked,
taken apart or cast. The source is read again, so nothing is taken on trust.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from maxmig import errors, trees
from maxmig.converters import transfers
from maxmig.converters.compare import gaps, pairs, record, replan, views
from maxmig.converters.compare.verdicts import Line, Proof, Tolerance
from maxmig.converters.compare.views import Reader, View
from maxmig.converters.leaves import STRING, DiskPath, Hole, Leaf, spell
from maxmig.converters.storage import files, orbax, orbax_tree
from maxmig.converters.storage.base import Storage
from maxmig.converters.transfers import Conversion, Made

if TYPE_CHECKING:
    from maxmig.converters.checkpoint import Checkpoint
    from maxmig.converters.mapping.files import Document

Mode = Literal["full", "sample", "none"]
SAMPLE = 3  # boxes of each array that are looked at in a sample


def conversion(
    planned: Conversion,
    result: Storage,
    *,
    mode: Mode = "full",
    sampled: Collection[DiskPath] = (),
    max_memory: int = views.BUDGET,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Proof:
    """Holds a result against the conversion that should have made it.

    Args:
        planned: the conversion; its source is read again.
        result: what was written.
        mode: `full` compares every bit, `sample` the first, last and middle boxes of each array,
            `none` only names, shapes and types.
        sampled: arrays of which a sample is enough, because they share the source's bytes.
        max_memory: bytes; a few chunks of each side are needed in any case.
        progress: called with the bytes that were read.
    """
    if planned.container == "safetensors":
        planned = _flat(planned)
    lines = list(_structure({**planned.leaves, **planned.holes}, result.tree()))
    wrong = {line.path for line in lines}
    if mode != "none":
        lines += _values(planned, result, mode, sampled, max_memory // 4, progress, wrong)
        lines += [
            _made(item, result)
            for item in planned.made
            if spell(item.target) not in wrong and mode == "full"
        ]
        lines += _strings(planned, result, wrong)
    lines.sort(key=lambda line: trees.natural_key(line.path))
    return Proof(tuple(lines), notes=tuple(planned.notes), values=mode != "none")


def checkpoints(
    result: "Checkpoint",
    source: "Checkpoint",
    *,
    mode: Mode = "full",
    document: "Document | None" = None,
    cast: bool = False,
    max_memory: int = views.BUDGET,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> tuple[Proof, str]:
    """Proves that a checkpoint holds another one, and tells how.

    The conversion that the result's metadata record is planned once more from the source. Where
    none is recorded, the leaves are compared by their canonical paths. A mapping file takes the
    place of what is recorded.

    Args:
        result: the checkpoint that should hold the other.
        source: the other.
        mode: see `conversion`.
        document: how the result was made.
        cast: where no conversion is recorded, a leaf of another type is held against the source's,
            cast to that type; without it another type is a difference.
        max_memory: bytes; a few chunks of each side are needed in any case.
        progress: called with the bytes that were read.

    Returns:
        The report, and what the proof rests on: `recorded conversion`, `mapping file` or
        `canonical paths`.

    Raises:
        ConvertError: the recorded conversion cannot be planned from this source.
    """
    from maxmig.converters.compare import diff, random_state

    shared = _unseen(result.storage, source.storage) if mode != "none" else ()
    trained = (result.own.get("converted_from") or {}).get("trained")
    options = {} if trained else replan.recorded(result, source)  # a run's tree is its own
    if document is not None:
        held = getattr(result.storage, "container", "orbax")
        container = "safetensors" if held == "file" else held
        options = {"to": result.layout.name, "map_file": document, "container": container}
    if options:
        planned = replan.planned(source, options).conversion
        report = conversion(
            planned, result.storage, mode=mode, max_memory=max_memory, progress=progress
        )
        notes = (*report.notes, *_left_out(planned, source), *shared)
        if cast:
            notes += ("--cast says nothing here: what is cast is told by the conversion",)
        basis = "recorded conversion" if document is None else "mapping file"
        return dataclasses.replace(report, notes=notes), basis
    found = diff.diff(source, result, cast=cast, max_memory=max_memory, progress=progress)
    lines, told = random_state.explained(found.lines, result)
    told += _undeclared(lines, source, result) if not cast else ()
    return Proof(lines, notes=(*found.notes, *told, *shared)), "canonical paths"


def _flat(planned: Conversion) -> Conversion:
    """The conversion with the names that its leaves have in a safetensors file."""

    def flat(path: DiskPath) -> DiskPath:
        return (orbax_tree.name_of(path),)

    return dataclasses.replace(
        planned,
        transfers=tuple(dataclasses.replace(t, target=flat(t.target)) for t in planned.transfers),
        made=tuple(dataclasses.replace(item, target=flat(item.target)) for item in planned.made),
        holes={flat(path): hole for path, hole in planned.holes.items()},
    )


def _undeclared(
    lines: tuple[Line, ...], source: "Checkpoint", result: "Checkpoint"
) -> tuple[str, ...]:
    """Says how to declare a cast, if some leaves have another type."""
    bad = [line.path for line in lines if line.sign == "*"]
    both = [path for path in bad if path in source.leaves and path in result.leaves]
    other = [path for path in both if source.leaves[path].dtype != result.leaves[path].dtype]
    if not other:
        return ()
    return (
        f"{len(other):,} leaves, such as {other[0]}, have another type, and no conversion from "
        f"layout {source.layout.name!r} is recorded that says so; if a cast was meant, say --cast: "
        "then every number must be exactly the cast one",
    )


def _unseen(result: Storage, source: Storage) -> tuple[str, ...]:
    """Says where damage would not be seen: one file is on both sides, and nothing is recorded."""
    unknown = min((record.missing(side) for side in (result, source)), key=len)
    if not unknown or not _share(result, source):
        return ()
    return (
        f"of {len(unknown):,} arrays, such as {unknown[0]}, no checksums are recorded, and the two "
        "sides share files: damage to such a file would not be seen here (`maxmig ckpt verify DST "
        "--record`, while it is known to be good)",
    )


def _share(result: Storage, source: Storage) -> bool:
    roots = [orbax.local(side) for side in (result, source)]
    held: list[set[tuple[int, int]]] = []
    for root in roots:
        entries = files.walk(root, "") if root is not None else ()
        stats = (Path(entry.path).stat() for _, entry in entries)
        held.append({(told.st_dev, told.st_ino) for told in stats if told.st_nlink > 1})
    return bool(held[0] & held[1])


def _left_out(planned: Conversion, source: "Checkpoint") -> Iterator[str]:
    """What the recorded conversion says of leaves of the source that it does not take."""
    taken = {path for transfer in planned.transfers for path in transfer.sources}
    fates = {entry.path: entry.what for entry in planned.accounting.fates}
    found: dict[str, list[str]] = {}
    for path, at in source.places.items():
        text = source.leaves[path].dtype == STRING and fates.get(path, "").startswith("kept")
        if at not in taken and not text:
            found.setdefault(fates.get(path, "left out"), []).append(path)
    for what, paths in found.items():
        yield f"{len(paths):,} leaves of the source, such as {paths[0]}: {what}"


def _structure(
    planned: Mapping[DiskPath, Leaf | Hole], found: Mapping[DiskPath, Leaf | Hole]
) -> Iterator[Line]:
    """What is missing, of another kind, or there without having been planned."""
    for path, leaf in planned.items():
        there = found.get(path)
        if there is None:
            yield Line("-", spell(path), f"{_told(leaf)} is missing in the result")
        elif there != leaf:
            yield Line("*", spell(path), f"expected {_told(leaf)}, got {_told(there)}")
    for path, there in found.items():
        if path not in planned:
            yield Line("+", spell(path), f"{_told(there)} has no source")


def _told(leaf: Leaf | Hole) -> str:
    return leaf.value if isinstance(leaf, Hole) else str(leaf)


def _values(
    planned: Conversion,
    result: Storage,
    mode: Mode,
    sampled: Collection[DiskPath],
    budget: int,
    progress: Callable[[int], None],
    wrong: Collection[str],
) -> Iterator[Line]:
    left, right = (
        Reader(record.checked(each), budget, progress) for each in (planned.storage, result)
    )
    whole: list[pairs.Pair] = []
    some: list[pairs.Pair] = []
    casts = {}
    for transfer in planned.transfers:
        name = spell(transfer.target)
        if name in wrong:
            continue
        pair = pairs.Pair(name, View.of(transfer, left), View.stored(transfer.target, right))
        (some if mode == "sample" or transfer.target in sampled else whole).append(pair)
        if transfer.cast:
            casts[name] = f"{left.leaf(transfer.sources[0]).dtype} -> {transfer.leaf.dtype}"
    for todo, sample in ((whole, None), (some, SAMPLE)):
        for line in pairs.compare(todo, limit=budget, sample=sample):
            if line.sign == "=" and line.path in casts:
                told = f"the exact cast {casts[line.path]}"
                detail = f"{told}; {line.detail}" if line.detail else told
                yield Line("~", line.path, detail, elements=line.elements)
            else:
                yield line


def _strings(planned: Conversion, result: Storage, wrong: Collection[str]) -> Iterator[Line]:
    for path, text in planned.strings.items():
        if (name := spell(path)) not in wrong:
            same = result.strings[path] == text
            told = "" if same else f"expected {text!r}, got {result.strings[path]!r}"
            yield Line("=" if same else "*", name, told)


def _made(item: Made, result: Storage) -> Line:
    """An array without a source is made once more."""
    import numpy as np

    name = spell(item.target)
    try:
        found = record.checked(result).read(item.target, transfers.whole(item.leaf))
    except errors.CheckpointError as error:
        return Line("!", name, str(error).replace("\n", " "))
    made = np.asarray(item.make()).reshape(found.shape).astype(found.dtype, copy=False)
    line = gaps.gap(made, found, Tolerance()).line(name, Tolerance())
    if line.sign == "=":
        return Line("=", name, item.why, elements=math.prod(item.leaf.shape))
    return line
