"""Differences that these inputs do not reach: equal results of programs that are not the same."""

import re
from collections.abc import Sequence

from maxmig.parity.pairs import known
from maxmig.parity.results import Check, Verdict
from maxmig.parity.static import Divergence, Proof

# A constant that one side rounded to float32 is no other constant.
_ROUNDING = 1e-6
# Parameters that many inputs, or one kind of device, do not show.
_PARAMETERS = re.compile(r"(is_stable|precision|mode|fill_value) ")


def doubts(checks: Sequence[Check]) -> tuple[str, ...]:
    """Why equal numbers are not enough: the programs are the same but for a number or an option.

    A bound that no input crosses, a loop that always ends early, the order of what is tied.
    """
    if any(check.verdict is Verdict.FAIL for check in checks):
        return ()
    found: dict[str, str] = {}
    for proof in _open(checks):
        # A loop that has other numbers in it is another loop: those numbers are what counts.
        parts = [d for d in proof.divergences if not _is_loop(d)]
        if proof.complete and parts and all(_by_number(d) for d in parts):
            told = "; ".join(_short(d) for d in parts)
            found.setdefault(told, proof.program)
    return tuple(
        f"{program}: the programs are the same but for this, and these inputs do not show it: "
        f"{told}; give inputs that reach it, or write both sides alike"
        for told, program in list(found.items())[:1]
    )


def notes(checks: Sequence[Check]) -> tuple[str, ...]:
    """Where two sides go different ways that nobody knows to be the same for all inputs."""
    proofs = [p for p in _open(checks) if not known.of_divergences(p.divergences)]
    if not proofs:
        return ()
    names = ", ".join(p.program for p in proofs)
    return (f"compared for these inputs, not proved for all: {names}; see L0",)


def _open(checks: Sequence[Check]) -> list[Proof]:
    """Proofs that found another way of writing it."""
    proofs = (check.details for check in checks if check.level == "static")
    return [p for p in proofs if isinstance(p, Proof) and not p.missing and p.divergences]


def _is_loop(divergence: Divergence) -> bool:
    one, two = divergence.control, divergence.candidate
    if one is None or two is None or one.primitive != two.primitive:
        return False
    fed = all(text.startswith("fed by ") for text in divergence.differences)
    return fed and one.primitive in ("while", "scan", "cond")


def _by_number(divergence: Divergence) -> bool:
    """Whether two equations are the same operation with another number or option."""
    one, two = divergence.control, divergence.candidate
    if one is None or two is None or one.primitive != two.primitive:
        return False
    if not all(d.startswith("constant ") or _PARAMETERS.match(d) for d in divergence.differences):
        return False
    if one.constants == two.constants:
        return True
    pairs = zip(one.constants, two.constants, strict=False)
    return len(one.constants) == len(two.constants) and any(_apart(*pair) for pair in pairs)


def _apart(one: str, two: str) -> bool:
    if one == two:
        return False
    try:
        a, b = float(one), float(two)
    except ValueError:  # True and False, an array
        return True
    return not abs(a - b) <= _ROUNDING * max(abs(a), abs(b))


def _short(divergence: Divergence) -> str:
    lines = (e.source if e else "" for e in (divergence.control, divergence.candidate))
    return f"{', '.join(divergence.differences)} ({' against '.join(dict.fromkeys(lines))})"
