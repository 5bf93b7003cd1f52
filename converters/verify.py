"""Proves that a checkpoint holds another one, array by array, through the conversion between them.

Every array of the result is held against what its transfer makes of the source: moved, stacked,
taken apart or cast. The source is read again, so nothing is taken on trust.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from maxmig import errors, trees
from maxmig.converters import gaps, pairs, transfers, views
from maxmig.converters.leaves import DiskPath, Hole, Leaf, spell
from maxmig.converters.storage.base import Storage
from maxmig.converters.transfers import Conversion, Made
from maxmig.converters.verdicts import Line, Proof, Tolerance
from maxmig.converters.views import Reader, View

if TYPE_CHECKING:
    from maxmig.converters.checkpoint import Checkpoint

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
    lines = list(_structure({**planned.leaves, **planned.holes}, result.tree()))
    wrong = {line.path for line in lines}
    if mode != "none":
        lines += _values(planned, result, mode, sampled, max_memory // 4, progress, wrong)
        lines += [
            _made(item, result)
            for item in planned.made
            if spell(item.target) not in wrong and mode == "full"
        ]
    lines.sort(key=lambda line: trees.natural_key(line.path))
    return Proof(tuple(lines), notes=tuple(planned.notes), values=mode != "none")


def checkpoints(
    result: "Checkpoint",
    source: "Checkpoint",
    *,
    mode: Mode = "full",
    max_memory: int = views.BUDGET,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> tuple[Proof, str]:
    """Proves that a checkpoint holds another one, and tells how.

    The conversion that the result's metadata record is planned once more from the source. Where
    none is recorded, the leaves are compared by their canonical paths, casts included.

    Returns:
        The report, and what the proof rests on: `recorded conversion` or `canonical paths`.

    Raises:
        ConvertError: the recorded conversion cannot be planned from this source.
    """
    from maxmig.converters import diff

    recorded = result.own.get("converted_from") or {}
    # A result of several conversions records the last one only.
    if recorded.get("options") and recorded.get("layout") == source.layout.name:
        planned = _replanned(source, recorded["options"])
        report = conversion(
            planned, result.storage, mode=mode, max_memory=max_memory, progress=progress
        )
        notes = (*report.notes, *_left_out(planned, source))
        return dataclasses.replace(report, notes=notes), "recorded conversion"
    found = diff.diff(source, result, cast=True, max_memory=max_memory, progress=progress)
    return Proof(found.lines, notes=found.notes), "canonical paths"


def _replanned(source: "Checkpoint", recorded: Mapping[str, Any]) -> Conversion:
    from maxmig.converters import mapping
    from maxmig.converters.mapping import files

    options = dict(recorded)
    if options.get("map_file") is not None:
        options["map_file"] = files.parse(options["map_file"], "the result's metadata")
    try:
        return mapping.plan(source, **options)
    except (TypeError, errors.ConfigError) as error:
        raise errors.ConvertError(
            f"the conversion recorded in the result's metadata is not understood: {error}; "
            "it was made by another version of maxmig: verify it with that one"
        ) from error


def _left_out(planned: Conversion, source: "Checkpoint") -> Iterator[str]:
    """What the recorded conversion says of leaves of the source that it does not take."""
    taken = {path for transfer in planned.transfers for path in transfer.sources}
    fates = {entry.path: entry.what for entry in planned.accounting.fates}
    found: dict[str, list[str]] = {}
    for path, at in source.places.items():
        if at not in taken:
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
    left, right = (Reader(each, budget, progress) for each in (planned.storage, result))
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


def _made(item: Made, result: Storage) -> Line:
    """An array without a source is made once more."""
    import numpy as np

    name = spell(item.target)
    try:
        found = result.read(item.target, transfers.whole(item.leaf))
    except errors.CheckpointError as error:
        return Line("!", name, str(error).replace("\n", " "))
    made = np.asarray(item.make()).reshape(found.shape).astype(found.dtype, copy=False)
    line = gaps.gap(made, found, Tolerance()).line(name, Tolerance())
    if line.sign == "=":
        return Line("=", name, item.why, elements=math.prod(item.leaf.shape))
    return line
