"""`ckpt map`, `ckpt explain` and `ckpt inspect` from the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maxmig.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ckpt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = main(["ckpt", *map(str, words)])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        told = capsys.readouterr()
        return code or 0, told.out, told.err

    return run


def test_map_writes_checks_and_inverts(ckpt: Run, source: Any, tmp_path: Path) -> None:
    run, file = source("llama2_linen_scan"), tmp_path / "map.yml"
    code, out, _ = ckpt("map", run, "--to", "nnx", "--no-scan", "--out", file)
    assert (code, out) == (0, f"written    {file}: 1 rules\n")
    text = file.read_text()
    assert "- unstack: decoder/layers\n  to: decoder/layers_{}\n  axis: 1\n" in text
    assert "#   decoder/decoder_norm/scale  float32[64]" in text
    code, out, _ = ckpt("map", run, "--map", file, "--show")
    assert code == 0 and "model/decoder/layers/3/mlp/wo/kernel" in out and "complete" in out
    code, out, _ = ckpt("map", "--invert", file)
    assert code == 0 and "- stack: decoder/layers_{}" in out
    code, out, err = ckpt("map", run, "--map", file, "--to", "linen")
    assert code == 2 and "the mapping file 'nnx'" in err
    file.write_text("maxmig_map: 1\nrules: [{rename: gone, to: x}]")
    code, out, err = ckpt("map", run, "--map", file, "--to", "nnx")
    assert code == 2 and "Traceback" not in err
    assert "map.yml:2: rules[0]: {rename: gone, to: x}: a rule matches nothing" in err
    assert ckpt("map")[0] == 2 and ckpt("map", run, "--invert", file)[0] == 2


def test_explain_tells_where_and_why(ckpt: Run, source: Any) -> None:
    run = source("llama2_muon_linen_scan")
    leaf = "opt_state/inner_states/muon/inner_state/0/mu/params/decoder/layers/mlp/wo/kernel"
    code, out, _ = ckpt("explain", run, leaf)
    assert code == 0 and "it follows the parameter decoder/layers/mlp/wo/kernel" in out
    assert "to         optimizer/opt_state/inner_states/muon/inner_state/0/mu/decoder" in out
    code, out, _ = ckpt("explain", run, "decoder/layers/mlp/wo/kernel", "--no-scan", "--json")
    assert json.loads(out)["fate"] == "taken apart into layers"
    code, _, err = ckpt("explain", run, "decoder/layers/mpl/wo/kernel")
    assert code == 2 and "like it are: params/decoder/layers/mlp/wo/kernel" in err


def test_inspect_knows_foreign_checkpoints_and_chunks(ckpt: Run) -> None:
    data = Path(__file__).resolve().parents[1] / "data"
    code, out, _ = ckpt("inspect", data / "flax_0_10_optimizer", "--chunks")
    assert code == 0 and "layout     nnx-optimizer:" in out
    assert "batch_stats" in out and "largest    a chunk of 48 B" in out
    code, out, _ = ckpt("inspect", data / "flax_0_11_train_state", "--json", "--chunks")
    told = json.loads(out)
    assert (told["layout"], told["family"], told["container"]) == ("linen-state", "linen", "orbax")
    assert told["chunks"][0]["count"] == 1
