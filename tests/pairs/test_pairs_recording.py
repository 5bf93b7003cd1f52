"""A side of a pair is recorded, and compared when the other module is not there any more."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pairs_zoo as zoo
import pytest
from flax import linen as nn
from flax import nnx

from maxmig import errors
from maxmig.cli import main as cli
from maxmig.parity import Pair
from maxmig.parity.findings.check import Verdict
from maxmig.parity.pairs import later, noise, recording
from maxmig.parity.recordings.recording import Recording
from maxmig.parity.rungs import request

X = zoo.normal(4, 8)


class LinenNet(nn.Module):
    """Statistics, dropout, and two square layers that trees alone cannot tell apart."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dense(8)(nn.relu(nn.Dense(8)(x)))
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


class Net(nnx.Module):
    def __init__(self, momentum: float = 0.99, renamed: bool = False):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(8, 8, rngs=rngs)
        self.second = nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=momentum, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        setattr(self, "out" if renamed else "head", nnx.Linear(8, 3, rngs=rngs))

    def __call__(self, x):
        x = self.dropout(self.norm(self.second(nnx.relu(self.first(x)))))
        return getattr(self, "head", None)(x) if hasattr(self, "head") else self.out(x)


def inputs(x: Any = X) -> dict[str, Any]:
    return {"x": x, "train": True}


def both() -> Pair:
    return Pair(LinenNet(), Net(), inputs(), optimizer=optax.adamw(1e-2))


def linen_alone():
    return LinenNet(), None, inputs()


def nnx_alone():
    """The inputs of today do not count."""
    return None, Net(), inputs(X + 1)


def renamed():
    return None, Net(renamed=True), inputs()


def mistaken():
    return None, Net(momentum=0.9), inputs()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded") / "both"
    recording.record(both, folder)
    return folder


def test_with_both_sides_and_steps(recorded: Path) -> None:
    report = later.compare(Recording(recorded), both)
    assert report.verdict is Verdict.PASS, report.summary
    assert report.control.proved == "linen" and report.candidate.proved == "nnx"
    assert {c.name for c in report.checks} >= {"mapping", "state", "params", "outputs (train)"}
    assert report.check("outputs (train)", "static") and report.check("outputs (train)", "semantic")
    assert report.coverage.gradients == report.coverage.parameters == 8


def test_after_the_linen_side_is_gone(recorded: Path) -> None:
    report = later.compare(Recording(recorded), nnx_alone)
    # The recorded steps are not made: the pair of today has no optimizer.
    assert report.verdict is Verdict.INCONCLUSIVE and "step: was recorded" in report.summary
    assert report.check("outputs").exact and report.check("state").exact
    report = later.compare(Recording(recorded), mistaken)
    assert report.verdict is Verdict.FAIL
    assert {m.item for m in report.check("state").failures} == {"train"}
    assert report.check("outputs").exact


def test_before_the_nnx_side_is_there(tmp_path: Path) -> None:
    recording.record(linen_alone, tmp_path / "linen")
    first = Recording(tmp_path / "linen")
    for candidate in (nnx_alone, renamed):
        report = later.compare(first, candidate)
        assert report, report.summary
        assert report.exact and any("found from the recorded layers" in n for n in report.notes)
        assert any("Dense_1 -> first, Dense_0 -> second" in n for n in report.notes)
    with pytest.raises(errors.DataError, match=r"expected inputs as they were recorded.*\[4, 8\]"):
        later.compare(first, lambda: (None, Net(), inputs(X[:2])))
    with pytest.raises(errors.ConfigError, match="nnx: expected a module, got None"):
        later.compare(first, linen_alone)


def test_a_module_whose_leaves_got_other_names(recorded: Path) -> None:
    report = later.compare(
        Recording(recorded), Pair(None, Net(renamed=True), inputs(), optimizer=optax.adamw(1e-2))
    )
    assert report, report.summary


def test_two_recordings_one_of_them_small(recorded: Path, tmp_path: Path) -> None:
    recording.record(both, tmp_path / "nnx", side="nnx", max_bytes=4000)
    first, second = Recording(recorded), Recording(tmp_path / "nnx")
    assert not all(entry.whole for entry in second.entries.values())
    report = later.compare(first, second)
    assert report, report.summary
    report = later.compare(second, first)
    assert report.control.proved == "nnx" and report, report.summary
    report = later.compare(second, both, side="linen")
    assert report.candidate.proved == "linen" and report, report.summary
    report = later.compare(first, both, side="linen")
    assert report.verdict is Verdict.INCONCLUSIVE and "both sides are linen" in report.summary


def test_recordings_of_other_weights(recorded: Path, tmp_path: Path) -> None:
    recording.record(Pair(LinenNet(), Net(), inputs(), seed=3), tmp_path / "nnx", side="nnx")
    report = later.compare(Recording(recorded), Recording(tmp_path / "nnx"))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "different weights or inputs, first" in report.summary


def test_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = "test_pairs_recording:"
    assert cli.main(["parity", "record", "--pair", f"{spec}linen_alone", "-o", "rec"]) == 0
    assert "linen: " in capsys.readouterr().out
    words = ["parity", "compare", "rec", "--pair"]
    assert cli.main([*words, f"{spec}nnx_alone", "--run-dir", "run"]) == 0
    assert "when it was recorded" not in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["verdict"] == "PASS"
    assert cli.main([*words, f"{spec}mistaken"]) == 1
    assert cli.main(["parity", "record", "--pair", f"{spec}both", "-o", "rec"]) == 4  # not empty
    for wrong in (
        ["record", "demo", "--pair", f"{spec}both", "-o", "x"],
        ["record", "--pair", f"{spec}both", "--stage", "hybrid", "-o", "x"],
        ["record", "--pair", f"{spec}nnx_alone", "-o", "x"],
        ["record", "-o", "x"],
        ["compare", "rec", "rec2", "--pair", f"{spec}both"],
        ["compare", "rec", "--pair", f"{spec}nnx_alone", "--candidate", "hybrid"],
        ["noise", "--pair", f"{spec}both", "--stage", "bridged"],
    ):
        assert cli.main(["parity", *wrong]) in (2, 4), wrong
        assert "Traceback" not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- noise


class LinenRestless(nn.Module):
    @nn.compact
    def __call__(self, x):
        import jax

        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        noise_ = jax.pure_callback(lambda: np.random.normal(size=x.shape).astype("f"), shape)
        return nn.Dense(8)(x) + 1e-3 * noise_


def restless():
    return LinenRestless(), None, (X,)


def test_the_noise_of_a_side_names_its_source(tmp_path: Path) -> None:
    found = noise.run(linen_alone)
    kinds = {scatter.kind: scatter for scatter in found.kinds}
    assert kinds["rerun"].exact and kinds["rejit"].exact and not kinds["jitter"].exact
    assert not found.document["source"]
    found = noise.run(restless)
    source = found.document["source"]
    assert "not deterministic" in source and "test_pairs_recording.py:" in source, source
    known = request.read_noise(found.write(tmp_path / "noise.json"))
    assert known.of("outputs", "outputs") > 0
    with pytest.raises(errors.InconclusiveError, match="nothing was recorded: the control is not"):
        recording.record(restless, tmp_path / "x")
