"""Runs that begin with a converted checkpoint: what they save leads back to the first layout."""

from pathlib import Path

import pytest
import runs

from maxmig.config.flags import Stage
from maxmig.converters import checkpoint, convert
from maxmig.converters.mapping import files

THEIRS = [{"rename": "decoder", "to": "net"}]


@pytest.mark.parametrize("how", ["load_full_state_path", "load_parameters_path"])
def test_a_run_leads_back_to_the_project_it_came_from(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.alone(monkeypatch)
    first = runs.train(runs.config(tmp_path, "steps=1", stage=Stage.NNX))
    there = files.parse({"to": "linen-state", "rules": THEIRS}, "here")
    here = files.parse({"to": "nnx", "rules": there.inverse().data()["rules"]}, "here")
    ours, project = checkpoint.read(first.folder.checkpoints), tmp_path / "project"
    convert.run(convert.plan(ours, None, map_file=there), project)
    source = checkpoint.read(project)
    assert "params/net/decoder_norm/scale" in source.leaves
    convert.run(convert.plan(source, None, map_file=here), tmp_path / "converted")
    more = ("run_name=second", "steps=2", f"{how}={tmp_path / 'converted'}")
    second = runs.train(runs.config(tmp_path, *more, stage=Stage.NNX))
    assert second.first == (1 if how == "load_full_state_path" else 0)
    saved = checkpoint.read(second.folder.checkpoints)
    assert saved.leaves.keys() == ours.leaves.keys() and saved.own["stage"] == "nnx"
    convert.run(convert.plan(saved, "linen"), tmp_path / "home")
    home = checkpoint.read(tmp_path / "home")
    assert home.layout.name == "linen-state" and home.tree == source.tree
