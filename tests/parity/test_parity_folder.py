"""The folder of a run: every file of it, and the page as a browser shows it."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest

from maxmig import errors
from maxmig.cli import main
from maxmig.parity import faults
from maxmig.parity.pages import folder, junit, markdown
from maxmig.parity.reports.card import Card

FILES = {"run.json", "metrics.jsonl", "report.html", "report.md", "junit.xml", "card.yaml"}


@pytest.fixture(scope="module")
def passed(tiny, compare):
    return compare(tiny(), steps=2, levels=("L0", "L2"), command="maxmig parity run <tiny>")


@pytest.fixture(scope="module")
def failed(tiny, compare):
    fault = faults.setting(normalization_layer_epsilon=2e-5)
    cfg = tiny(dtype="bfloat16")
    return compare(cfg, levels=("L0", "L1", "L2", "L3"), only=("logits", "hidden"), fault=fault)


def test_every_file_is_there(passed, tmp_path):
    place = folder.write(passed, tmp_path / "run")
    assert {path.name for path in place.iterdir()} == FILES == set(folder.FILES)
    document = json.loads((place / "run.json").read_text("utf-8"))
    assert document["verdict"] == "PASS" and document["levels"]["static"]["verdict"] == "PASS"
    assert document["subject"]["code_digest"] and set(document["files"]) == FILES
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    settings = passed.check("configuration").arrays
    assert len(lines) == passed.arrays + settings + 7
    proof = next(line for line in lines if line["check"] == "train_step")
    assert proof["verdict"] == "PASS" and "47 of 47" in proof["found"]
    one = next(line for line in lines if line["check"] == "hidden" and "error_ratio" in line)
    assert one["passes"] is True and one["error_control"] > 0
    assert Card.load(place).genuine
    assert folder.write(passed, place) == place  # again, over the old one


def test_metrics_of_a_failure(failed, tmp_path):
    lines = folder.metrics(failed)
    assert any(line.get("passes") is False for line in lines)
    document = json.loads(json.dumps(folder.metrics(failed)[-1], default=str))
    assert document["level"] == "L3"


def test_junit_is_what_ci_reads(passed, failed):
    root = ET.fromstring(junit.render(passed))
    assert (root.get("failures"), root.get("errors")) == ("0", "0")
    assert int(root.get("tests")) == len(passed.checks)
    root = ET.fromstring(junit.render(failed))
    assert int(root.get("failures")) >= 2
    messages = [node.get("message") for node in root.iter("failure")]
    assert any("norm" in message for message in messages)


def test_what_is_inconclusive_is_an_error_in_junit(tiny, compare):
    report = compare(tiny(), control="nnx", candidate="nnx")
    root = ET.fromstring(junit.render(report))
    assert root.get("errors") == "1" and "both sides are nnx" in root.find(".//error").get(
        "message"
    )


def test_markdown_for_a_pull_request(passed, failed):
    text = markdown.render(passed)
    assert text.startswith("## ✅ Parity PASS: linen against nnx")
    assert "| L0 static | ✅ PASS |" in text and "maxmig parity run <tiny>" in text
    text = markdown.render(failed)
    assert text.startswith("## ❌ Parity FAIL")
    assert "**First difference** in `decoder/layers_0/pre_self_attention_layer_norm`" in text
    assert "maxmig parity explain norm-epsilon" in text
    assert len(text) < 65_000  # what a comment may hold


def test_the_page_of_a_failure_shows_both_lines_of_source(failed):
    from maxmig.parity.pages import html

    text = html.render(failed)
    assert "First difference in" in text and text.count('<pre class="source">') == 2
    assert text.count("cfg.epsilon") >= 2 and "<b>2e-05</b>" in text
    assert "Likely causes" in text and "norm-epsilon" in text
    assert text.count("<svg") >= 2  # error by depth; KL by position
    assert "Error against depth" in text and "KL by position" in text
    assert not re.search(r"https?://(?!www\.w3\.org)", text)


def test_numbered_folders(tmp_path):
    assert [folder.numbered(tmp_path / "parity").name for _ in range(3)] == ["0001", "0002", "0003"]
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DataError, match="--run-dir"):
        folder.numbered(tmp_path / "file")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium here")
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_page_in_a_browser(passed, failed, tmp_path, mode):
    """It draws: wide enough, in the right colours, and with the colour of its verdict."""
    mpl_image = pytest.importorskip("matplotlib.image")
    for report, verdict in ((passed, "PASS"), (failed, "FAIL")):
        place = folder.write(report, tmp_path / verdict)
        shot = tmp_path / f"{verdict}.png"
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--force-dark-mode"] if mode == "dark" else []
        command += ["--window-size=1200,900", f"--user-data-dir={tmp_path / 'profile'}"]
        command += [f"--screenshot={shot}", (place / "report.html").as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        pixels = mpl_image.imread(shot)[:, :, :3]
        assert pixels.shape[:2] == (900, 1200)
        corner = pixels[5, 5].mean()
        assert corner > 0.9 if mode == "light" else corner < 0.2
        red, green = pixels[:, :, 0], pixels[:, :, 1]
        vivid = (red > green + 0.3) if verdict == "FAIL" else (green > red + 0.2)
        assert vivid.mean() > 1e-3


# ------------------------------------------------------------------------------------ command line


def cli(capsys, *argv: str) -> tuple[int, str, str]:
    code = main.main(["parity", "run", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


SMALL = ("base_num_decoder_layers=1", "max_target_length=16", "remat_policy=none")


def test_the_ladder(capsys, tmp_path):
    place = str(tmp_path)
    argv = ("tiny_llama2", "--ladder", "--level", "L0", "--only", "logits")
    argv += ("--run-dir", place, *SMALL)
    code, out, err = cli(capsys, *argv)
    assert code == 0, err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "linen_bridged-decoder",
        "bridged-decoder_bridged",
        "bridged_hybrid",
        "hybrid_nnx",
        "linen_nnx",
    }
    assert out.count("✓ PASS") == 6
    assert "bridged-decoder   bridged           ✓ PASS    1 output proved" in out
    assert out.rstrip().endswith("✓ PASS 5 of 5 pairs of rungs agree")
    assert Card.load(tmp_path / "hybrid_nnx").subject["control"] == "hybrid"


def test_every_run_writes_a_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ("tiny_llama2", "--level", "L0", "--only", "logits", "--json", *SMALL)
    code, out, err = cli(capsys, *argv)
    assert code == 0, err
    document = json.loads(out)
    assert document["run_dir"].endswith("parity/0001") and document["only"] == ["logits"]
    assert (tmp_path / document["run_dir"] / "card.yaml").is_file()
    command = document["command"]
    assert "--level L0 " in command and "--only logits" in command


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (("--level", "L9"), 2, "level 'L9'"),
        (("--only", "nothing"), 2, "--only 'nothing'"),
        (("--tokens", "0"), 2, "1 or more"),
        (("--gate-performance", "-1"), 2, "above 0"),
        (("--dtype", "int8"), 2, "invalid choice"),
        (("--noise", "no/such.json"), 4, "expected a file that `maxmig parity noise` wrote"),
        (("--run-dir", "/proc/nothing"), 4, "expected to write the report"),
        (("--ladder", "--report", "a.html"), 2, "--run-dir instead"),
    ],
)
def test_bad_requests(capsys, tmp_path, monkeypatch, argv, code, text):
    monkeypatch.chdir(tmp_path)
    found, out, err = cli(capsys, "tiny_llama2", *argv, *SMALL)
    assert found == code, err
    assert text in out + err and "Traceback" not in err
