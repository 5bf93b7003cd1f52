"""The learning rate, step by step, against MaxText's formulas."""

import math

import helpers
import numpy as np
import pytest

from maxmig import optim


def rates(*options: str, count: int) -> list[float]:
    cfg = helpers.config("tiny_llama2", "learning_rate=0.5", *options)
    schedule = optim.learning_rate(cfg)
    return [float(schedule(step)) for step in range(count)]


def piece(length: int, style: str, final: float) -> list[float]:
    """A decay from 0.5 that reaches final * 0.5 at its last step."""
    out = []
    for i in range(length):
        x = i / max(length - 1, 1)
        a = 0.5 * (math.cos(math.pi * x) + 1) if style == "cosine" else 1 - x
        out.append(0.5 * (a + final * (1 - a)))
    return out


def warmup(length: int) -> list[float]:
    return [0.5 * i / length for i in range(length)]


@pytest.mark.parametrize(
    ("steps", "fraction"), [(40, 0.1), (40, 0.0), (7, 0.3), (1, 0.0), (3, 0.1)]
)
def test_cosine(steps: int, fraction: float) -> None:
    got = rates(
        f"steps={steps}",
        f"warmup_steps_fraction={fraction}",
        "learning_rate_final_fraction=0.2",
        count=steps + 3,
    )
    up = int(steps * fraction)
    wanted = warmup(up) + piece(steps - up, "cosine", 0.2) + [0.0] * 3
    assert got == pytest.approx(wanted, abs=1e-7)
    assert steps < 2 or got[steps - 1] == pytest.approx(0.1)


@pytest.mark.parametrize("style", ["linear", "cosine"])
@pytest.mark.parametrize(("warm", "decay"), [(0.1, 0.25), (0.0, 0.25), (0.1, 0.0), (0.5, 0.5)])
def test_warmup_stable_decay(style: str, warm: float, decay: float) -> None:
    got = rates(
        "steps=40",
        "lr_schedule_type=wsd",
        f"warmup_steps_fraction={warm}",
        f"wsd_decay_steps_fraction={decay}",
        f"wsd_decay_style={style}",
        "learning_rate_final_fraction=0.1",
        count=42,
    )
    up, down = int(40 * warm), int(40 * decay)
    wanted = warmup(up) + [0.5] * (40 - up - down) + piece(down, style, 0.1) + [0.0] * 2
    assert got == pytest.approx(wanted, abs=1e-7)


def test_the_two_styles_of_decay_differ() -> None:
    linear, cosine = (np.array(piece(10, style, 0.1)) for style in ("linear", "cosine"))
    assert np.abs(linear - cosine).max() > 0.04


def test_the_schedule_may_be_longer_than_the_run() -> None:
    longer = rates("steps=10", "learning_rate_schedule_steps=40", count=10)
    assert longer == rates("steps=40", count=10)
    assert longer != rates("steps=10", count=10)
