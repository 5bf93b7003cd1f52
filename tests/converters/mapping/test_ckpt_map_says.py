"""What a mapping file says beside rules: a table of leaves, what no tree tells, the optimizer."""

from pathlib import Path
from typing import Any

import mapping_cases
import numpy as np
import pytest
from mapping_trees import numbers

from maxmig import errors
from maxmig.converters import checkpoint
from maxmig.converters.mapping import files, state


def test_a_traced_mapping_is_a_mapping_file(tmp_path: Path) -> None:
    """What `maxmig parity` writes of a user's own pair: leaf by leaf, all at once, and back."""
    params = {
        "Dense_0": {"kernel": numbers(2, 2)},
        "Dense_1": {"kernel": numbers(2, 2, start=9)},
        "a": {"w": numbers(2, 3)},
        "b": {"w": numbers(2, 3, start=7)},
        "gone": {"w": numbers(1)},
        "t": {"w": numbers(2, 3)},
        "r": {"w": numbers(6)},
    }
    moments = {name: {k: v + 0.5 for k, v in held.items()} for name, held in params.items()}
    tree = {"params": params, "opt_state": [{"mu": moments}, None], "step": np.int32(1)}
    source = mapping_cases.save(tmp_path / "s", tree)
    file = tmp_path / "map.yml"
    file.write_text(
        """
schema_version: 1
kind: maxmig.mapping
leaves:
  params/Dense_0/kernel: params/Dense_1/kernel
  params/Dense_1/kernel: params/Dense_0/kernel
  params/ab/w: {op: concat, axis: 1, from: [params/a/w, params/b/w]}
  params/blocks/0/w: {op: transpose, axes: [1, 0], from: params/t/w}
  params/blocks/1/w: {op: reshape, shape: [2, 3], from: params/r/w}
dropped:
  params/gone/w: not used
"""
    )
    made = mapping_cases.convert(source, tmp_path / "n", "nnx", map_file=file)
    found = mapping_cases.arrays(made)
    np.testing.assert_array_equal(found["model/Dense_0/kernel/value"], params["Dense_1"]["kernel"])
    np.testing.assert_array_equal(
        found["opt_state/0/mu/ab/w/value"],
        np.concatenate([moments["a"]["w"], moments["b"]["w"]], 1),
    )
    np.testing.assert_array_equal(found["model/blocks/0/w/value"], params["t"]["w"].T)
    assert found["model/blocks/1/w/value"].shape == (2, 3)
    back = mapping_cases.arrays(mapping_cases.convert(tmp_path / "n", tmp_path / "b", "linen"))
    before = mapping_cases.arrays(source)
    assert before.keys() - back.keys() == {"params/gone/w", "opt_state/0/mu/gone/w"}
    assert all(mapping_cases.same_bits(before[path], back[path]) for path in back)


def test_a_mapping_file_says_what_a_tree_does_not(tmp_path: Path) -> None:
    tree = {"params": {"temperature": {"value": numbers(2)}, "Dense_0": {"kernel": numbers(2)}}}
    source = mapping_cases.save(tmp_path / "s", tree)
    with pytest.raises(errors.ConvertError, match="unboxed"):
        checkpoint.read(source)
    for key, path in (("boxed", "temperature"), ("unboxed", "temperature/value")):
        said = files.parse({key: ["temperature"]}, "here").hints
        assert f"params/{path}" in checkpoint.read(source, hints=said).places
    bare = mapping_cases.save(tmp_path / "n", {"bn": {"mean": numbers(2), "var": numbers(2)}})
    said = files.parse(
        {"collections": {"bn/mean": "batch_stats", "bn/var": "batch_stats"}}, "here"
    ).hints
    found = checkpoint.read(bare, layout="nnx-state", hints=said)
    assert set(found.places) == {"batch_stats/bn/mean", "batch_stats/bn/var"}


def test_the_optimizer_is_named_by_module(tmp_path: Path, monkeypatch: Any) -> None:
    from maxmig.converters.mapping import optimizers

    (tmp_path / "my_optimizer_of_a_test.py").write_text(
        "import optax\ndef make():\n    return optax.adam(1e-3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    leaves = {
        path: checkpoint.Leaf((2,), "float32", 8)
        for path in ("params/w", "opt_state/0/count", "opt_state/0/mu/w", "opt_state/0/nu/w")
    }
    start = state.start(leaves, None)
    found = optimizers.skeleton("my_optimizer_of_a_test:make", start)
    assert found["tuple"][1] is None and found["tuple"][0]["dict"]["mu"] == {"params": []}
    for wrong in ("nothing", "my_optimizer_of_a_test:none"):
        with pytest.raises(errors.ConfigError, match="optimizer"):
            optimizers.skeleton(wrong, start)
