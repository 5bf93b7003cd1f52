"""Noise, recordings and their comparison, and the catalogue: the verbs besides `run`."""

import json
import re
import shutil

import numpy as np
import pytest

from maxmig import errors
from maxmig.cli import main
from maxmig.parity import Verdict
from maxmig.parity.recordings import compare, record
from maxmig.parity.recordings.recording import STATE, Recording, sampled
from maxmig.parity.reports import catalogue, explain
from maxmig.parity.rungs import noise, request

SETTINGS = ("max_target_length=16", "remat_policy=none")


@pytest.fixture(scope="module")
def one():
    import jax

    return {"devices": jax.devices()[:1]}


@pytest.fixture(scope="module")
def recorded(tiny, one, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording") / "linen"
    record.run(tiny(), folder, steps=2, **one)
    return folder


# -------------------------------------------------------------------------------------- recordings


def test_a_recording_against_a_rung_of_today(recorded, one):
    report = compare.run(Recording(recorded), candidate="nnx", **one)
    assert report.exact, report.summary
    assert (report.control.proved, report.candidate.proved) == ("linen", "nnx")
    assert report.check("params").arrays == 24 and report.coverage.gradients == 12
    assert any("recording" in note for note in report.notes)


def test_a_recording_against_itself_or_its_own_rung(recorded, one):
    report = compare.run(Recording(recorded), candidate="linen", **one)
    assert report.verdict is Verdict.INCONCLUSIVE and "both sides are linen" in report.summary
    with pytest.raises(errors.DataError, match="the same one twice"):
        compare.recordings(recorded, recorded)


def test_two_recordings_one_of_them_small(recorded, tiny, one, tmp_path):
    record.run(tiny(), tmp_path / "nnx", stage="nnx", steps=2, max_bytes=2 * 2**20, **one)
    other = Recording(tmp_path / "nnx")
    assert not all(entry.whole for entry in other.entries.values())
    report = compare.run(Recording(recorded), other)
    assert report.exact, report.summary
    record.run(tiny(), tmp_path / "hybrid", stage="hybrid", steps=1, **one)
    report = compare.run(Recording(recorded), Recording(tmp_path / "hybrid"))
    assert "different numbers of steps" in report.summary and report.exit_code == 3


def test_a_difference_is_found_even_in_a_sample(recorded, tiny, one, tmp_path, monkeypatch):
    """The other side computes with another epsilon, and keeps samples only."""
    cfg = tiny(normalization_layer_epsilon=2e-5)
    record.run(cfg, tmp_path / "nnx", stage="nnx", steps=2, max_bytes=700 * 2**10, **one)
    ours, theirs = Recording(recorded), Recording(tmp_path / "nnx")
    report = compare.run(ours, theirs)
    assert "different configurations" in report.summary and report.exit_code == 3
    theirs.manifest["config_digest"] = ours.manifest["config_digest"]
    report = compare.run(ours, theirs)
    assert report.verdict is Verdict.FAIL
    assert report.check("start").exact and not report.check("hidden").exact
    assert any("compared by a sample" in text for text in report.coverage.skipped)


def test_a_recording_that_was_changed(recorded, tiny, one, tmp_path):
    shutil.copytree(recorded, tmp_path / "copy")
    key = (STATE, STATE, "params/decoder/logits_dense/kernel")
    blob = tmp_path / "copy" / "blobs" / Recording(recorded).entries[key].sha256
    blob.write_bytes(b"\0" * blob.stat().st_size)
    with pytest.raises(errors.DataError, match="changed since the recording"):
        compare.run(Recording(tmp_path / "copy"), **one)
    manifest = tmp_path / "copy" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"steps": 2', '"steps": 3'))
    with pytest.raises(errors.DataError, match="it was edited after it was made"):
        Recording(tmp_path / "copy")
    with pytest.raises(errors.DataError, match="expected a recording that"):
        Recording(tmp_path)
    with pytest.raises(errors.DataError, match="expected an empty folder"):
        record.run(tiny(), recorded, steps=0, **one)
    with pytest.raises(errors.DataError, match="raise --max-size"):
        record.run(tiny(), tmp_path / "small", steps=0, max_bytes=1000, **one)


def test_samples_are_spread_and_bounded():
    assert sampled(np.arange(10)).tolist() == list(range(10))
    found = sampled(np.arange(1_000_000).reshape(1000, 1000))
    assert found.size <= 4096 and found[-1] > 990_000


# ------------------------------------------------------------------------------------------- noise


def test_a_rung_against_itself(tiny, one, tmp_path):
    found = noise.run(tiny(dtype="bfloat16"), stage="nnx", **one)
    kinds = {scatter.kind: scatter for scatter in found.kinds}
    assert kinds.keys() == noise.KINDS.keys()
    assert kinds["rerun"].exact and kinds["rejit"].exact
    assert 1e-5 < kinds["jitter"].largest["logits"].rel_l2 < 1e-1
    path = found.write(tmp_path / "noise.json")
    document = json.loads(path.read_text())
    assert document["stage"] == "nnx" and document["noise"]["rerun"]["exact"] is True
    assert document["noise"]["jitter"]["arrays"]
    assert request.read_noise(path).of("logits", "logits") == 0.0  # an ulp is no noise
    document["noise"]["rerun"]["arrays"] = [{"check": "logits", "path": "logits", "rel_l2": 0.5}]
    path.write_text(json.dumps(document))
    assert request.read_noise(path).of("logits", "logits") == 0.5


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"noise": {"rerun": 3}}'])
def test_what_is_no_noise(tmp_path, text):
    (tmp_path / "noise.json").write_text(text)
    with pytest.raises(errors.DataError, match="expected a file that `maxmig parity noise` wrote"):
        request.read_noise(tmp_path / "noise.json")


