"""The figures of the report, as inline SVG whose colours are the page's CSS variables.

Differences are drawn on a logarithmic scale that has a place of its own for exact zero, since zero
is the finding that matters most and a logarithm cannot show it.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from maxmig.parity.findings.check import Check
from maxmig.parity.findings.measure import by_path
from maxmig.parity.findings.subject import Curve

# Stand-ins that no other colour uses; the page gives them their light, dark and printed values.
COLOURS = {
    "ink": "#0a0b01",
    "muted": "#0a0b02",
    "grid": "#0a0b03",
    "control": "#0a0b04",
    "candidate": "#0a0b05",
    "good": "#0a0b06",
    "bad": "#0a0b07",
    "band": "#0a0b08",
}
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["grid"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelpad": 9.0,  # a browser's letters may be wider than those that were measured
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_MARKERS = ("o", "s", "^", "D", "v")
OF_STEPS = ("params", "moments", "metrics")
MOST_LEAVES = 40
WIDTH = 10.5  # inches, which the page scales so that the text has the size of its own


def loss(curve: Curve, control: str, candidate: str) -> str:
    """Both loss curves, and their difference on a second axis; empty without steps."""
    if not curve.steps:
        return ""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "loss"}):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss, nats")
        axes.set_xticks(few(curve.steps))
        axes.grid(axis="y")
        drawn = axes.plot(curve.steps, curve.control, color=COLOURS["control"], lw=5, alpha=0.35)
        drawn += axes.plot(
            curve.steps,
            curve.candidate,
            color=COLOURS["candidate"],
            lw=1.6,
            ls="--",
            marker="o",
            ms=5,
        )
        axes.margins(y=0.35)
        other = axes.twinx()
        other.spines["right"].set_visible(True)
        gaps = [b - a for a, b in zip(curve.control, curve.candidate, strict=True)]
        exact = not any(gaps)
        colour = COLOURS["good" if exact else "bad"]
        drawn += other.plot(
            curve.steps, gaps, color=colour, lw=1, ls=":", marker="D", mfc="none", ms=6
        )
        finite = [abs(gap) for gap in gaps if math.isfinite(gap)]
        reach = max(finite, default=0.0) or 1.0
        other.set_ylim(-1.15 * reach, 1.15 * reach)
        other.set_ylabel("candidate minus control")
        other.axhline(0.0, color=COLOURS["grid"], lw=0.8, zorder=0)
        if exact:
            other.set_yticks([0.0], ["exactly 0"])
        label = "difference (right axis)" + (": exactly 0 at every step" if exact else "")
        figure.legend(
            drawn,
            [f"control: {control}", f"candidate: {candidate}", label],
            loc="outside upper left",
            ncols=3,
            fontsize=9.5,
        )
        return svg(figure)


def gradients(check: Check) -> str:
    """A dot for each parameter and batch: the relative difference of its gradient."""
    leaves = by_path(check.measurements)
    if not leaves:
        return ""
    # The worst leaves, if there are too many to read; in natural order.
    worst = sorted(leaves, key=lambda p: -max(m.needed for m in leaves[p]))[:MOST_LEAVES]
    paths = [path for path in leaves if path in set(worst)]
    items = list(check.items)
    with mpl.rc_context({**STYLE, "svg.hashsalt": "gradients"}):
        figure = Figure(figsize=(WIDTH, 1.3 + 0.27 * len(paths)), layout="constrained")
        axes = figure.subplots()
        scale = Scale([m.needed for path in paths for m in leaves[path]])
        spread = 0.22 if len(items) > 1 else 0.0
        for number, item in enumerate(items):
            shift = spread * (2 * number / max(len(items) - 1, 1) - 1)
            points = [
                (scale(m.needed), row + shift, m.needed)
                for row, path in enumerate(paths)
                for m in leaves[path]
                if m.item == item
            ]
            _dots(axes, points, number, f"{item} batch")
        scale.dress(axes, "x", check.limit)
        axes.set_yticks(range(len(paths)), paths, fontsize=8.5, family="monospace")
        axes.set_ylim(len(paths) - 0.4, -0.6)
        axes.grid(axis="y", ls=":")
        axes.set_xlabel("relative L2 difference of the gradient")
        figure.legend(loc="outside upper left", ncols=len(items) + 1, fontsize=9.5)
        return svg(figure)


def by_step(checks: Mapping[str, Check]) -> str:
    """The largest difference after each step, for parameters, moments and the loss."""
    lines = {
        name: [(int(item.split()[-1]), part.needed) for item, part in check.items.items()]
        for name, check in checks.items()
        if check.measurements
    }
    if not lines:
        return ""
    with mpl.rc_context({**STYLE, "svg.hashsalt": "steps"}):
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        axes = figure.subplots()
        scale = Scale([value for points in lines.values() for _, value in points])
        width = max((step for points in lines.values() for step, _ in points), default=1)
        for number, (name, points) in enumerate(lines.items()):
            # Side by side: lines that are all zero would hide one another.
            shift = 0.012 * width * (number - (len(lines) - 1) / 2)
            places = [(step + shift, scale(value), value) for step, value in points]
            axes.plot(
                [x for x, _, _ in places],
                [y for _, y, _ in places],
                color=COLOURS["muted"],
                lw=0.8,
            )
            _dots(axes, places, number, name)
        scale.dress(axes, "y", None)
        steps = sorted({step for points in lines.values() for step, _ in points})
        axes.set_xticks(few(steps))
        axes.set_xlim(steps[0] - 0.08 * width, width + 0.08 * width)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("largest relative L2")
        figure.legend(loc="outside upper left", ncols=len(lines), fontsize=9.5)
        return svg(figure)


def _dots(axes: Any, points: Sequence[tuple[float, float, float]], number: int, label: str) -> None:
    """A shape for each series: filled where there is a difference, hollow where it is zero."""
    marker = _MARKERS[number % len(_MARKERS)]
    shape: dict[str, Any] = {"marker": marker, "ms": 6, "ls": "none", "zorder": 3}
    for zero in (True, False):
        here = [(x, y) for x, y, value in points if (value == 0) is zero]
        colour = COLOURS["good" if zero else "bad"]
        fill = "none" if zero else colour
        axes.plot([x for x, _ in here], [y for _, y in here], mec=colour, mfc=fill, **shape)
    axes.plot([], [], color=COLOURS["muted"], label=label, **shape)  # which series, not what it has


def lanes(series: Sequence[Sequence[float]]) -> list[float]:
    """Where in the band of exact zero each series is drawn, from 1 (above) to -1 (below).

    Series that are zero would hide one another.
    """
    zero = [number for number, values in enumerate(series) if not all(values)]
    step = 2 / max(len(zero) - 1, 1)
    top = 1.0 if len(zero) > 1 else 0.0
    places = {number: top - step * place for place, number in enumerate(zero)}
    return [places.get(number, 0.0) for number in range(len(series))]


class Scale:
    """Positions on a logarithmic axis that has places for exact zero and for infinity."""

    def __init__(self, values: Sequence[float]):
        finite = [v for v in values if v and math.isfinite(v)]
        self.infinite = any(math.isinf(v) or math.isnan(v) for v in values)
        self.low = math.floor(math.log10(min(finite))) if finite else -8
        self.high = max(self.low + 1, math.ceil(math.log10(max(finite)))) if finite else 0

    def __call__(self, value: float, lane: float = 0.0) -> float:
        if value == 0:
            return self.low - 1.5 + 0.3 * lane
        return math.log10(value) if math.isfinite(value) else self.high + 1.0

    def dress(self, axes: Any, axis: str, limit: float | None) -> None:
        """Ticks, the band of exact zero, and the limit."""
        step = max(1, math.ceil((self.high - self.low) / 5))
        decades = list(range(self.low, self.high + 1, step))
        ticks = [self(0.0), *decades]
        labels = ["exactly 0", *(f"1e{d}" for d in decades)]
        if self.infinite:
            ticks.append(self(math.inf))
            labels.append("none\nwould pass")
        ends = (self.low - 2.0, self.high + (1.4 if self.infinite else 0.2))
        band = {"color": COLOURS["band"], "lw": 0, "zorder": 0}
        if axis == "x":
            axes.set_xticks(ticks, labels)
            axes.set_xlim(*ends)
            axes.axvspan(self.low - 2.0, self.low - 1.0, **band)
        else:
            axes.set_yticks(ticks, labels)
            axes.set_ylim(*ends)
            axes.axhspan(self.low - 2.0, self.low - 1.0, **band)
        if limit and ends[0] < math.log10(limit) < ends[1]:
            line = axes.axvline if axis == "x" else axes.axhline
            line(math.log10(limit), color=COLOURS["ink"], lw=1, ls="--", label=f"limit {limit:g}")


def few(steps: Sequence[int]) -> list[int]:
    """About a dozen of them, for ticks."""
    every = max(1, math.ceil(len(steps) / 12))
    return list(steps)[::every]


def svg(figure: Figure) -> str:
    """The figure as an <svg> element for a page: no prolog, no metadata, colours by name."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text
