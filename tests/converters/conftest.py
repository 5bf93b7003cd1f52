"""Checkpoints that MaxText wrote, their disk trees, and bitwise comparison."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maxmig.cli import main
from maxmig.converters import checkpoint, convert, disk
from maxmig.converters.leaves import DiskPath, Hole, Leaf

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "maxtext"
FOLDERS = Path(os.environ.get("MAXMIG_MAXTEXT_FIXTURES", FIXTURES))
NAMES = sorted(path.parent.name for path in FOLDERS.glob("*/checkpoint"))
TREES: dict[str, dict[str, str]] = json.loads((FIXTURES / "trees.json").read_text())


def disk_tree(name: str) -> dict[DiskPath, Leaf | Hole]:
    """The disk tree of a run, as listed in trees.json."""
    return {_path(path): _leaf(told) for path, told in TREES[name].items()}


def _path(spelt: str) -> DiskPath:
    return tuple(int(key[1:]) if key.startswith("#") else key for key in spelt.split("/"))


def _leaf(told: str) -> Leaf | Hole:
    if told in {hole.value for hole in Hole}:
        return Hole(told)
    dtype, _, shape = told[:-1].partition("[")
    return Leaf(tuple(int(size) for size in shape.split(",") if size), dtype, 0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`name` runs over the checkpoints at hand, `listed` over all known trees."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", NAMES)
    if "listed" in metafunc.fixturenames:
        metafunc.parametrize("listed", sorted(TREES))


@pytest.fixture
def tree_of() -> Callable[[str], dict[DiskPath, Leaf | Hole]]:
    """The listed disk tree of a run."""
    return disk_tree


@pytest.fixture
def source() -> Callable[[str], Path]:
    """The checkpoint directory of a run; falls back on the copies beside the tests."""

    def find(name: str) -> Path:
        found = FOLDERS / name / "checkpoint"
        return found if found.is_dir() else FIXTURES / name / "checkpoint"

    return find


@pytest.fixture
def converted(tmp_path: Path) -> Callable[..., Path]:
    """Converts into a fresh directory: converted(SRC, to, **options)."""
    count = 0

    def run(src: Path, to: str, **options: Any) -> Path:
        nonlocal count
        count += 1
        made = tmp_path / f"converted_{count}"
        convert.run(convert.plan(checkpoint.read(src), to, **options), made)
        return made

    return run


@pytest.fixture
def assert_same() -> Callable[[Path, Path], None]:
    """Fails unless two checkpoints have one disk tree and, in it, the same bytes."""

    def check(a: Path, b: Path) -> None:
        one, two = checkpoint.read(a), checkpoint.read(b)
        assert one.tree == two.tree
        assert one.places.keys() == two.places.keys()
        mine, other = (each.load(dict.fromkeys(each.places)) for each in (one, two))
        different = [path for path in mine if bytes_of(mine[path]) != bytes_of(other[path])]
        assert mine and not different

    return check


def bytes_of(array: Any) -> bytes:
    """The bytes of an array, of random keys those of their data."""
    import jax
    import numpy as np

    if disk.describe(array).is_key:
        array = jax.random.key_data(array)
    return np.asarray(array).tobytes()


@pytest.fixture
def maxmig(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line: maxmig("ckpt", ...) -> (exit code, stdout, stderr)."""

    def run(*words: Any) -> tuple[int, str, str]:
        code = main.main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err and "internal error" not in err, err
        return code, out, err

    return run
