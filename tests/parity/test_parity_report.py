"""The page, the JSON document and the command line."""

import functools
import json
import re
from html.parser import HTMLParser

import pytest

from maxmig import errors, parity
from maxmig.cli import console
from maxmig.cli.parity import common as verbs
from maxmig.config import Stage
from maxmig.parity import faults
from maxmig.parity.pages import html


@pytest.fixture(scope="module")
def passed(tiny, compare):
    return compare(tiny(), steps=2, command="maxmig parity run <tiny> & more", config_name="<tiny>")


@pytest.fixture(scope="module")
def failed(tiny, compare):
    path = "decoder/layers/self_attention/out/kernel"
    return compare(tiny(), steps=2, fault=faults.dropped_gradient(path))


class _Page(HTMLParser):
    """Checks that tags nest, and collects what could load something."""

    VOID = frozenset({"meta", "br", "wbr", "img", "link", "input", "hr"})

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.loads = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            local = (value or "").startswith(("#", "data:"))
            if name in ("src", "href", "xlink:href", "action", "srcset") and not local:
                self.loads.append((tag, value))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(report) -> tuple[str, _Page]:
    text = html.render(report)
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return text, page


def test_the_page_is_whole_and_loads_nothing(passed):
    text, page = read(passed)
    assert page.loads == [] and "script" not in page.tags
    assert "@import" not in text and "url(" not in re.sub(r"url\(#[^)]*\)", "", text)
    assert page.tags.count("svg") == 2  # what is exactly zero throughout is a sentence
    assert "Difference of each gradient: exactly zero throughout." in text
    assert "Difference by step: exactly zero throughout." in text
    assert "&lt;tiny&gt; &amp; more" in text and "<tiny>" not in text
    assert "✓ PASS" in text and "exactly equal, bit for bit" in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert "maxmig.linen.state.State" in text and "maxmig.nnx.state.State" in text
    assert "exactly 0 at every step" in text
    assert not re.search(r"#0a0b0\d", text)  # every colour of the figures is a variable of the page
    assert len(text) < 300_000


def test_the_page_of_a_failure_says_where(failed):
    text, page = read(failed)
    assert "✗ FAIL" in text and "Where to look first" in text
    assert "exactly zero in the candidate only" in text
    assert "fault was put in on purpose" in re.sub(r"\s+", " ", text).lower()
    assert "self_attention/<wbr>out/<wbr>kernel" in text
    assert "none\nwould pass" in text or "would pass" in text
    assert page.loads == []


def test_the_page_of_no_verdict(tiny, compare):
    text, page = read(compare(tiny(), control="nnx", candidate="nnx"))
    assert "? INCONCLUSIVE" in text and "nothing was compared" in text
    assert "svg" not in page.tags


def test_written_whole_to_a_file_or_a_folder(passed, tmp_path):
    assert html.write(passed, tmp_path / "a" / "b") == tmp_path / "a" / "b" / "report.html"
    file = html.write(passed, tmp_path / "c" / "mine.html")
    assert file == tmp_path / "c" / "mine.html"
    assert html.write(passed, file).read_text("utf-8").endswith("</html>")
    assert [p.name for p in file.parent.iterdir()] == ["mine.html"]


def test_a_place_that_cannot_be_written(passed, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DataError, match=r"expected to write the report.*--report"):
        html.write(passed, tmp_path / "file" / "report.html")


def test_the_document(passed, failed):
    document = json.loads(json.dumps(console.jsonable(passed.document()), allow_nan=False))
    assert document["schema_version"] == 2 and document["verdict"] == "PASS"
    assert document["exactly_equal"] is True and document["reasons"] == []
    assert document["proofs"]["candidate"]["proved"] == "nnx"
    assert document["proofs"]["candidate"]["modules"]["nnx.Model"] >= 1
    assert document["config_digest"] == passed.subject.config_digest
    assert document["versions"].keys() >= {"jax", "flax", "optax", "maxmig", "python"}
    assert document["command"] == "maxmig parity run <tiny> & more"
    assert document["coverage"]["parameters"] == document["coverage"]["gradients"] == 12
    checks = {check["name"]: check for check in document["checks"]}
    assert checks["gradients"]["arrays"] == 24 and checks["gradients"]["different"] == []
    assert checks["logits"]["limit"] == "bitwise" and checks["logits"]["passes_at"] == 0
    document = json.loads(json.dumps(console.jsonable(failed.document()), allow_nan=False))
    checks = {check["name"]: check for check in document["checks"]}
    assert document["verdict"] == "FAIL" and document["exit_code"] == 1
    assert checks["gradients"]["passes_at"] == "inf"
    assert len(checks["gradients"]["different"]) == 2
    assert checks["params"]["max_abs"]["path"].startswith("params/")


