"""Evaluates two programs side by side and measures every pair of equations as it comes.

A tensor lives until the last equation that uses it: two programs need little more memory than two
evaluations do, however many equations there are.
"""

import dataclasses
from collections.abc import Collection, Generator, Mapping
from typing import Any

import jax
import numpy as np

from maxmig.parity.shadow.align import Pairs
from maxmig.parity.shadow.events import Event
from maxmig.parity.shadow.walk import Walk

Outputs = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """One pair of equations.

    Attributes:
        pair: indices of the events.
        control, candidate: the events, without their values.
        relative: ||a - b|| / max(||a||, ||b||); the share of unequal elements where they are no
            floats; infinite where one side alone is finite.
        norms: of both results.
    """

    pair: tuple[int, int]
    control: Event
    candidate: Event
    relative: float
    norms: tuple[float, float]


def run(
    control: Walk,
    candidate: Walk,
    inputs: Mapping[str, Any],
    aligned: Pairs,
    forced: Collection[tuple[int, int]] = (),
) -> tuple[list[Gap], Outputs, Outputs]:
    """(the gap of every pair of events, outputs of the control, outputs of the candidate).

    The candidate's results of `forced` pairs are replaced by the control's once they are measured.
    """
    ours, theirs = _Side(control.run(inputs)), _Side(candidate.run(inputs))
    gaps = []
    for i, j in aligned:
        a, b = ours.at(i), theirs.at(j)
        measured = _measure(a, b)
        if measured is not None:
            one, two = (dataclasses.replace(e, outs=None) for e in (a, b))
            gaps.append(Gap((i, j), one, two, *measured))
            if (i, j) in forced:
                theirs.replace(a, b)
    return gaps, ours.finish(), theirs.finish()


class _Side:
    """One evaluation, which goes on when it is asked to."""

    def __init__(self, walk: Generator[Event, Any, Outputs]):
        self._walk, self._next = walk, 0
        self._sent: list[Any] | None = None

    def at(self, index: int) -> Event:
        """The event with this index; those before it are passed over."""
        while True:
            event = self._walk.send(self._sent)
            self._sent = None
            self._next += 1
            if self._next > index:
                return event

    def finish(self) -> Outputs:
        """The outputs."""
        while True:
            try:
                self._walk.send(self._sent)
                self._sent = None
            except StopIteration as done:
                return dict(done.value)

    def replace(self, ours: Event, own: Event) -> None:
        """Goes on with another side's results in the place of its own, where the shapes allow."""
        assert ours.outs is not None and own.outs is not None
        pairs = list(zip(ours.outs, own.outs, strict=True))
        if all(_numbers(x) and x.size == y.size and x.dtype == y.dtype for x, y in pairs):
            self._sent = [np.reshape(x, y.shape) for x, y in pairs]


def _measure(a: Event, b: Event) -> tuple[float, tuple[float, float]] | None:
    assert a.outs is not None and b.outs is not None
    if len(a.outs) != len(b.outs):
        return None
    worst: tuple[float, tuple[float, float]] | None = None
    for x, y in zip(a.outs, b.outs, strict=True):
        x, y = np.squeeze(_bits(x)), np.squeeze(_bits(y))
        if x.shape != y.shape:
            continue
        found = relative(x, y)
        if worst is None or found[0] > worst[0]:
            worst = found
    return worst


def relative(x: Any, y: Any, floor: float = 0.0) -> tuple[float, tuple[float, float]]:
    """(relative difference of two arrays, their norms)."""
    a, b = np.asarray(x), np.asarray(y)
    if not all(np.issubdtype(v.dtype, np.inexact) for v in (a, b)):
        count = (float(np.count_nonzero(a)), float(np.count_nonzero(b)))
        return float(np.mean(a != b)) if a.size else 0.0, count
    fine = np.isfinite(a) & np.isfinite(b)
    same = fine | (a == b) | (np.isnan(a) & np.isnan(b))
    if not same.all():
        return float("inf"), (float("nan"), float("nan"))
    a, b = np.where(fine, a, 0), np.where(fine, b, 0)
    top = max(float(np.max(np.abs(a), initial=0)), float(np.max(np.abs(b), initial=0)), 1e-300)
    a, b = a / top, b / top  # squares of masked logits would overflow
    norms = (float(np.linalg.norm(a)), float(np.linalg.norm(b)))
    scale = max(*norms, floor / top)
    gap = float(np.linalg.norm(a - b)) / scale if scale else 0.0
    return gap, (norms[0] * top, norms[1] * top)


def _bits(x: Any) -> Any:
    """Numbers as they are, of random keys what they hold."""
    return x if _numbers(x) else np.asarray(jax.random.key_data(x))


def _numbers(x: Any) -> bool:
    """Whether it is on the host: all but random keys are."""
    return isinstance(x, np.ndarray | np.generic)
