"""`maxmig bench train` from the command line."""

import json
import os
import subprocess
import sys

import pytest

from maxmig.benchmarks import train
from maxmig.cli import main

SMALL = ("base_emb_dim=16", "base_mlp_dim=32", "base_num_decoder_layers=2", "vocab_size=64")


def test_quick_run_prints_one_document():
    """In a process of its own: the tests' simulated devices are not for the baseline."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    argv = ["-m", "maxmig", "bench", "train", "--quick", "--steps", "2", "--json", *SMALL]
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["machine"]["cores"] >= 1
    candidates = found["cases"]["tiny"]
    assert list(candidates) == ["linen", "nnx", "pure"]
    for entry in candidates.values():
        assert entry["steps"] == 2
        assert 0 < entry["dispatch_ms"] <= entry["step_ms"]
        assert entry["compile_seconds"] > 0 and entry["program_bytes"] > 0
    assert candidates["linen"]["program_bytes"] == pytest.approx(
        candidates["nnx"]["program_bytes"], rel=0.02
    )
    step = next(t for t in found["targets"] if t["what"] == "step time, nnx / linen")
    assert step["verdict"] == "SKIP"  # two steps tell nothing


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cases", "huge"], "huge is not one of medium"),
        (["--candidates", "linen,torch"], "expected different ones of linen,nnx,pure"),
        (["--quick", "--check"], "judges at least 20 steps"),
        (["--quick", "no_such_key=1"], "no_such_key"),
    ],
)
def test_bad_arguments(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main.main(["bench", "train", *argv]) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run_case", interrupted)
    assert main.main(["bench", "train", "--quick"]) == 130
    assert "finished cases: none" in capsys.readouterr().err
