"""The report of a parity run: its verdict, and why."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maxmig.parity.findings import casts
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.findings.measurement import START, Measurement
from maxmig.parity.findings.policy import Policy
from maxmig.parity.findings.subject import Coverage, Curve, Input, Origin, Side, Subject
from maxmig.parity.reports import card, document, explain
from maxmig.parity.reports.card import Card
from maxmig.parity.reports.parts import Part
from maxmig.parity.reports.wording import describe, titled

if TYPE_CHECKING:
    from maxmig.parity.static.results import Divergence

# Levels that tell what a program means. Where one cannot tell, that is no doubt by itself.
_MEANING = ("static", "semantic")
# Programs that training does not run, and the check of behaviour that runs them.
_APART = {"eval": "", "prefill": "decode", "decode": "decode"}
_EVIDENCE = ("static", "semantic", "behaviour")


@dataclasses.dataclass(frozen=True)
class Report:
    """What `maxmig.parity.run` found; true when it passed.

    Attributes:
        subject: what was run on both sides.
        control: the side that is trusted.
        candidate: the side that is examined.
        policy: what counts as equal.
        checks: in the order of cause and effect, so that the first that fails is nearest the cause.
        coverage: what was reached, and what was not.
        inputs: the batches.
        origin: where the weights come from; None when nothing was run.
        doubts: why the run as a whole proves nothing.
        notes: what a reader must know besides: a fault put in on purpose, an A/A run.
        steps: optimizer steps that were asked for.
        levels: the levels that were asked for.
        only: the checks that were asked for; empty for all.
        performance: what both sides cost; None if that was not measured.
        checkpoint_hash: of the weights.
        environment: versions and platform.
        command: what repeats the run.
        made: when, UTC.
        seconds: how long it took.
    """

    subject: Subject
    control: Side
    candidate: Side
    policy: Policy
    checks: tuple[Check, ...] = ()
    coverage: Coverage = dataclasses.field(default_factory=Coverage)
    inputs: tuple[Input, ...] = ()
    origin: Origin | None = None
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    steps: int = 0
    levels: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    performance: Check | None = None
    checkpoint_hash: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    command: str = ""
    made: str = ""
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.verdict is Verdict.PASS

    @property
    def verdict(self) -> Verdict:
        """FAIL if a check fails, else INCONCLUSIVE if anything is in doubt, else PASS.

        What could not be proved, or not be evaluated in float64, is in doubt only if no other
        evidence covers it: see `uncovered`.
        """
        verdicts = {check.verdict for check in self.gating}
        if Verdict.FAIL in verdicts:
            return Verdict.FAIL
        rest = {c.verdict for c in self.gating if c.level not in _MEANING}
        if self.doubts or self.uncovered or Verdict.INCONCLUSIVE in rest:
            return Verdict.INCONCLUSIVE
        return Verdict.PASS

    @property
    def gating(self) -> tuple[Check, ...]:
        """The checks that have a say, performance among them if it is gated."""
        more = (self.performance,) if self.performance is not None else ()
        return tuple(check for check in (*self.checks, *more) if check.gates)

    @property
    def uncovered(self) -> str:
        """Why the evidence as a whole is too thin; empty if it is not."""
        if self.doubts and not self.checks:
            return ""
        levels = self.by_level
        if not self.compared and not any(
            part.verdict is Verdict.PASS for part in levels if part.level in _EVIDENCE
        ):
            told = [f"{p.level}: {p.told}" for p in levels if p.level in _EVIDENCE and p.told]
            return "; ".join(told) or "nothing was compared"
        # A failure decides as well; only where neither level could say anything is there a doubt.
        told_by = {p.verdict for p in levels if p.level in _MEANING}
        for check in self.checks:
            if check.level == "semantic" and check.verdict is Verdict.INCONCLUSIVE and check.doubt:
                return titled(check, check.doubt)
        if open_ := self.unseen or casts.uneven(self.checks):
            return open_
        covered = bool(told_by - {Verdict.INCONCLUSIVE})
        if covered or "native" not in {p.level for p in levels}:
            told = [f"{p.level}: {p.told}" for p in levels if p.level in _MEANING]
            return "" if covered or not told else "; ".join(told)
        effect = self.detectable
        if effect <= self.policy.detectable:
            return ""
        return (
            f"{self.policy.coarsest} noise hides changes below {effect:.1e}; run --level L0,L1 as "
            "well, or dtype=float32"
        )

    @property
    def unseen(self) -> str:
        """A program that differs, and that nothing else says anything of; empty if there is none.

        Real arrays stand for the programs that training runs; not for other ones, and not for
        branches that no input reaches.
        """
        told = {(check.level, check.name): check for check in self.checks}
        for check in self.checks:
            if check.level != "static" or not getattr(check.details, "different", ()):
                continue
            shadow = told.get(("semantic", check.name))
            if shadow is not None and shadow.verdict is not Verdict.INCONCLUSIVE:
                continue
            if untaken := getattr(getattr(shadow, "details", None), "untaken", ()):
                return f"{check.name} is not proved equal, and {untaken[0]}"
            if check.name not in _APART or told.get(("behaviour", _APART[check.name])):
                continue
            return f"{check.name} is not proved equal, and nothing else covers it: --level all"
        return ""

    @property
    def detectable(self) -> float:
        """The smallest relative change of hidden states or logits that L2 could not have missed."""
        found = [0.0]
        for check in self.checks:
            if check.level == "native" and check.name in ("hidden", "logits") and not check.exact:
                found += [m.truth.limit if m.truth else m.rel_l2 for m in check.measurements]
                if not check.triangulated:
                    found.append(check.limit or 0.0)
        return max(found)

    @property
    def by_level(self) -> tuple[Part, ...]:
        """What each level found, in order; settings count as native."""
        found = []
        for level in ("static", "semantic", "native", "behaviour"):
            names = (level, "settings") if level == "native" else (level,)
            checks = tuple(check for check in self.checks if check.level in names)
            if checks:
                found.append(Part(level, checks))
        return tuple(found)

    @property
    def exit_code(self) -> int:
        """0 PASS, 1 FAIL, 3 INCONCLUSIVE."""
        return self.verdict.exit_code

    @property
    def compared(self) -> int:
        """How many numbers the two sides computed were compared; settings do not count."""
        return sum(check.elements for check in self.checks if check.level == "native")

    @property
    def arrays(self) -> int:
        """How many arrays these numbers are in."""
        return sum(check.arrays for check in self.checks if check.level == "native")

    @property
    def exact(self) -> bool:
        """Whether all that the two sides computed at L2 is equal bit for bit."""
        held = [c for c in self.checks if c.concluded is None and c.level != "behaviour"]
        return bool(self.compared) and all(check.exact for check in held)

    @property
    def first_failure(self) -> tuple[Check, Measurement] | None:
        """The failing check nearest the cause, with the measurement to look at."""
        for check in self.checks:
            if check.verdict is Verdict.FAIL and check.worst is not None:
                return check, check.worst
        return None

    @property
    def failed(self) -> Check | None:
        """The first failing check of those that have a say, of whatever level."""
        return next((c for c in self.gating if c.verdict is Verdict.FAIL), None)

    @property
    def summary(self) -> str:
        """The verdict's meaning in a sentence."""
        a, b = self.control.proved, self.candidate.proved
        amount = f"{self.arrays:,} arrays, {self.compared:,} numbers"
        if self.verdict is Verdict.INCONCLUSIVE:
            return f"{a} and {b}: {'; '.join(self.reasons)}"
        if self.first_failure is not None:
            check, m = self.first_failure
            at = m.problem or (m.max_abs.place if m.max_abs else m.path)
            where = at if m.path in at else f"{m.path}: {at}"
            when = "" if m.item == START else f" ({m.item})"
            return f"{a} and {b} differ, first in {check.name}{when}, at {where}"
        if self.failed is not None:
            return f"{a} and {b} differ: {titled(self.failed, self.failed.told)}"
        if not self.compared:
            passed = [p for p in self.by_level if p.verdict is Verdict.PASS]
            proved = next((p for p in passed if p.level in _EVIDENCE), passed[0])
            return f"{a} and {b} compute the same: {proved.told}"
        if self.exact:
            return f"{a} and {b} are exactly equal, bit for bit: {amount}"
        return f"{a} and {b} agree within the tolerance: {amount}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is not PASS, one sentence each."""
        found = list(self.doubts)
        for check in self.gating:
            if check.verdict is Verdict.FAIL:
                found.append(titled(check, describe(check)))
            elif check.verdict is Verdict.INCONCLUSIVE and check.level not in _MEANING:
                found.append(titled(check, check.reason))
        if self.uncovered and self.verdict is not Verdict.FAIL:
            found.append(self.uncovered)
        return tuple(found)

    @property
    def curve(self) -> Curve:
        """The training losses."""
        losses = [
            m.values
            for check in self.checks
            if check.name == "metrics"
            for m in check.measurements
            if m.path == "loss" and m.values is not None
        ]
        return Curve(
            tuple(range(1, len(losses) + 1)),
            tuple(a for a, _ in losses),
            tuple(b for _, b in losses),
        )

    def check(self, name: str, level: str | None = None) -> Check:
        """The check of that name, of one level, or of real arrays where several have it.

        Raises:
            KeyError: it was not run.
        """
        order = sorted(self.checks, key=lambda check: check.level in _MEANING, reverse=True)
        return {c.name: c for c in order if level in (None, c.level)}[name]

    @property
    def divergence(self) -> "Divergence | None":
        """Where the two sides first differ: by values if that is known, else by their programs."""
        for level, get in (("semantic", _first_value), ("static", _first_equation)):
            for check in self.checks:
                if check.level == level and (found := get(check.details)) is not None:
                    return found
        return None

    @property
    def codes(self) -> tuple[str, ...]:
        """Entries of the catalogue that fit what was found: see `maxmig parity explain`."""
        return explain.codes(self)

    def card(self) -> Card:
        """The evidence, sealed."""
        return card.of(self)

    def document(self) -> dict[str, Any]:
        """The report for `--json`: what is equal bit for bit is counted, not listed."""
        return document.of(self)


def _first_value(details: Any) -> "Divergence | None":
    first = getattr(details, "first", None)
    return getattr(first, "divergence", None)


def _first_equation(details: Any) -> "Divergence | None":
    return getattr(details, "first", None)
