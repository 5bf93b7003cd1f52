"""The report of a parity run: its verdict, why, and the JSON document of it."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from maxmig.parity.policy import Policy
from maxmig.parity.results import (
    START,
    Check,
    Coverage,
    Curve,
    Extreme,
    Input,
    Measurement,
    Origin,
    Side,
    Subject,
    Verdict,
)

SCHEMA_VERSION = 1


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
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    command: str = ""
    made: str = ""
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.verdict is Verdict.PASS

    @property
    def verdict(self) -> Verdict:
        """FAIL if a check fails, else INCONCLUSIVE if anything is in doubt, else PASS."""
        verdicts = {check.verdict for check in self.checks}
        if Verdict.FAIL in verdicts:
            return Verdict.FAIL
        if self.doubts or not self.compared or Verdict.INCONCLUSIVE in verdicts:
            return Verdict.INCONCLUSIVE
        return Verdict.PASS

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
        """Whether everything that was compared is equal bit for bit."""
        return bool(self.compared) and all(check.exact for check in self.checks)

    @property
    def first_failure(self) -> tuple[Check, Measurement] | None:
        """The failing check nearest the cause, with the measurement to look at."""
        for check in self.checks:
            if check.verdict is Verdict.FAIL and check.worst is not None:
                return check, check.worst
        return None

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
        if self.exact:
            return f"{a} and {b} are exactly equal, bit for bit: {amount}"
        return f"{a} and {b} agree within the tolerance: {amount}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is not PASS, one sentence each."""
        found = list(self.doubts)
        for check in self.checks:
            if check.verdict is Verdict.FAIL:
                found.append(f"{check.name}: {describe(check)}")
            elif check.verdict is Verdict.INCONCLUSIVE:
                found.append(f"{check.name}: {check.reason}")
        if not found and not self.compared:
            found.append("nothing was compared")
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

    def check(self, name: str) -> Check:
        """The check of that name.

        Raises:
            KeyError: it was not run.
        """
        return {check.name: check for check in self.checks}[name]

    def document(self) -> dict[str, Any]:
        """The report for `--json`: what is equal bit for bit is counted, not listed."""
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "maxmig.parity.run",
            "command": self.command,
            "verdict": self.verdict.value,
            "exactly_equal": self.exact,
            "summary": self.summary,
            "reasons": self.reasons,
            "notes": self.notes,
            "exit_code": self.exit_code,
            "config": self.subject.config,
            "config_digest": self.subject.config_digest,
            "subject": dataclasses.asdict(self.subject),
            "proofs": {
                "control": dataclasses.asdict(self.control),
                "candidate": dataclasses.asdict(self.candidate),
            },
            "policy": dataclasses.asdict(self.policy),
            "origin": dataclasses.asdict(self.origin) if self.origin else None,
            "inputs": [dataclasses.asdict(i) for i in self.inputs],
            "steps": self.steps,
            "checks": [_check(check) for check in self.checks],
            "curve": dataclasses.asdict(self.curve),
            "coverage": dataclasses.asdict(self.coverage),
            "versions": dict(self.environment),
            "made": self.made,
            "seconds": round(self.seconds, 2),
        }


def describe(check: Check) -> str:
    """A failing check in a line: what, how much, where."""
    m = check.worst
    if m is None:
        return check.reason
    count = len(check.failures)
    when = "" if m.item == START else f", first in {m.item}"
    head = f"{count} of {check.arrays} differ{when}: " if check.arrays > 1 else ""
    if m.problem:
        return f"{head}{m.path}: {m.problem}"
    assert m.max_abs is not None
    return f"{head}{m.max_abs.place}, {sizes(m.max_abs)}; {needs(check)}"


def sizes(extreme: Extreme) -> str:
    """A difference with both values."""
    return f"|{extreme.control:.9g} - {extreme.candidate:.9g}| = {number(extreme.value)}"


def needs(check: Check) -> str:
    """Which tolerance would have passed, in words."""
    if check.exact:
        return "exactly equal, bit for bit"
    if math.isinf(check.needed):
        return "no tolerance would pass"
    if not check.needed:
        return f"equal values, but {check.differing} have other bits (the signs of zeros)"
    return f"passes at a relative L2 tolerance of {number(check.needed)}"


def number(value: float) -> str:
    """A difference: exact zero is `0`, so that it can be told from a small one."""
    return "0" if value == 0 else f"{value:.3g}"


def _check(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "level": check.level,
        "title": check.title,
        "verdict": check.verdict.value,
        "reason": check.reason,
        "limit": "bitwise" if check.limit is None else check.limit,
        "exactly_equal": check.exact,
        "arrays": check.arrays,
        "elements": check.elements,
        "differing": check.differing,
        "max_abs": _extreme(check.max_abs),
        "max_rel": _extreme(check.max_rel),
        "passes_at": check.needed,
        "worst": check.worst and dataclasses.asdict(check.worst),
        "items": {
            item: {"verdict": part.verdict.value, "arrays": part.arrays, "passes_at": part.needed}
            for item, part in check.items.items()
        },
        "different": [dataclasses.asdict(m) for m in check.measurements if not m.exact],
    }


def _extreme(extreme: Extreme | None) -> dict[str, Any] | None:
    return dataclasses.asdict(extreme) if extreme else None
