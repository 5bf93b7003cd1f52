"""A ratio of step times comes with its spread, and a long level says how far it is."""

from typing import Any

from maxmig.parity.rungs import native
from maxmig.parity.sides import performance
from maxmig.parity.sides.performance import Cost


def test_the_spread_of_step_times() -> None:
    control = Cost(0.010, steps=(0.010, 0.009, 0.020))
    candidate = Cost(0.012, steps=(0.012, 0.011, 0.018))
    told = performance.check(control, candidate, None).told
    assert told == "step time 1.20x (0.55x to 2.00x in 3 steps)"
    told = performance.check(Cost(0.01, steps=(0.01,)), Cost(0.03, steps=(0.03,)), None).told
    assert told == "step time 3.00x (of one step)"


def test_progress_inside_of_levels(tiny: Any, compare: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(native, "_QUIET", 0.0)
    notes: list[str] = []
    given = {"levels": ("L1", "L2"), "only": ("logits",), "steps": 0}
    assert compare(tiny(), note=notes.append, **given)
    assert "L1: forward in float64, 1 of 1" in notes
    assert "L2: control, logits (real)" in notes and "L2: candidate, logits (packed)" in notes
