"""Stacks on any layer axis: there, between any two, and back, weights and moments alike."""

from pathlib import Path
from typing import Any

import mapping_cases
import numpy as np
import pytest

from maxmig import errors
from maxmig.converters import checkpoint

SHAPES = {"bias": (4,), "kernel": (5, 4), "heads": (6, 5, 4), "experts": (7, 6, 5, 4)}
LAYERS = 3


def state(axis: int) -> dict[str, Any]:
    """A training state whose layers are stacked on an axis, as capped for leaves of lower rank."""
    rng = np.random.default_rng(0)

    def stacked() -> dict[str, Any]:
        found = {}
        for name, shape in SHAPES.items():
            whole = rng.normal(size=(LAYERS, *shape)).astype(np.float32)
            found[name] = np.moveaxis(whole, 0, min(axis, len(shape)))
        return {"decoder": {"layers": {"mlp": found}, "norm": {"scale": np.ones(4, np.float32)}}}

    mu, nu = ({"params": stacked()} for _ in range(2))
    return {
        "params": {"params": stacked()},
        "opt_state": [{"count": np.int32(2), "mu": mu, "nu": nu}, None],
        "step": np.int32(2),
    }


def saved(path: Path, axis: int) -> Path:
    return mapping_cases.save(path, state(axis))


def differing(a: Path, b: Path) -> list[str]:
    one, other = mapping_cases.arrays(a), mapping_cases.arrays(b)
    assert one.keys() == other.keys()
    return [path for path in one if not mapping_cases.same_bits(one[path], other[path])]


@pytest.mark.parametrize(("start", "axis"), [(0, 2), (1, 3), (2, 1), (2, 4), (3, 0), (1, 9)])
def test_moved_and_back(start: int, axis: int, tmp_path: Path) -> None:
    source = saved(tmp_path / "src", start)
    made = mapping_cases.convert(source, tmp_path / "made", "linen", scan_axis=axis)
    assert checkpoint.read(tmp_path / "made").own["param_scan_axis"] == axis
    assert differing(made, saved(tmp_path / "wanted", axis)) == []
    assert differing(made, source)  # the check can fail
    back = mapping_cases.convert(tmp_path / "made", tmp_path / "back", "linen", scan_axis=start)
    assert differing(back, source) == []


@pytest.mark.parametrize("axis", [0, 1, 2, 3, 4])
def test_apart_and_stacked_again_on_the_axis_that_is_remembered(axis: int, tmp_path: Path) -> None:
    source = saved(tmp_path / "src", axis)
    mapping_cases.convert(source, tmp_path / "apart", "linen", scan=False, from_scan_axis=axis)
    back = mapping_cases.convert(tmp_path / "apart", tmp_path / "back", "linen", scan=True)
    assert differing(back, source) == []
    assert checkpoint.read(tmp_path / "back").own["param_scan_axis"] == axis


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_another_layout_and_axis_and_the_way_back_without_a_word(axis: int, tmp_path: Path) -> None:
    source = saved(tmp_path / "src", 1)
    made = mapping_cases.convert(source, tmp_path / "nnx", "nnx", scan_axis=axis)
    key = "optimizer/opt_state/0/nu/decoder/layers/mlp/experts"
    assert mapping_cases.arrays(made)[key].shape.index(LAYERS) == axis
    back = mapping_cases.convert(tmp_path / "nnx", tmp_path / "back", "linen")
    assert differing(back, source) == []
    assert checkpoint.read(tmp_path / "back").own["param_scan_axis"] == 1


def test_a_higher_axis_is_told_where_no_lower_one_is_possible(tmp_path: Path) -> None:
    found = checkpoint.read(saved(tmp_path / "src", 2))
    conversion = mapping_cases.mapping.planned(found, "linen", scan=False)
    assert any("layer axis 2: the only one" in note for note in conversion.state.notes)
    wanted = checkpoint.read(
        mapping_cases.convert(tmp_path / "src", tmp_path / "apart", "linen", scan=False)
    )
    assert wanted.leaves["params/decoder/layers_2/mlp/experts"].shape == (7, 6, 5, 4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scan": False, "from_scan_axis": 1}, "cannot be on axis 1"),
        ({"scan": False, "from_scan_axis": 4}, "cannot be on axis 4"),
        ({"from_scan_axis": 1}, "cannot be on axis 1"),  # it would be in the result's metadata
        ({"scan_axis": -1}, "expected an axis, 0 or more"),
    ],
)
def test_refused(options: dict[str, Any], expected: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "src", 2)
    with pytest.raises((errors.ConvertError, errors.ConfigError), match=expected):
        mapping_cases.convert(source, tmp_path / "made", "linen", **options)
