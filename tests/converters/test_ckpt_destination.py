"""A DST that looks like a step is refused: the result has a step of its own."""

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

from maxmig import errors
from maxmig.cli import main
from maxmig.converters import checkpoint, convert

TOLD = "looks like a step"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Steps 9 and 12 of a run."""
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        for step in (9, 12):
            tree = {"params": {"dense": {"kernel": np.full((2, 3), step, np.float32)}}}
            manager.save(step, args=ocp.args.StandardSave(tree))
    return tmp_path / "run"


def converted(source: Path, destination: Any, **options: Any) -> Path:
    source = checkpoint.read(source, layout="linen-variables")
    return convert.run(convert.plan(source, "nnx-state", **options), destination)


def test_a_step_is_refused_and_the_directory_is_named(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with pytest.raises(errors.ConfigError, match=rf"{TOLD}.*give {out}") as error:
        converted(run / "12", out / "12")  # there is no such directory yet
    assert error.value.exit_code == 2
    out.mkdir()
    with pytest.raises(errors.ConfigError, match=TOLD):
        converted(run / "12", f"{out}/12/")
    converted(run / "12", out)
    for number in (9, 12, 13):  # 12 is a step that is there
        with pytest.raises(errors.ConfigError, match=TOLD):
            converted(run / "9", out / str(number))
    with pytest.raises(errors.ConfigError, match=rf"lies in a step of {out}:.*give {out}"):
        converted(run / "9", out / "12" / "other")
    monkeypatch.chdir(out)
    words = ["ckpt", "convert", str(run / "9"), "9", "--to", "nnx-state"]
    for more in ([], ["--overwrite"], ["--dry-run"]):
        code = main.main([*words, "--from", "linen-variables", *more])
        told = "".join(capsys.readouterr())
        assert code == 2 and "give ., as the step keeps its number" in told
    assert sorted(path.name for path in out.iterdir()) == ["12"]
    converted(run / "9", out)
    with ocp.CheckpointManager(out) as manager:
        assert manager.all_steps() == [9, 12]
        found = manager.restore(12, args=ocp.args.StandardRestore())
        assert found["dense"]["kernel"]["value"][0, 0] == 12


def test_numbers_that_are_no_steps(run, tmp_path):
    trials = tmp_path / "trials"
    trials.mkdir()
    made = converted(run / "12", trials / "3")
    assert made == trials / "3" / "12"
    assert converted(run / "9", trials / "3") == trials / "3" / "9"
    assert converted(run / "9", trials / "4") == trials / "4" / "9"  # beside runs, not steps
    converted(run / "9", tmp_path / "12")
    assert converted(run / "12", tmp_path / "12") == tmp_path / "12" / "12"  # it holds steps
    file = converted(run / "12", tmp_path / "12.msgpack", container="msgpack")
    assert file.is_file()


def test_in_a_bucket(run):
    bucket = f"memory://destination/{uuid.uuid4()}"
    with pytest.raises(errors.ConfigError, match=rf"{TOLD}.*give {bucket}"):
        converted(run / "12", f"{bucket}/12")
    converted(run / "12", bucket)
    with pytest.raises(errors.ConfigError, match=rf"{TOLD}.*give {bucket}"):
        converted(run / "9", f"{bucket}/7")
    converted(run / "9", f"{bucket}/trial/7")
    converted(run / "9", bucket)
    assert checkpoint.read(bucket).place.step == 12