def test_results_are_frozen_and_tell_truth(passed, failed):
    assert bool(passed) and not bool(failed)
    assert bool(passed.check("logits")) and not bool(failed.check("gradients"))
    with pytest.raises(AttributeError):
        passed.steps = 7
    with pytest.raises(KeyError):
        passed.check("no such check")


# ------------------------------------------------------------------------------------ command line


def cli(capsys, *argv: str) -> tuple[int, str, str]:
    from maxmig.cli import main

    code = main.main(["parity", "run", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_rungs_of_the_command_line():
    assert tuple(stage.value for stage in Stage) == verbs.RUNGS


def test_the_verb(capsys, monkeypatch, compare, tmp_path):
    monkeypatch.setattr(
        parity, "run", functools.partial(parity.run, devices=compare.keywords["devices"])
    )
    monkeypatch.chdir(tmp_path)
    settings = ("max_target_length=16", "remat_policy=none", "--level", "L2")
    argv = ("tiny_llama2", "--steps", "2", "--report", str(tmp_path), *settings)
    code, out, err = cli(capsys, *argv)
    assert code == 0, err
    assert out.rstrip().splitlines()[-1].startswith("✓ PASS linen and nnx are exactly equal")
    for word in ("control", "candidate", "policy", "coverage", "L2", "gradients", "12/12"):
        assert word in out
    assert "report.html" in err and (tmp_path / "report.html").is_file()
    command = re.search(r"<pre>(.*)</pre>", (tmp_path / "report.html").read_text("utf-8"))
    assert command and command[1].startswith("maxmig parity run tiny_llama2 --control linen")
    assert command[1].endswith("max_target_length=16 remat_policy=none")


def test_the_verb_finds_a_difference(capsys, monkeypatch, compare, tmp_path):
    monkeypatch.chdir(tmp_path)
    broken = functools.partial(
        parity.run,
        devices=compare.keywords["devices"],
        fault=faults.perturbed("decoder/layers/mlp/wi_0/kernel", (3, 2, 5), 1e-3),
    )
    monkeypatch.setattr(parity, "run", broken)
    settings = ("--level", "L2", "max_target_length=16", "remat_policy=none")
    code, out, err = cli(capsys, "tiny_llama2", "--steps", "0", "--json", *settings)
    assert code == 1, err
    assert json.loads(out)["verdict"] == "FAIL"
    code, out, err = cli(capsys, "tiny_llama2", "--steps", "0", *settings)
    assert code == 1
    told = " ".join(out.split())
    assert told.count("1 of 39 differ: params/decoder/layers/mlp/wi_0/kernel") == 1
    assert "✗ FAIL" in out.rstrip().splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (("tiny_llama2", "--candidate", "linen"), 3, "both sides are linen"),
        (("tiny_llama2", "--candidate", "jnn"), 2, "invalid choice"),
        (("tiny_llama2", "--steps", "-1"), 2, "0 or more"),
        (("tiny_llama2", "--steps", "two"), 2, "whole number"),
        (("no_such",), 4, "no_such"),
        (("tiny_llama2", "--checkpoint", "no/such/place"), 4, "no/such/place"),
        (
            ("tiny_llama2", "--report", "/proc/nothing/report.html"),
            4,
            "expected to write the report",
        ),
    ],
)
def test_bad_requests(capsys, monkeypatch, compare, tmp_path, argv, code, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        parity, "run", functools.partial(parity.run, devices=compare.keywords["devices"])
    )
    found, out, err = cli(capsys, *argv)
    assert found == code, err
    assert text in out + err
    assert "Traceback" not in err