# --------------------------------------------------------------------------------------- catalogue


def test_every_entry_is_whole_and_every_code_has_an_entry(root):
    for entry in catalogue.ENTRIES:
        for text in (entry.symptom, entry.cause, entry.fix, entry.source):
            assert text.endswith(".") and len(text) > 20, entry.code
    text = (root / "maxmig/parity/reports/explain.py").read_text()
    used = re.findall(r'(?:yield|append\(|else) ?"([a-z-]+)"', text)
    assert len(used) > 15 and set(used) <= catalogue.BY_CODE.keys()


def test_a_pass_needs_no_explanation(tiny, compare):
    assert explain.codes(compare(tiny(), steps=0)) == ()


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main.main(["parity", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_explain(capsys):
    code, out, _ = run(capsys, "explain", "norm-promotion")
    assert code == 0 and "flax 0.12.1" in out and out.startswith("norm-promotion")
    code, out, _ = run(capsys, "explain")
    assert code == 0 and all(entry.code in out for entry in catalogue.ENTRIES)
    code, out, _ = run(capsys, "explain", "rope", "--json")
    assert json.loads(out)["code"] == "rope"
    code, _, err = run(capsys, "explain", "norm-promotoin")
    assert code == 2 and "did you mean norm-promotion" in err


def test_the_verbs(capsys, tmp_path):
    folder = str(tmp_path / "linen")
    small = ("base_num_decoder_layers=1", *SETTINGS)
    code, out, err = run(capsys, "record", "tiny_llama2", "-o", folder, "--steps", "0", *small)
    assert code == 0 and "arrays" in out, err
    page = str(tmp_path / "run")
    code, out, err = run(capsys, "compare", folder, "--candidate", "nnx", "--run-dir", page)
    assert code == 0 and "✓ PASS" in out.splitlines()[-1], err
    assert (tmp_path / "run" / "card.yaml").is_file()
    code, _, err = run(capsys, "compare", str(tmp_path))
    assert code == 4 and "expected a recording" in err and "Traceback" not in err
    file = str(tmp_path / "noise.json")
    code, out, err = run(capsys, "noise", "tiny_llama2", "-o", file, "--json", *small)
    assert code == 0 and json.loads(out)["file"] == file, err
