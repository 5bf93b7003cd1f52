"""The report as one self-contained page: no script, no network, light, dark and on paper."""

import contextlib
import math
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors

if TYPE_CHECKING:
    from maxmig.parity.reports.report import Report

SYMBOLS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?", "SKIP": "–"}
NAME = "report.html"


def write(report: "Report", path: str | Path) -> Path:
    """Writes the page; whole or not at all.

    Args:
        report: what to show.
        path: a file that ends in .html, or a folder, which gets `report.html`.

    Returns:
        The file that was written.

    Raises:
        DataError: it cannot be written.
    """
    file = destination(path)
    text = render(report)
    with _writing(file):
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            temporary.chmod(0o644)
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return file


def destination(path: str | Path) -> Path:
    """The file that `write` would write; makes its folder, so that a long run does not end in vain.

    Raises:
        DataError: nothing can be written there.
    """
    path = Path(path)
    file = path if path.suffix.lower() in (".html", ".htm") and not path.is_dir() else path / NAME
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(file.parent, os.W_OK):
            raise PermissionError("the folder is not writable")
    return file


def render(report: "Report") -> str:
    """The page as text."""
    import jinja2

    from maxmig.parity import levels
    from maxmig.parity.pages import figures, plots, snippets
    from maxmig.parity.pages.glossary import GLOSSARY
    from maxmig.parity.reports import catalogue, wording

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("maxmig.parity.pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": wording.number, "place": _place, "path": _breakable}
    environment.filters["ticks"] = _ticks
    environment.globals |= {
        "symbols": SYMBOLS,
        "mapped": wording.mapped,
        "needs": wording.needs,
        "bare": wording.bare,
        "describe": wording.describe,
        "sizes": wording.sizes,
        "relative": wording.relative,
        "values": _values,
        "snippet": snippets.around,
        "entries": catalogue.BY_CODE,
        "glossary": GLOSSARY,
    }
    held = {check.name: check for check in report.checks if check.concluded is None}
    of_steps = {name: check for name, check in held.items() if name in plots.OF_STEPS}
    drawn = {
        "loss": plots.loss(report.curve, report.control.proved, report.candidate.proved),
        "steps": "" if all(map(_exact, of_steps.values())) else plots.by_step(of_steps),
        "gradients": "" if _exact(held.get("gradients")) else plots.gradients(held["gradients"]),
        **figures.drawn(held | {c.name: c for c in report.checks if c.level == "behaviour"}),
    }
    # Marks that are all at zero are told in a sentence.
    zero = {
        "Difference by step": bool(of_steps) and not drawn["steps"],
        "Difference of each gradient": "gradients" in held and not drawn["gradients"],
    }
    if "ratios" in drawn:
        drawn["gradients"] = ""  # the ratio says the same, with its limit
    return environment.get_template("report.html.j2").render(
        report=report,
        held=held,
        parts={part.level: part for part in report.by_level},
        levels=levels.LEVELS,
        figures=drawn,
        zero=[name for name, all_zero in zero.items() if all_zero],
        casts=[cast for check in report.checks for cast in _casts(check)],
        most_leaves=plots.MOST_LEAVES,
        infinity=math.inf,
    )


def _casts(check: Any) -> tuple[Any, ...]:
    return tuple(getattr(check.details, "casts", ()))


def _exact(check: Any) -> bool:
    """There is nothing to draw of it."""
    return check is None or check.exact


def _breakable(text: str) -> Any:
    """A path that may go to the next line after each `/`."""
    import markupsafe

    return markupsafe.Markup("<wbr>").join(
        part + "/" * (number < text.count("/")) for number, part in enumerate(text.split("/"))
    )


def _ticks(text: str) -> Any:
    """Text whose `words in ticks` are code."""
    import markupsafe

    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(text))))


def _place(extreme: Any) -> str:
    return f"{extreme.item}: {extreme.place}" if extreme and extreme.value else ""


def _values(extreme: Any) -> tuple[str, ...]:
    if not extreme or not extreme.value:
        return ()
    return f"{extreme.control:.9g}", f"{extreme.candidate:.9g}"


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.DataError(
            f"{file}: expected to write the report there, but: {error}; "
            "choose another place with --report"
        ) from error
