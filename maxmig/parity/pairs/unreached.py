"""What the inputs of a pair reach, and what not: weights, bounds and choices of one side alone."""

from collections.abc import Iterable, Mapping, Sequence

from maxmig.parity.findings import doubts
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.findings.subject import Coverage
from maxmig.parity.pairs import drawn, guards
from maxmig.parity.pairs.compute import OUTPUTS, Computation
from maxmig.parity.pairs.drawn import Draw


def coverage(checks: Sequence[Check], variables: Iterable[str], skipped: Sequence[str]) -> Coverage:
    """Which weights were compared by their gradients.

    Args:
        checks: of all levels.
        variables: paths of the control's variables, as `params/...` and of other collections.
        skipped: what was not run, with the reason.
    """
    params = {path for path in variables if path.startswith("params/")}
    found = [
        m
        for check in checks
        if check.name == "gradients" and check.level == "native"
        for m in check.measurements
    ]
    return Coverage(
        parameters=len(params),
        gradients=len({m.path.partition("@")[0] for m in found} & params),
        zero_gradients=tuple(dict.fromkeys(m.path for m in found if m.zero)),
        skipped=tuple(skipped),
    )


def constant(
    checks: Sequence[Check], computations: Sequence[Computation], draws: Mapping[str, Draw]
) -> tuple[str, ...]:
    """Why inputs that are one number throughout prove nothing, where there are no others."""
    if any(check.verdict is Verdict.FAIL for check in checks):
        return ()
    for c in computations:
        draw = draws.get(c.mode)
        flat = drawn.constant(c.given[0].values) if draw is not None and draw.inputs is None else ()
        if flat and not doubts.proved(checks, f"outputs ({c.mode})"):
            return (
                f"{', '.join(flat)}: one number throughout, so that much can differ unseen; "
                f"{draw.why if draw and draw.why else 'no others were drawn'}; give other inputs",
            )
    return ()


def guarded(
    checks: Sequence[Check], computations: Sequence[Computation], draws: Mapping[str, Draw]
) -> tuple[str, ...]:
    """Bounds and choices of one side alone that no input reaches and no proof covers."""
    if any(check.verdict is Verdict.FAIL for check in checks) or doubts.numbers(checks):
        return ()
    for c in computations:
        program = f"{OUTPUTS} ({c.mode})"
        if doubts.proved(checks, program):
            continue
        more = draws[c.mode].inputs if c.mode in draws else None
        inputs = [c.inputs, *([more] if more is not None else [])]
        lone = guards.unseen(c.program(OUTPUTS, 0), c.program(OUTPUTS, 1), inputs)
        if lone:
            return (
                f"{program}: {doubts.some(lone)}; these inputs do not reach it, and it is not "
                "proved; give inputs that do, or write both sides alike",
            )
    return ()
