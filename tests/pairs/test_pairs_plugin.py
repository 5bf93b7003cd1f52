"""The pytest plugin, and `maxmig parity init`, in a repository of a user's own."""

import subprocess
import sys
from pathlib import Path

import pairs_zoo as zoo
import pytest
import yaml
from flax import nnx

from maxmig import errors
from maxmig.cli import main as cli
from maxmig.parity import Report, pairs
from maxmig.parity.findings.policy import Policy
from maxmig.parity.findings.subject import Side, Subject
from maxmig.testing import assert_parity

HERE = Path(__file__).parent

PAIR = """
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

class LinenScale(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.LayerNorm(epsilon=1e-6)(x)

def pair():
    return LinenScale(), nnx.LayerNorm(4, epsilon=1e-6, rngs=nnx.Rngs(0)), (np.eye(4, dtype="f4"),)

def wrong():
    return LinenScale(), nnx.LayerNorm(4, epsilon=1e-3, rngs=nnx.Rngs(0)), (np.eye(4, dtype="f4"),)
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's repository with a module of pairs."""
    (tmp_path / "migration.py").write_text(PAIR)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "migration", raising=False)
    return tmp_path


def pytest_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest in another process, as a user does."""
    plain = ["-p", "no:cacheprovider", "--rootdir", "."]
    command = [sys.executable, "-m", "pytest", "-q", *plain, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_assert_parity_takes_modules() -> None:
    x = (zoo.normal(4, 8),)
    report = assert_parity(zoo.LinenMLP(), zoo.MLP(rngs=nnx.Rngs(1)), x, levels=("L2",))
    assert report.exact
    with pytest.raises(AssertionError, match=r"parity FAIL: .*gradients.*exactly zero") as told:
        assert_parity(zoo.LinenMLP(), zoo.StoppedMLP(rngs=nnx.Rngs(1)), x, levels=("L2",))
    assert "params/Dense_1/bias" in str(told.value)


def test_init_writes_a_test_that_runs(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["parity", "init", "--pair", "migration:pair"]) == 0
    test = repository / "tests" / "test_parity_pair.py"
    assert test.exists() and str(test.relative_to(repository)) in capsys.readouterr().out
    workflow = (repository / ".github" / "workflows" / "parity.yml").read_text()
    assert "maxmig parity run --pair migration:pair" in workflow
    done = pytest_in(repository, "tests")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout
    text = test.read_text()
    assert cli.main(["parity", "init", "--pair", "migration:pair"]) == 5  # never over a file
    assert test.read_text() == text

    test.write_text(text.replace("migration:pair", "migration:wrong"))
    done = pytest_in(repository, "tests")
    assert done.returncode == 1
    assert "migration:wrong: outputs: " in done.stdout


def test_init_in_a_subfolder_writes_the_workflow_where_github_looks(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / ".git").mkdir()
    (repository / "packages" / "own").mkdir(parents=True)
    # What is compared is not the point here.
    side, subject = Side("", "", "", {}, ""), Subject("pair", "", "", 0, {}, "")
    found = Report(subject, side, side, Policy("ratio", "", {}))
    monkeypatch.setattr(pairs, "run", lambda *args, **kwargs: found)
    for words in (["--dir", "packages/own"], ["--force"]):
        assert cli.main(["parity", "init", "--pair", "migration:pair", *words]) == 0
        text = (repository / ".github" / "workflows" / "parity.yml").read_text()
        told = capsys.readouterr().out
        job = yaml.safe_load(text)["jobs"]["parity"]
        assert str(Path(".github", "workflows", "parity.yml")) in told
        if "--force" in words:  # at the top
            assert "defaults" not in job and job["steps"][-1]["with"]["path"] == "parity"
            continue
        assert job["defaults"]["run"]["working-directory"] == "packages/own"
        assert job["steps"][-1]["with"]["path"] == "packages/own/parity"
        assert (repository / "packages" / "own" / "tests" / "test_parity_pair.py").exists()
        assert not (repository / "packages" / "own" / ".github").exists()


def test_init_of_nothing(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["parity", "init", "--pair", "migration:none"]) == 2
    assert "no 'none' in it" in capsys.readouterr().err
    assert cli.main(["parity", "init", "--pair", "migration:pair", "--dir", "nowhere"]) == 2
    assert not (repository / "tests").exists()


def test_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, maxmig.testing\n"
        "print({m.split('.')[0] for m in sys.modules} & {'jax', 'flax', 'orbax', 'numpy'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_plugin_is_registered(root: Path) -> None:
    import tomllib

    points = tomllib.loads((root / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points["pytest11"] == {"maxmig": "maxmig.testing"}
    assert issubclass(errors.ConfigError, errors.MaxmigError)
