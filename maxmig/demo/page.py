"""The demo's report: one self-contained page."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maxmig.cli import console
from maxmig.demo.story import Outcome, Record


def write(outcome: Outcome, path: Path) -> Path:
    """Writes the page and returns its path."""
    import jinja2

    from maxmig import __version__

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("maxmig.demo"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["printable"] = console.printable
    page = environment.get_template("report.html").render(
        outcome=outcome, picture=_picture(outcome), version=__version__
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _picture(outcome: Outcome) -> str:
    """Both loss curves above their difference, as an SVG data URI."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasSVG(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    flip = outcome.flipped_at
    steps, control = _curve(outcome.control)
    after = [(s, v) for s, v in zip(*_curve(outcome.migrated), strict=True) if s >= flip]
    above.plot(steps, control, color="#4477aa", linewidth=1.4, label="Linen, all the way")
    above.plot(
        *zip(*after, strict=True),
        color="#cc6633",
        linewidth=3.5,
        alpha=0.45,
        label="NNX, after the flip",
    )
    for axes in (above, below):
        axes.axvline(flip, color="#777777", linestyle="--", linewidth=1)
        axes.grid(alpha=0.25)
    above.annotate("flags flipped", (flip, max(control)), color="#555555", ha="right", va="top")
    above.set_ylabel("loss (nats a byte)")
    above.legend(frameon=False)
    stayed = dict(zip(steps, control, strict=True))
    below.plot([s for s, _ in after], [v - stayed[s] for s, v in after], color="#cc6633")
    below.set_ylabel("NNX - Linen")
    below.set_xlabel("step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _curve(records: Sequence[Record]) -> tuple[list[int], list[Any]]:
    trained = [r for r in records if "loss" in r]
    return [r["step"] for r in trained], [r["loss"] for r in trained]
