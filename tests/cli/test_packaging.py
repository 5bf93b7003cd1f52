"""pyproject.toml says what is true: packages, dependencies, and the checks of .ci can fail."""

import ast
import importlib.util
import subprocess
import sys
import tomllib
import types
from importlib import metadata
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text("utf-8"))


def test_every_package_is_listed(root, project):
    """setuptools cannot find packages by itself where folders are mapped, so they are listed.

    Folders of data are packages too, in Python's eyes: a build warns of those that are left out.
    """
    mapped = {name: f"maxmig.{name}" for name in ("benchmarks", "configs", "converters")}
    homes = {"maxmig": "maxmig"} | mapped
    told = project["tool"]["setuptools"]
    found = set()
    for folder, name in homes.items():
        for path in (root / folder).rglob("*.*"):
            parts = path.parent.relative_to(root / folder).parts
            if not path.is_file() or "__pycache__" in parts:
                continue
            package = ".".join([name, *parts])
            found.add(package)
            if path.suffix == ".py":
                assert (path.parent / "__init__.py").exists(), f"{path}: not in a package"
            else:
                patterns = told["package-data"].get(package, ())
                assert any(map(path.match, patterns)), f"{path}: not in the wheel"
    assert set(told["packages"]) == found


def test_every_import_is_a_declared_dependency(root, project):
    declared = {name.split(">=")[0].lower() for name in project["project"]["dependencies"]}
    plugin = root / "maxmig" / "testing.py"  # only pytest itself loads it
    owners = metadata.packages_distributions()
    for folder in ("maxmig", "benchmarks", "converters", "configs"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                else:
                    continue
                for top in {name.split(".")[0] for name in names}:
                    if top in sys.stdlib_module_names or top == "maxmig":
                        continue
                    if top == "pytest" and path == plugin:
                        continue
                    dists = {name.lower().replace("_", "-") for name in owners.get(top, [top])}
                    assert dists & declared, f"{path}:{node.lineno}: {top} is not a dependency"


def test_doctor_knows_the_dependencies(project):
    from maxmig.cli import doctor

    for name in doctor.NEWEST_TESTED:
        if name != "jaxlib" and name != "tensorstore":  # they come with jax and orbax
            assert any(d.startswith(f"{name}>=") for d in project["project"]["dependencies"]), name


@pytest.fixture(scope="module")
def checks(root) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("checks", root / ".ci" / "check_repository.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def home(user: str) -> str:
    return "/" + f"home/{user}/data"  # in two parts, or this file would be a finding


@pytest.mark.parametrize(
    ("name", "text", "finding"),
    [
        ("a.py", f"PATH = '{home('me')}'\n", "a.py:1: a path of one machine"),
        ("a.sh", "\npip install -i https://pypi." + "org/simple x\n", "a.sh:2: a package host"),
        ("uv.lock", "", "uv.lock: a lock file"),
        ("a.md", "see [it](docs/missing.md)\n", "a.md: the link docs/missing.md leads nowhere"),
        ("a.md", "see [it](b.md#no-such)\n", "a.md: b.md#no-such: no such heading in b.md"),
        ("configs/bad.yml", "no_such_key: 1\n", "configs/bad.yml: "),
    ],
)
def test_repository_checks_can_fail(
    checks, tmp_path: Path, capsys, name: str, text: str, finding: str
):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "b.md").write_text(
        "# A `heading` here\n[up](#a-heading-here) [a](a.py) [web](https://x.y)\n"
        "```\n[not](a link)\n```\n"
    )
    (tmp_path / "a.py").write_text("# /dev/null and docs/home/x are fine\n")
    assert checks.main(tmp_path) == 0
    (tmp_path / name).write_text(text)
    assert checks.main(tmp_path) == 1
    assert finding in capsys.readouterr().out


def test_lowest_versions(root):
    script = root / ".ci" / "lowest_versions.py"
    done = subprocess.run([sys.executable, script], cwd=root, capture_output=True, text=True)
    assert "jax==0." in done.stdout and ">" not in done.stdout
