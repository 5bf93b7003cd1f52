"""How a change of files is shown: the diff, the proof, the evidence, and the way back."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from maxmig.cli import console

if TYPE_CHECKING:
    from maxmig.rollout.execute import Outcome


def show(outcome: "Outcome", *, nothing: str) -> None:
    """Prints what was done, or would be.

    Args:
        outcome: of apply, rollback or graduate.
        nothing: what to say if no file changes.
    """
    if not outcome.files:
        console.out(nothing)
        return
    for file in outcome.files:
        console.out(file.diff)
        console.out(f"{file.name}: {file.proof.text}")
        if file.evidence:
            facts = file.evidence
            console.out(f"  evidence: {facts['card']}, {facts['verdict']}, made {facts['made']}")
        if file.vcs is None:
            console.note(
                f"note: {file.name} is not under version control; the ledger keeps the way back"
            )
        console.out("")
    if outcome.entry is None:
        console.out("dry run: nothing was written")
        return
    ledger = _relative(outcome.ledger)
    count = f"{len(outcome.files)} file{'s' if len(outcome.files) > 1 else ''}"
    console.out(f"{outcome.entry.kind}: {count} written; ledger {ledger}")
    if outcome.entry.kind != "rollback":
        console.out(
            f"back: maxmig flags rollback {outcome.entry.id} --ledger {shlex.quote(ledger)}"
        )


def _relative(path: Path | None) -> str:
    """A path as seen from here, if it is below."""
    try:
        return str(Path(path or "").resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def command() -> str:
    """The command line of this process, for the ledger."""
    return shlex.join(["maxmig", *sys.argv[1:]])
