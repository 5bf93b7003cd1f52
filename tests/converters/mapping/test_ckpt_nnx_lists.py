"""Layers that are taken apart in an NNX tree are a list there, and are found again in it."""

from pathlib import Path
from typing import Any

import mapping_cases
import numpy as np
import pytest

from maxmig.converters import checkpoint, mapping

LAYERS = 3
KERNEL = "mlp/kernel/value"


def layers(*count: int) -> dict[str, Any]:
    def array(*shape: int) -> dict[str, Any]:
        whole = np.arange(np.prod([*count, *shape]), dtype=np.float32)
        return {"value": whole.reshape(*count, *shape)}

    return {
        "norm": {"scale": array(4), "bias": array(4)},
        "mlp": {"kernel": array(4, 6), "bias": array(6)},
    }


def saved(path: Path, model: dict[str, Any]) -> Path:
    embedding = {"embedding": {"value": np.ones((5, 4), np.float32)}}
    return mapping_cases.save(path, {**model, "token": embedding})


def same(one: Path, other: Path) -> bool:
    a, b = mapping_cases.arrays(one), mapping_cases.arrays(other)
    return a.keys() == b.keys() and all(mapping_cases.same_bits(a[at], b[at]) for at in a)


@pytest.mark.parametrize("stack", ["blocks", "layers", "h"])
@pytest.mark.parametrize("to", ["nnx-state", "nnx-optimizer"])
def test_a_stack_of_an_nnx_tree_becomes_a_list(stack: str, to: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "src", {stack: layers(LAYERS)})
    made = mapping_cases.convert(source, tmp_path / "apart", to, scan=False, from_scan_axis=0)
    start = "model/" if to == "nnx-optimizer" else ""
    found = mapping_cases.arrays(made)
    numbered = [at for at in found if at.endswith(KERNEL)]
    assert numbered == [f"{start}{stack}/{i}/{KERNEL}" for i in range(LAYERS)]
    whole = mapping_cases.arrays(source)[f"{stack}/{KERNEL}"]
    assert mapping_cases.same_bits(found[numbered[2]], whole[2])
    assert mapping_cases.digest(made) == mapping_cases.digest(source)
    back = mapping_cases.convert(
        tmp_path / "apart", tmp_path / "back", "nnx-state", scan=True, scan_axis=0
    )
    assert same(back, source)


@pytest.mark.parametrize("way", ["linen-variables", "nnx-optimizer"])
def test_by_another_layout_as_well(way: str, tmp_path: Path) -> None:
    """The tree that its metadata tell of had no list yet."""
    source = saved(tmp_path / "src", {"blocks": layers(LAYERS)})
    mapping_cases.convert(source, tmp_path / "way", way)
    made = mapping_cases.convert(tmp_path / "way", tmp_path / "dst", "nnx-state", scan=False)
    straight = mapping_cases.convert(source, tmp_path / "straight", "nnx-state", scan=False)
    assert f"blocks/1/{KERNEL}" in mapping_cases.arrays(straight) and same(made, straight)


@pytest.mark.parametrize("numbered", [True, False])
def test_lists_stay_lists_and_names_stay_names(numbered: bool, tmp_path: Path) -> None:
    both = {"0": layers(), "1": layers()}
    model = {"layers": both} if numbered else {f"layers_{i}": each for i, each in both.items()}
    source = checkpoint.read(saved(tmp_path / "src", model))
    written = {"/".join(at) for at in mapping.planned(source, "nnx-optimizer").written}
    assert f"model/layers{'/' if numbered else '_'}1/{KERNEL}" in written
