"""What was found, in words: the same on the terminal, on the page and in a card."""

import math

from maxmig.parity.findings.check import Check
from maxmig.parity.findings.measurement import START, Extreme, Ratio

_TELLING = 100  # a ratio above tells that this is no rounding, and no more


def titled(check: Check, text: str) -> str:
    """A line that begins with the name of the check, once."""
    return f"{check.name}: {bare(check, text)}"


def bare(check: Check, text: str) -> str:
    """A line without the name of the program at its beginning, to stand beside the check's name."""
    return text.removeprefix(f"{getattr(check.details, 'program', check.name)}: ")


def describe(check: Check) -> str:
    """A failing check in a line: what, how much, where."""
    m = check.worst
    if m is None:
        return check.told or check.reason
    count = len(check.failures)
    when = "" if m.item == START else f", first in {m.item}"
    what = "differ" if check.limit is None else "do not pass"
    head = f"{count} of {check.arrays} {what}{when}: " if check.arrays > 1 else ""
    if m.problem:
        return f"{head}{m.path}: {m.problem}"
    assert m.max_abs is not None
    found = _error(m.truth) if m.truth and check.limit is not None else needs(check)
    return f"{head}{m.max_abs.place}, {sizes(m.max_abs)}; {found}"


def mapped(check: Check) -> bool:
    """Whether it is a mapping that was found: its words say it, and no arrays were compared."""
    return check.name == "mapping" and bool(check and check.told)


def sizes(extreme: Extreme) -> str:
    """A difference with both values."""
    return f"|{extreme.control:.9g} - {extreme.candidate:.9g}| = {number(extreme.value)}"


def relative(extreme: Extreme) -> str:
    """A relative difference with both values: it is of the larger one."""
    larger = max(abs(extreme.control), abs(extreme.candidate))
    apart = f"|{extreme.control:.9g} - {extreme.candidate:.9g}|"
    return f"{apart} / {larger:.9g} = {number(extreme.value)}"


def needs(check: Check) -> str:
    """Which tolerance would have passed, in words."""
    if check.concluded is not None:
        return check.told
    if check.exact:
        return "exactly equal, bit for bit"
    if math.isinf(check.needed):
        return "no tolerance would pass"
    if not check.needed:
        return f"equal values, but {check.differing} have other bits (the signs of zeros)"
    if check.triangulated and check.limit is not None:
        return _error(max((m.truth for m in check.measurements if m.truth), key=lambda t: t.ratio))
    return f"passes at a relative L2 tolerance of {number(check.needed)}"


def _error(truth: Ratio) -> str:
    """How far the candidate is from float64, beside the control."""
    if truth.ratio < _TELLING:
        return f"error {truth.ratio:.2f}x the control's"
    return (
        f"relative error {truth.candidate:.1e} from float64, and the control's is "
        f"{truth.control:.1e}"
    )


def number(value: float) -> str:
    """A difference: exact zero is `0`, so that it can be told from a small one."""
    return "0" if value == 0 else f"{value:.3g}"
