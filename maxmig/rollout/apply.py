"""Applies a plan: exactly what was planned, on evidence, all files or none."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maxmig.config import reader
from maxmig.errors import PreflightError
from maxmig.rollout import document, evidence, execute, splice
from maxmig.rollout import plan as planning
from maxmig.rollout.dangers import Severity
from maxmig.rollout.document import Document
from maxmig.rollout.plan import FilePlan, Plan


def apply(
    plan: Plan,
    cards: Sequence[Path] = (),
    *,
    max_age: datetime.timedelta | None = None,
    assured: str | None = None,
    dry_run: bool = False,
    command: str = "",
    now: datetime.datetime | None = None,
) -> execute.Outcome:
    """Changes the files of a plan.

    Args:
        plan: what to do.
        cards: the evidence: cards of `maxmig parity run`, or the folders of its runs.
        max_age: how old a card may be; 14 days by default.
        assured: the reason to go on without evidence or in spite of a danger; it is recorded.
        dry_run: show and prove, write nothing.
        command: the command line, for the ledger.
        now: the present; the clock's by default.

    Raises:
        PreflightError: something changed since the plan was made, a card is missing or does not
            fit, or a danger stands in the way; all reasons at once.
        DataError: a file cannot be read or written.
    """
    _refuse_impossible(plan)
    pending = plan.pending
    raws = {file.path: document.read_bytes(Path(file.path), file.path) for file in pending}
    if pending and all(splice.sha256(raws[f.path]) == f.sha256_after for f in pending):
        return execute.Outcome(None, None, ())
    _refuse_drift(pending, raws)
    max_age = evidence.age(evidence.MAX_AGE) if max_age is None else max_age
    steps: list[execute.Step] = []
    refused: list[str] = []
    for file in pending:
        found = evidence.Finding(None, (), None)
        if file.needs_evidence:
            path = Path(file.path)
            found = evidence.find(path, cards, file.control, file.candidate, max_age, now)
        refused += _problems(file, found)
        steps.append(_step(file, raws[file.path], found))
    if refused and assured is None:
        raise PreflightError(
            _refusal("refused; nothing was changed", refused)
            + '\n--assured "reason" goes on all the same, and records the reason'
        )
    return execute.run(
        steps,
        "apply",
        dry_run=dry_run,
        assured=assured if refused else None,
        overridden=tuple(refused),
        framework=pending[0].framework if pending else {},
        command=command,
    )


def _refuse_impossible(plan: Plan) -> None:
    lines = [
        f"{file.path}: {danger.text}. {danger.safe}"
        for file in plan.files
        for danger in file.dangers
        if danger.severity is Severity.IMPOSSIBLE
    ]
    if lines:
        raise PreflightError(_refusal("the plan cannot be carried out", lines))


def _problems(file: FilePlan, found: evidence.Finding) -> list[str]:
    blocked = [danger for danger in file.dangers if danger.severity is Severity.BLOCKED]
    dangers = [f"{danger.text}. Safe way: {danger.safe}" for danger in blocked]
    return [f"{file.path}: {text}" for text in (*found.problems, *dangers)]


def _step(file: FilePlan, raw: bytes, found: evidence.Finding) -> execute.Step:
    doc = Document.parse(reader.decode(raw, file.path), file.path)
    made = planning.splices(doc, file.changes)
    if splice.sha256(splice.apply(raw, made)) != file.sha256_after:
        raise PreflightError(
            f"{file.path}: the result would not be the one that was planned; make the plan again "
            "with this version of maxmig"
        )
    return execute.Step(
        path=Path(file.path),
        name=file.path,
        before=raw,
        splices=made,
        changes=tuple(vars(change) for change in file.changes),
        control=file.control,
        candidate=file.candidate,
        evidence=found.card,
        config_digest=found.digest,
    )


def _refuse_drift(pending: Sequence[FilePlan], raws: Mapping[str, bytes]) -> None:
    """Nothing that the plan was made from may have changed; no reason can override that."""
    lines = []
    for file in pending:
        if splice.sha256(raws[file.path]) != file.sha256_before:
            lines.append(f"{file.path}: the file changed since the plan was made")
            continue
        for name, digest in file.chain.items():
            path = Path(name)
            if not path.is_file() or splice.sha256(path.read_bytes()) != digest:
                lines.append(f"{file.path}: {name}, on which it stands, changed since the plan")
    if lines:
        goal = "make the plan again and read it"
        raise PreflightError(_refusal(f"drift; nothing was changed, {goal}", lines))


def _refusal(title: str, lines: Sequence[Any]) -> str:
    return "\n".join([f"{title}:", *(f"  - {line}" for line in lines)])
