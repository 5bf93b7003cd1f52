"""A checkpoint of three blocks that rules are carried out on."""

from pathlib import Path

import mapping_cases
import pytest
from mapping_trees import linen_variables, numbers


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three equal blocks, a head, a matrix to cut, batch statistics."""
    blocks = {
        f"block_{i}": {"mlp": {"kernel": numbers(2, 3, start=10 * i)}, "bias": numbers(3, start=i)}
        for i in range(3)
    }
    found = linen_variables(**blocks, head={"kernel": numbers(3, 2), "wide": numbers(3, 6)})
    found["batch_stats"] = {"head": {"mean": numbers(2), "var": numbers(2)}}
    return mapping_cases.save(tmp_path / "source", found)
