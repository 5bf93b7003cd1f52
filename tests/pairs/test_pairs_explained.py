"""A failure is told by its cause: the user's own lines, the number, the right explanation."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from maxmig.cli.parity import terminal
from maxmig.parity import Pair, Report, pairs
from maxmig.parity.findings.check import Check
from maxmig.parity.findings.measurement import Measurement, Ratio
from maxmig.parity.pages import html
from maxmig.parity.reports import wording


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x)  # Linen's line


class Net(nnx.Module):
    def __init__(self):
        self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(x)  # NNX's line


@pytest.fixture(scope="module")
def report() -> Report:
    inputs = (np.random.default_rng(0).standard_normal((4, 3)).astype("float32"),)
    found = pairs.run(Pair(LinenNet(), Net(), inputs))
    return dataclasses.replace(found, notes=("a harmless note", *found.notes))


def test_another_momentum_is_called_so(report: Report) -> None:
    assert not report
    assert report.codes[0] == "momentum"
    assert "norm-epsilon" not in report.codes


def test_the_users_own_lines_are_told(report: Report) -> None:
    first = report.divergence
    assert first and first.control and first.candidate
    assert first.differences == ("constant 0.99 against 0.9",)
    assert "flax/linen/normalization.py" in first.control.source
    lines = Path(__file__).read_text().splitlines()
    for equation, text in ((first.control, "# Linen's line"), (first.candidate, "# NNX's line")):
        file, _, number = equation.caller.rpartition(":")
        assert file.endswith("test_pairs_explained.py")
        assert text in lines[int(number) - 1]
        assert f"called at {equation.caller}" in str(equation)


def test_the_page_shows_both_snippets_before_the_notes(report: Report) -> None:
    page = html.render(report)
    at = [page.index(text) for text in ("Linen&#39;s line", "NNX&#39;s line", "A harmless note")]
    assert at == sorted(at)
    assert "ra_mean" in page  # Flax's own lines as well
    passed = html.render(dataclasses.replace(report, checks=()))
    assert passed.index("A harmless note") < passed.index('<div class="levels">')


def test_the_terminal_says_nothing_twice(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.show(report)
    text = " ".join(capsys.readouterr().out.split())
    name = report.check("outputs (call)", "semantic").name
    assert f"{name}: {name}" not in text
    assert text.index("constant 0.99 against 0.9") < text.index("a harmless note")


def test_a_huge_ratio_is_told_as_two_errors() -> None:
    def check(candidate: float) -> Check:
        truth = Ratio(1e-8, candidate, 2.0)
        m = Measurement("train", "mean", elements=9, differing=9, rel_l2=candidate, truth=truth)
        return Check("state", "", (m,), limit=1e-5)

    assert wording.needs(check(3e-8)) == "error 3.00x the control's"
    told = wording.needs(check(0.3))
    assert told == "relative error 3.0e-01 from float64, and the control's is 1.0e-08"
