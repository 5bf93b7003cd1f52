"""The folder of a run: what was found, for programs, for people, for CI, and as evidence."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.parity.pages import html, junit, markdown
from maxmig.parity.reports import card

if TYPE_CHECKING:
    from maxmig.parity.findings.check import Check
    from maxmig.parity.findings.measurement import Measurement
    from maxmig.parity.reports.report import Report

FILES = ("run.json", "metrics.jsonl", html.NAME, "report.md", "junit.xml", card.NAME)


def prepare(path: str | Path) -> Path:
    """Makes the folder, so that a long run does not end in vain; returns it.

    Raises:
        DataError: nothing can be written there.
    """
    path = Path(path)
    html.destination(path)
    return path


def numbered(parent: str | Path) -> Path:
    """The next free of `parent/0001`, `parent/0002`, ...; made, so that nobody else takes it.

    Raises:
        DataError: nothing can be written there.
    """
    parent = Path(parent)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(p.name) for p in parent.iterdir() if p.name.isdecimal()]
        number = max(taken, default=0) + 1
        while True:
            try:
                (parent / f"{number:04d}").mkdir()
            except FileExistsError:
                number += 1
                continue
            return parent / f"{number:04d}"
    except OSError as error:
        raise errors.DataError(
            f"{parent}: expected to write the report there, but: {error}; "
            "choose another place with --run-dir"
        ) from error


def write(report: "Report", path: str | Path) -> Path:
    """Writes all files of a run; returns the folder.

    Raises:
        DataError: one cannot be written.
    """
    folder = prepare(path)
    texts = {
        "run.json": _json(report.document() | {"files": FILES}, indent=2) + "\n",
        "metrics.jsonl": "".join(_json(line) + "\n" for line in metrics(report)),
        "report.md": markdown.render(report),
        "junit.xml": junit.render(report),
    }
    try:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise errors.DataError(
            f"{folder}: expected to write the report there, but: {error}; "
            "choose another place with --run-dir"
        ) from error
    html.write(report, folder)
    report.card().write(folder / card.NAME)
    return folder


def metrics(report: "Report") -> list[dict[str, Any]]:
    """A line for each array that was compared, and for each finding without arrays."""
    lines: list[dict[str, Any]] = []
    for check in report.checks:
        head = {"level": check.code, "check": check.name}
        if check.concluded is not None:
            verdict = check.verdict.value
            lines.append(head | {"verdict": verdict, "found": check.told, "seconds": check.seconds})
        lines += [head | _line(check, m) for m in check.measurements]
    return lines


def _line(check: "Check", m: "Measurement") -> dict[str, Any]:
    line: dict[str, Any] = {
        "item": m.item,
        "path": m.path,
        "dtype": m.dtype,
        "shape": m.shape,
        "elements": m.elements,
        "differing": m.differing,
        "max_abs": m.max_abs.value if m.max_abs else 0.0,
        "rel_l2": m.rel_l2,
        "passes": m.within(check.limit),
    }
    if m.values is not None:
        line["control"], line["candidate"] = m.values
    if m.truth is not None:
        line |= {
            "error_control": m.truth.control,
            "error_candidate": m.truth.candidate,
            "error_limit": m.truth.limit,
            "error_ratio": m.truth.ratio,
        }
    if m.problem:
        line["problem"] = m.problem
    return line


def _json(value: Any, **options: Any) -> str:
    from maxmig.cli import console

    return json.dumps(console.jsonable(value), ensure_ascii=False, allow_nan=False, **options)
