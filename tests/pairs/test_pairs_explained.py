"""A failure is told by its cause: the user's own lines, the number, the right explanation."""

import dataclasses
import re
from pathlib import Path

import markupsafe
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from maxmig.cli.parity import terminal
from maxmig.parity import Pair, Report, pairs
from maxmig.parity.findings import words
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.findings.measurement import Measurement, Ratio
from maxmig.parity.findings.policy import Policy
from maxmig.parity.findings.subject import Side, Subject
from maxmig.parity.pages import html, markdown
from maxmig.parity.reports import wording
from maxmig.parity.static.results import Divergence, Equation, Proof


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
    told: list[str] = []
    found = pairs.run(Pair(LinenNet(), Net(), inputs), note=told.append)
    assert {"L2: real arrays", "L2: outputs, call", "L2: gradients, call"} <= set(told)
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
    assert passed.index('<div class="levels">') < passed.index("A harmless note")
    assert passed.count('<section class="note">') == page.count('<section class="note">') == 1


def test_the_terminal_says_nothing_twice(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.show(report)
    text = " ".join(capsys.readouterr().out.split())
    name = report.check("outputs (call)", "semantic").name
    assert f"{name}: {name}" not in text
    assert text.index("constant 0.99 against 0.9") < text.index("a harmless note")
    for check in report.checks:
        if check.failures:
            assert text.count(wording.describe(check)) == 1
    assert "4 NNX leaves mapped; of 4 Linen leaves" in text
    assert "4 arrays, 4 numbers" not in text  # no arrays were compared to find the mapping
    assert "1 segment" not in text and "0.0e+00" not in text


def test_what_is_told_elsewhere_is_no_further_difference(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.show(dataclasses.replace(report, doubts=("a doubt of the whole run",)))
    out = capsys.readouterr().out
    told = [line for line in out.splitlines() if line.startswith("difference")]
    assert [line.split(maxsplit=1)[1] for line in told] == ["a doubt of the whole run"]
    text = markdown.render(dataclasses.replace(report, doubts=("a doubt of the whole run",)))
    assert "**Also**\n\n- a doubt of the whole run\n\n" in text
    assert text.count("do not pass") + text.count(" differ, first in") <= 2


def test_a_known_difference_is_no_first_one_where_all_agrees(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def parted(*files: str) -> Report:
        equations = (Equation("mul", (3,), "float32", f"{file}:7") for file in files)
        proof = Proof("outputs", ("a",), ("b",), divergences=(Divergence(*equations, "norm"),))
        m = Measurement("call", "outputs", "float32", (3,), 3)
        return Report(
            Subject("pair", "", "a model", 3, {"dtype": "float32"}, "1 x cpu"),
            Side("linen", "linen", "", {}, ""),
            Side("nnx", "nnx", "", {}, ""),
            Policy("ratio", "bit for bit", {}),
            (
                Check("outputs", "", level="static", concluded=Verdict.INCONCLUSIVE, details=proof),
                Check("loss", "", level="semantic", concluded=Verdict.PASS),
                Check("outputs", "", (m,)),
            ),
        )

    norms = ("flax/linen/normalization.py", "flax/nnx/nn/normalization.py")
    for files, first in ((norms, 0), (("mine.py", "yours.py"), 1)):
        found = parted(*files)
        assert found, found.summary
        terminal.show(found)
        assert capsys.readouterr().out.count("no failure, the values agree") == first
        assert markdown.render(found).count("no failure, the values agree") == first


def test_the_numbers_of_a_difference_make_a_true_equation(report: Report) -> None:
    assert report.first_failure is not None
    check, m = report.first_failure
    assert m.max_rel is not None and m.truth is not None
    told = wording.relative(m.max_rel)
    a, b, larger, value = map(
        float, re.findall(r"-?[0-9.]+(?:e[-+]\d+)?", told.replace(" - ", " "))
    )
    assert value == pytest.approx(abs(a - b) / larger, rel=1e-2)
    page = html.render(report)
    assert markupsafe.escape(told) in page
    assert f"{m.truth.ratio:.3g} times" in page
    # The terminal tells the errors of the same array.
    assert f"{m.truth.candidate:.1e} from float64" in wording.describe(check)


def test_long_lists_and_single_things() -> None:
    assert words.few(["a", "b", "c"]) == "a, b, c"
    assert words.few(["a", "b", "c", "d", "e"]) == "a, b, c, and 2 more"
    assert [words.counted(n, "array") for n in (0, 1, 2048)] == [
        "0 arrays",
        "1 array",
        "2,048 arrays",
    ]


def test_a_huge_ratio_is_told_as_two_errors() -> None:
    def check(candidate: float) -> Check:
        truth = Ratio(1e-8, candidate, 2.0)
        m = Measurement("train", "mean", elements=9, differing=9, rel_l2=candidate, truth=truth)
        return Check("state", "", (m,), limit=1e-5)

    assert wording.needs(check(3e-8)) == "error 3.00x the control's"
    told = wording.needs(check(0.3))
    assert told == "relative error 3.0e-01 from float64, and the control's is 1.0e-08"
