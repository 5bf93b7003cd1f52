"""Which MaxText it is, read from the fields of its types without importing it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollout_files import ERAS

from maxmig.cli.flags import framework, plan
from maxmig.config import LADDER
from maxmig.errors import ConfigError, DataError
from maxmig.rollout import era
from maxmig.rollout.choice import Choice
from maxmig.rollout.era import Era


def test_the_command_line_knows_the_eras_and_the_rungs() -> None:
    assert tuple(item.value for item in Era) == framework.ERAS
    assert tuple(stage.value for stage in LADDER) == plan.RUNGS


@pytest.mark.parametrize("name", ERAS)
def test_each_era_is_recognised(name: str, maxtext: Callable[[str], Path]) -> None:
    folder = maxtext(name)
    found = era.at(folder)
    assert (found.name, found.era.value) == ("maxtext", name)
    assert found.folder == folder / "configs"
    assert (
        set(found.defaults.values())
        == {"default-false": {False}, "default-true": {True}, "removed": set()}[name]
    )
    assert found.default("pure_nnx") is (name != "default-false")
    assert "types.py" in found.found
    assert era.at(folder.parent) == found  # the folder around the package is as good


@pytest.mark.parametrize("name", ERAS)
def test_the_installed_package_is_found_and_not_imported(
    name: str, maxtext: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = maxtext(name)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    info = folder.parent / "maxtext-0.2.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: maxtext\nVersion: 0.2.9\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    found = era.installed()
    assert found is not None
    assert (found.era.value, found.title) == (name, "MaxText 0.2.9")
    assert "maxtext" not in sys.modules
    assert era.at(folder).version == "0.2.9"


def test_the_version_of_a_checkout(maxtext: Callable[[str], Path]) -> None:
    folder = maxtext("removed")
    assert era.at(folder).title == "MaxText"
    (folder / "version.py").write_text('__version__ = "0.3.0.dev1"\n')
    assert era.at(folder).title == "MaxText 0.3.0.dev1"


def test_nothing_installed() -> None:
    assert era.installed() is None  # a MaxText in this environment would change the tests below


def test_before_there_were_types(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    base = tmp_path / "configs" / "base.yml"
    base.write_text("steps: 1\nenable_nnx: false\n")
    found = era.at(tmp_path)
    assert (found.era, dict(found.defaults)) == (Era.DEFAULT_FALSE, {"enable_nnx": False})
    base.write_text("steps: 1\n")
    with pytest.raises(ConfigError, match="older than the flags"):
        era.at(tmp_path)


def test_types_that_cannot_be_read(maxtext: Callable[[str], Path]) -> None:
    folder = maxtext("default-true")
    (folder / "configs" / "types.py").write_text("class A(:\n")
    with pytest.raises(DataError, match="name the era with --era"):
        era.at(folder)
    with pytest.raises(DataError, match="no MaxText there"):
        era.at(folder / "configs" / "models")


FOREIGN = "base_config: base.yml\nshared_experts: 8\npure_nnx: False\n"


def test_the_framework_is_told_by_the_keys(
    here: Path, maxtext: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, both = here / "ours.yml", here / "theirs.yml", here / "both.yml"
    ours.write_text("steps: 3\n")
    theirs.write_text(FOREIGN)
    both.write_text("steps: 3\nshared_experts: 0\n")  # MaxText's key at the value that maxmig takes
    auto = Choice()
    assert [auto.of(path).name for path in (ours, both)] == ["maxmig", "maxmig"]
    with pytest.raises(ConfigError, match="which is not installed here"):
        auto.of(theirs)
    monkeypatch.syspath_prepend(str(maxtext("default-true").parent))
    assert [auto.of(path).name for path in (ours, both, theirs)] == ["maxmig", "maxtext", "maxtext"]
    assert Choice("maxmig").of(theirs).name == "maxmig"
    told = Choice(era=Era.REMOVED).of(ours)
    assert (told.name, told.era) == ("maxtext", Era.REMOVED)
    assert told.folder is not None


def test_options_that_contradict_each_other(run: Callable[..., Any], config: Path) -> None:
    done = run("show", "run.yml", "--framework", "maxmig", "--era", "removed")
    assert (done.code, "are about MaxText" in done.err) == (2, True)
    done = run("show", "--era", "removed")
    assert (done.code, "expected a YAML file of MaxText" in done.err) == (2, True)
    done = run("show", "run.yml", "steps=3", "--era", "removed")
    assert (done.code, "key=value (steps=3)" in done.err) == (2, True)
    done = run("plan", "--to", "nnx", "run.yml", "steps=3")
    assert (done.code, "key=value has no place here" in done.err) == (2, True)
    done = run("plan", "--to", "nnx", "run.yml", "--maxtext", "nowhere")
    assert (done.code, "no MaxText there" in done.err) == (4, True)
