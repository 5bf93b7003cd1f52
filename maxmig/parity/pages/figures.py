"""Further figures of the report: error by depth, error ratios, KL by position, top-k agreement."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from maxmig.parity.findings.check import Check
from maxmig.parity.findings.distributions import Distribution
from maxmig.parity.findings.measure import by_path
from maxmig.parity.findings.measurement import Measurement
from maxmig.parity.pages import plots

_WIDTH = plots.WIDTH
_TICKS = (0.01, 0.1, 0.5, 1, 2, 3, 5, 10, 100, 1e3, 1e4, 1e5, 1e6)


def depth(check: Check) -> str:
    """Errors of both sides against float64, and their difference, after each layer."""
    items = {item: part.measurements for item, part in check.items.items()}
    shown = {item: ms for item, ms in items.items() if any(m.truth for m in ms)}
    if not shown:
        return ""
    # The batch whose sides differ most; the same picture for each would say the same.
    item = max(shown, key=lambda i: max(m.rel_l2 for m in shown[i]))
    ms = [m for m in shown[item] if m.truth]
    xs = list(range(1, len(ms) + 1))
    rows = {
        "control's error": ("control", [m.truth.control for m in ms if m.truth], 5.0, 0.35, "-"),
        "candidate's error": (
            "candidate",
            [m.truth.candidate for m in ms if m.truth],
            1.6,
            1,
            "--",
        ),
        "difference of the two": ("bad", [m.rel_l2 for m in ms], 1.2, 1, ":"),
    }
    with mpl.rc_context({**plots.STYLE, "svg.hashsalt": "depth"}):
        figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        scale = plots.Scale([v for _, values, *_ in rows.values() for v in values])
        limits = [scale(m.truth.limit) for m in ms if m.truth]
        axes.plot(xs, limits, color=plots.COLOURS["ink"], lw=1, ls=(0, (6, 3)), label="limit")
        places = plots.lanes([values for _, values, *_ in rows.values()])
        for (label, row), lane in zip(rows.items(), places, strict=True):
            colour, values, width, alpha, style = row
            drawn = plots.COLOURS["good" if colour == "bad" and not any(values) else colour]
            axes.plot(
                xs,
                [scale(v, lane) for v in values],
                color=drawn,
                lw=width,
                alpha=alpha,
                ls=style,
                marker="o" if colour != "control" else None,
                mfc="none" if not any(values) else drawn,
                ms=5,
                label=label,
            )
        scale.dress(axes, "y", None)
        axes.set_xticks(plots.few(xs), [_short(ms[x - 1]) for x in plots.few(xs)])
        axes.set_xlabel(f"after layer ({item} batch)")
        axes.set_ylabel("relative L2")
        axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=4, fontsize=9.5)
        return plots.svg(figure)


def ratios(check: Check) -> str:
    """The candidate's error over the control's, a dot for each leaf and batch, sorted."""
    leaves = by_path(tuple(m for m in check.measurements if m.truth))
    if not leaves:
        return ""
    worst = sorted(leaves, key=lambda p: -_worst(leaves[p]))[: plots.MOST_LEAVES]
    with mpl.rc_context({**plots.STYLE, "svg.hashsalt": "ratios"}):
        figure = Figure(figsize=(_WIDTH, 1.4 + 0.27 * len(worst)), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        for row, path in enumerate(worst):
            for m in leaves[path]:
                assert m.truth is not None
                good = m.within(check.limit)
                colour = plots.COLOURS["good" if good else "bad"]
                value = min(max(m.truth.ratio, 1e-2), 1e6)
                axes.plot([value], [row], marker="o", ms=6, mec=colour, mfc=colour, ls="none")
                axes.plot([m.truth.factor], [row], marker="|", ms=12, color=plots.COLOURS["ink"])
        axes.axvline(1.0, color=plots.COLOURS["grid"], lw=1.2, zorder=0)
        axes.set_yticks(range(len(worst)), worst, fontsize=8.5, family="monospace")
        axes.set_ylim(len(worst) - 0.4, -0.6)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.3), max(high, 5.0))
        ticks = [t for t in _TICKS if min(low, 0.3) <= t <= max(high, 5.0)]
        axes.set_xticks(ticks, [f"{t:g}x" for t in ticks])
        axes.minorticks_off()
        axes.grid(axis="y", ls=":")
        axes.set_xlabel("candidate's error over the control's; the bar is the limit")
        return plots.svg(figure)


def positions(found: Sequence[Distribution]) -> str:
    """KL of the next-token distributions by position; empty where it is 0 everywhere."""
    if not any(d.kl.most for d in found):
        return ""
    with mpl.rc_context({**plots.STYLE, "svg.hashsalt": "positions"}):
        figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
        axes = figure.subplots()
        scale = plots.Scale([value for d in found for _, *pair in d.by_position for value in pair])
        colours = [plots.COLOURS[c] for c in ("control", "candidate", "good")]
        places = plots.lanes([[mean for _, mean, _ in d.by_position] for d in found])
        for d, colour, lane in zip(found, colours, places, strict=False):
            xs = [x for x, _, _ in d.by_position]
            mean = [scale(v, lane) for _, v, _ in d.by_position]
            most = [scale(v, lane) for _, _, v in d.by_position]
            axes.plot(xs, mean, color=colour, lw=1.6, marker=".", label=f"{d.batch}: mean")
            axes.plot(xs, most, color=colour, lw=0.9, ls=":", label=f"{d.batch}: largest")
        scale.dress(axes, "y", None)
        axes.set_xlabel("position in its segment")
        axes.set_ylabel("KL(control || candidate), nats")
        axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=6, fontsize=9.5)
        return plots.svg(figure)


def top(found: Sequence[Distribution]) -> str:
    """How often the k likeliest tokens are the same, with standard errors."""
    if not any(d.kl.most for d in found):
        return ""
    with mpl.rc_context({**plots.STYLE, "svg.hashsalt": "top"}):
        figure = Figure(figsize=(_WIDTH, 2.4), layout="constrained")
        axes = figure.subplots()
        colours = [plots.COLOURS[c] for c in ("control", "candidate", "good")]
        for d, colour in zip(found, colours, strict=False):
            ks = [k for k, _, _ in d.top]
            shares = [100 * share for _, share, _ in d.top]
            bars = [100 * error for _, _, error in d.top]
            axes.errorbar(ks, shares, bars, color=colour, marker="o", lw=1.4, label=d.batch)
        axes.set_xticks([k for k, _, _ in found[0].top])
        axes.set_xlabel("k")
        axes.set_ylabel("same top k, %")
        axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=3, fontsize=9.5)
        return plots.svg(figure)


def drawn(checks: Mapping[str, Check]) -> dict[str, str]:
    """The figures that there is something for, by name."""
    found = {}
    if "hidden" in checks:
        found["depth"] = depth(checks["hidden"])
    if "gradients" in checks:
        found["ratios"] = ratios(checks["gradients"])
    distribution = checks.get("distribution")
    if distribution is not None and distribution.details:
        found["positions"] = positions(distribution.details)
        found["top"] = top(distribution.details)
    return {name: figure for name, figure in found.items() if figure}


def _worst(measurements: Sequence[Measurement]) -> float:
    return max(m.truth.ratio for m in measurements if m.truth)


def _short(m: Measurement) -> str:
    stack, _, number = m.path.rpartition("/")
    return number if stack in ("decoder/layers", "layers") else f"{stack.split('/')[-1]} {number}"
