"""docs/your-own-modules.md: its code and commands are run as they stand, and its files come out."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from maxmig.cli import main as cli
from maxmig.parity import pairs


def test_the_page_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (root / "docs" / "your-own-modules.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "migration.py").write_text("\n\n".join(code[:3]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "migration", raising=False)
    commands = re.findall(r"^\$ (maxmig [^#\n]*?)(?: *# exit (\d))?$", page, re.MULTILINE)
    commands = [c for c in commands if not c[0].startswith("maxmig ckpt")]  # their own tests
    assert len(commands) == 8
    told = ""
    for command, code_ in commands:
        words = shlex.split(command)[1:]
        if words[0] == "lint":
            (tmp_path / "migration.py").write_text(code[0])
        if words[:2] == ["parity", "run"]:
            words += ["--level", "L2"]  # the other levels have their own tests
        assert cli.main(words) == int(code_ or 0), command
        told += capsys.readouterr().out
    for line in (
        "ambiguous: 2 x Linear of one shape, told apart by the order of their calls",
        "differs     constant 0.99 against 0.9",
        "script      repro/repro.py",
        "the mapping was found from the recorded layers, and confirmed by outputs and gradients",
        "✗ FAIL linen and nnx differ, first in state (train), at batch_stats/BatchNorm_0/mean [6]",
        "wrote      tests/test_parity_net.py",
        "migration.py:10:13: nested-names:",
    ):
        assert line in page and line in told
    mapping = re.search(r"^```yaml\n(.*?)  \.\.\.", page, re.DOTALL | re.MULTILINE)
    assert mapping and mapping[1] in (tmp_path / "net.yml").read_text()


def test_the_pair_with_an_optimizer(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (root / "docs" / "your-own-modules.md").read_text()
    code = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "migration_trained.py").write_text("\n\n".join(code[:3]))
    monkeypatch.chdir(tmp_path)
    report = pairs.run("migration_trained:trained", levels=("L2",))
    assert report, report.summary
    assert report.check("params").arrays == 8
