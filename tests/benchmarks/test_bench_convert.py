"""The conversion benchmark: it runs, and its targets judge both ways."""

import json

import pytest

from maxmig.benchmarks import convert as bench
from maxmig.cli import main


def result(mib, **seconds):
    samples = {way: [bench.Sample(value, 600 << 20, 0)] for way, value in seconds.items()}
    return bench.SizeResult(mib, mib << 20, samples)


def test_targets_are_met_and_missed():
    good = result(1024, cp=1.0, rename=0.05, copy=1.2, stream=1.0, everything=3.0)
    bad = result(1024, cp=1.0, rename=0.2, copy=1.8, stream=2.0, everything=3.0)
    assert {v.verdict for v in bench.judge([good])} == {"PASS"}
    assert {v.verdict for v in bench.judge([bad])} == {"FAIL"}
    assert len(bench.judge([good])) == len(bench.judge([bad])) == 3


def test_growth_and_memory():
    small, large = result(256, rename=0.1), result(3072, rename=0.2)
    (growth,) = bench.judge([small, large])
    assert growth.value == 2.0 and growth.verdict == "FAIL"
    (memory,) = bench.judge([result(16, **{"stream-tight": 1.0})])
    assert memory.value == 600 and memory.verdict == "FAIL"


def test_a_small_run(capsys, tmp_path):
    words = ["--sizes", "4", "--repeats", "1", "--ways", "cp,rename,stream", "--json"]
    code = main.main(["bench", "convert", *words, "--folder", str(tmp_path)])
    told = json.loads(capsys.readouterr().out)
    assert code == 0 and set(told["sizes"][0]["samples"]) == {"cp", "rename", "stream"}
    assert told["sizes"][0]["samples"]["rename"][0]["written"] < 100_000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ways", "fly"], "expected some of cp, cp-sync, orbax"),
        (["--sizes", "big"], "expected MiB"),
        (["--folder", "/no/such"], "expected a directory"),
    ],
)
def test_bad_words(words, told, capsys):
    assert main.main(["bench", "convert", *words]) == 2
    assert told in capsys.readouterr().err
