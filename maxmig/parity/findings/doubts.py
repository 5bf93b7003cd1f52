"""Why equal numbers are not enough: the programs differ, and these inputs do not show it."""

import dataclasses
import re
from collections.abc import Sequence

from maxmig.parity.findings import known
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.static import Divergence, Proof

# A constant that one side rounded to float32 is no other constant.
_ROUNDING = 1e-6
# Parameters that many inputs, or one kind of device, do not show.
_PARAMETERS = re.compile(r"(is_stable|precision|mode|fill_value) ")


def settled(checks: Sequence[Check]) -> list[Check]:
    """The checks, where L1 leaves branches open that L0 has proved."""
    found = []
    for check in checks:
        open_ = getattr(check.details, "untaken", ())
        if open_ and check.verdict is Verdict.INCONCLUSIVE and proved(checks, check.name):
            told = f"{check.told.rpartition('; ')[0]}; not reached, but proved by L0: {open_[0]}"
            check = dataclasses.replace(check, concluded=Verdict.PASS, told=told)
        found.append(check)
    return found


def of(checks: Sequence[Check], still: Sequence[str]) -> tuple[str, ...]:
    """Why equal numbers are not enough.

    The programs are the same but for a number or an option (a bound that no input crosses, a loop
    that always ends early, the order of what is tied); a branch is not taken; a weight is not used.

    Args:
        checks: of all levels.
        still: trained leaves that move nothing when they are moved.
    """
    if any(check.verdict is Verdict.FAIL for check in checks):
        return ()
    return (*numbers(checks), *_branches(checks), *_weights(checks, still))


def _branches(checks: Sequence[Check]) -> tuple[str, ...]:
    """Branches that neither the inputs reach nor a proof covers."""
    for check in checks:
        open_ = getattr(check.details, "untaken", ())
        if open_ and not proved(checks, check.name):
            return (
                f"{check.name}: these inputs do not reach {some(open_)}, and it is not proved; "
                "give inputs that take every branch, or write both sides alike",
            )
    return ()


def _weights(checks: Sequence[Check], still: Sequence[str]) -> tuple[str, ...]:
    """Weights that neither the inputs reach nor a proof covers."""
    used: dict[str, bool] = {}
    for check in checks:
        if check.name == "gradients" and check.level == "native":
            for m in check.measurements:
                used[m.path] = used.get(m.path, False) or not m.zero
    if any(check.doubt for check in checks if check.level == "native"):
        return ()  # nothing moves what is NaN
    if not used:
        return ()  # no output is a float, so nothing tells whether a weight moves it
    programs = [c.name for c in checks if c.level == "static"]
    outputs = [name for name in programs if name.startswith("outputs")]
    if outputs and all(proved(checks, name) for name in outputs):
        return ()
    lone = [path for path in still if not used.get(path, False) and not _same(checks, path)]
    if not lone:
        return ()
    return (
        f"these inputs do not reach {some(lone)}: moving it moves nothing and its gradient is "
        "zero, on both sides, so nothing of it was compared, and it is not proved (L0); give "
        "inputs that use it",
    )


def _same(checks: Sequence[Check], path: str) -> bool:
    """Whether the gradient of a weight is proved, in every mode."""
    proofs = [c.details for c in checks if c.level == "static" and c.name.startswith("gradients")]
    return bool(proofs) and all(f"gradients/{path}" in proof.proved for proof in proofs)


def proved(checks: Sequence[Check], name: str) -> bool:
    """Whether L0 proved a program, but for what is known to be the same."""
    for check in checks:
        if check.level == "static" and check.name == name:
            proof = check.details
            known_only = proof.complete and bool(known.of_divergences(proof.divergences))
            unproved = proof.missing or proof.unprovable
            return bool(proof) or (known_only and not unproved)
    return False


def some(items: Sequence[str]) -> str:
    """The first of several things, and how many more there are."""
    return items[0] + (f", and {len(items) - 1} more" if len(items) > 1 else "")


def numbers(checks: Sequence[Check]) -> tuple[str, ...]:
    """Numbers and options that alone keep two programs apart, where no result shows them."""
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
