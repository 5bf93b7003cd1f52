"""Makes changes of files that were decided on: preflight, ledger, files, ledger."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import maxmig
from maxmig.errors import PreflightError
from maxmig.rollout import document, files, ledger, splice, vcs
from maxmig.rollout.files import Write
from maxmig.rollout.splice import Proof, Splice


@dataclass(frozen=True)
class Step:
    """What is to be done to one file, with what the ledger shall know of it."""

    path: Path
    name: str
    before: bytes
    splices: tuple[Splice, ...]
    changes: tuple[Mapping[str, Any], ...]
    control: str | None = None
    candidate: str | None = None
    evidence: Mapping[str, Any] | None = None
    config_digest: str | None = None

    @property
    def after(self) -> bytes:
        """The bytes that the file will have."""
        return splice.apply(self.before, self.splices)


@dataclass(frozen=True)
class Done:
    """What was done to one file (or would be); `vcs` is None if git does not know it."""

    name: str
    diff: str
    proof: Proof
    changes: tuple[Mapping[str, Any], ...]
    control: str | None
    candidate: str | None
    evidence: Mapping[str, Any] | None
    sha256_before: str
    sha256_after: str
    vcs: str | None

    def document(self) -> dict[str, Any]:
        """The facts as plain types."""
        return vars(self) | {
            "changes": [dict(change) for change in self.changes],
            "proof": vars(self.proof) | {"text": self.proof.text},
        }


@dataclass(frozen=True)
class Outcome:
    """What a command did: the ledger's entry (None in a dry run) and the files."""

    entry: ledger.Entry | None
    ledger: Path | None
    files: tuple[Done, ...]

    def document(self) -> dict[str, Any]:
        """The facts as plain types."""
        return {
            "written": self.entry is not None,
            "id": self.entry.id if self.entry else None,
            "ledger": str(self.ledger) if self.ledger else None,
            "files": [file.document() for file in self.files],
        }


def run(
    steps: Sequence[Step],
    kind: str,
    *,
    dry_run: bool = False,
    place: Path | None = None,
    **facts: Any,
) -> Outcome:
    """Writes all files, or none, and the ledger.

    Args:
        steps: one for each file.
        kind: apply, rollback or graduate.
        dry_run: compute and prove everything, write nothing.
        place: the ledger, if it is known; else the one beside the files.
        facts: for the ledger's entry: assured, overridden, of, framework, command.

    Raises:
        DataError: a file, its folder or the ledger cannot be written.
        PreflightError: a file changed meanwhile, or the proof failed.
    """
    states = {step.path: vcs.state(step.path) for step in steps}
    done = tuple(_done(step, step.after, states[step.path]) for step in steps)
    writes = [Write(step.path, step.before, step.after, step.name) for step in steps]
    if dry_run or not steps:
        return Outcome(None, None, done)
    files.check_writable(writes)
    place = place or ledger.place([step.path for step in steps])
    now = datetime.datetime.now(datetime.UTC)
    entry = ledger.Entry(
        id=ledger.new_id(now),
        kind=kind,
        when=now.isoformat(timespec="seconds"),
        who=ledger.who(),
        files=tuple(_record(step, place, states[step.path]) for step in steps),
        maxmig=maxmig.__version__,
        **facts,
    )
    ledger.begin(place, entry)
    try:
        files.commit(writes)
    except BaseException:
        ledger.close(place, entry, ledger.ABANDONED)
        raise
    # The proof that counts is the one about the bytes that are on the disk now.
    done = tuple(
        _done(step, document.read_bytes(step.path, step.name), states[step.path]) for step in steps
    )
    ledger.close(place, entry, ledger.DONE)
    return Outcome(entry, place, done)


def _done(step: Step, after: bytes, state: str | None) -> Done:
    proof = splice.prove(step.before, after, step.splices)
    if not proof or after != step.after:
        raise PreflightError(f"{step.name}: other bytes would change or did: {proof.text}")
    return Done(
        step.name,
        splice.diff(step.before, after, step.name),
        proof,
        step.changes,
        step.control,
        step.candidate,
        step.evidence,
        splice.sha256(step.before),
        splice.sha256(after),
        state,
    )


def _record(step: Step, place: Path, state: str | None) -> ledger.FileChange:
    return ledger.FileChange(
        path=_relative(step.path, place),
        sha256_before=splice.sha256(step.before),
        sha256_after=splice.sha256(step.after),
        changes=step.changes,
        splices=step.splices,
        control=step.control,
        candidate=step.candidate,
        evidence=step.evidence,
        config_digest=step.config_digest,
        vcs=state,
    )


def _relative(path: Path, place: Path) -> str:
    try:
        return path.resolve().relative_to(place.resolve().parent).as_posix()
    except ValueError:
        return str(path.resolve())
