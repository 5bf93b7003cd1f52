"""Says why random state differs after a way through a layout that has no place for it."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from maxmig import errors
from maxmig.converters.compare import forms
from maxmig.converters.compare.verdicts import Line

if TYPE_CHECKING:
    from maxmig.converters.checkpoint import Checkpoint


def explained(
    lines: Sequence[Line], result: "Checkpoint"
) -> tuple[tuple[Line, ...], tuple[str, ...]]:
    """The same lines, those of random state with the reason, and what to make of them.

    Args:
        lines: of a comparison by canonical paths.
        result: what a conversion made; its metadata say so.
    """
    before = result.own.get("converted_from") or {}
    random = [line for line in lines if _is_random(line) and line.sign in "*-"]
    if not before or not random:
        return tuple(lines), ()
    seed = int((before.get("options") or {}).get("seed") or result.own.get("seed") or 0)
    why = {id(line): _why(line, result, seed) for line in random}
    told = tuple(
        dataclasses.replace(line, detail=f"{why[id(line)]}; {line.detail}")
        if why.get(id(line))
        else line
        for line in lines
    )
    others = sum(line.sign in "!*+->" for line in lines) - len(random)
    rest = "all other leaves hold" if not others else f"{others:,} other leaves do not hold either"
    return told, (
        f"{len(random):,} leaves are random state that is not the source's: layout "
        f"{before.get('layout')!r}, which {result.storage.url} was made from, need not have a "
        f"place for it; {rest}. `maxmig ckpt hash` leaves random state out, so it prints one "
        "digest for both if the rest is the same; `maxmig ckpt verify` against that checkpoint "
        "proves the last conversion, derived leaves included",
    )


def _is_random(line: Line) -> bool:
    return forms.section(line.path) == forms.RANDOM


def _why(line: Line, result: "Checkpoint", seed: int) -> str:
    if line.sign == "-":
        return "random state, left out"
    step = result.place.step
    if step is None or not _is_derived(line.path, result, seed, step):
        return ""
    return f"random state, derived from (seed {seed}, this path, step {step})"


def _is_derived(path: str, result: "Checkpoint", seed: int, step: int) -> bool:
    """Whether a leaf holds exactly what is derived for it."""
    from maxmig.converters.compare import gaps
    from maxmig.converters.mapping import derive

    leaf = result.leaves.get(path)
    if leaf is None:
        return False
    try:
        found = result.storage.read(result.places[path])
    except errors.CheckpointError:
        return False
    made = derive.maker(path, leaf, seed, step)()
    return made.shape == found.shape and made.dtype == found.dtype and gaps.same(made, found)
