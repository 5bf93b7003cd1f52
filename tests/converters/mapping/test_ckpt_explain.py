"""A plan tells what becomes of every leaf, and why."""

from pathlib import Path

import pytest
from mapping_trees import document

from maxmig import errors
from maxmig.converters import checkpoint, mapping
from maxmig.converters.mapping import explain


def test_dropping_is_accounted_for_and_said(tree: Path) -> None:
    planned = mapping.planned(
        checkpoint.read(tree),
        "linen-variables",
        map_file=document({"drop": "head", "reason": "another task"}),
    )
    whats = {row["what"]: row["leaves"] for row in planned.conversion.accounting.rows()}
    assert whats == {"left out: another task": 4, "kept": 6, "copied": 6}


def test_explain(tree: Path) -> None:
    planned = mapping.planned(checkpoint.read(tree), "linen-variables", scan=True)
    told = explain.explain(planned, "block_1/mlp/kernel")
    assert told.leaf == "params/block_1/mlp/kernel"
    assert told.targets == {
        "params/block/mlp/kernel": "stacked with 2 others on axis 0 as number 1"
    }
    assert "rule: stack block_{}" in told.facts
    with pytest.raises(errors.ConfigError, match="like it are: params/block_1/mlp/kernel"):
        explain.explain(planned, "block_1/mpl/kernel")
