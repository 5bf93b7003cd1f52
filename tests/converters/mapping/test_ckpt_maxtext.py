"""MaxText's own checkpoints in every direction; identical when they return."""

from pathlib import Path
from typing import Any

import mapping_cases
import pytest

from maxmig.converters import checkpoint, mapping
from maxmig.converters.leaves import Hole

PAIRS = [
    ("llama2_pre3929nnx_scan", None),
    ("llama2_pre3929nnx_noscan", "llama2_nnx_noscan"),
    ("gpt3_pre3929nnx_scan", "gpt3_nnx_scan"),
]


def test_there_and_back_is_identical(name: str, source: Any, tmp_path: Path) -> None:
    path = source(name)
    found = checkpoint.read(path)
    to, back = ("nnx", "linen") if found.layout.name == "linen" else ("linen", "nnx")
    mapping_cases.convert(path, tmp_path / "there", to)
    again = mapping_cases.convert(tmp_path / "there", tmp_path / "back", back)
    assert checkpoint.read(again).tree == found.tree
    a, b = mapping_cases.arrays(path), mapping_cases.arrays(again)
    assert a.keys() == b.keys() and a
    assert [p for p in a if not mapping_cases.same_bits(a[p], b[p])] == []


@pytest.mark.parametrize(("old", "new"), [pair for pair in PAIRS if pair[1]])
def test_old_nnx_becomes_the_newer_nnx_of_the_same_run(
    old: str, new: str, source: Any, tmp_path: Path
) -> None:
    made = mapping_cases.convert(source(old), tmp_path / "made", "linen")
    a, b = mapping_cases.arrays(made), mapping_cases.arrays(source(new))
    assert a.keys() == b.keys()
    assert [p for p in a if not mapping_cases.same_bits(a[p], b[p])] == []
    assert checkpoint.read(made).skeleton == checkpoint.read(source(new)).skeleton


@pytest.mark.parametrize("run", ["llama2_muon_linen_scan", "llama2_skipspk_linen_scan"])
@pytest.mark.parametrize("scan", [None, False])
def test_muon_and_spikes_take_the_true_form_of_the_other_side(
    run: str, scan: bool | None, source: Any, tmp_path: Path
) -> None:
    """Dicts keyed by position, without the `params` level and without holes; and lists again."""
    path = source(run)
    native = mapping_cases.convert(path, tmp_path / "native", "nnx", scan=scan)
    tree = checkpoint.read(native).tree
    state = [p[2:] for p in tree if p[:2] == ("optimizer", "opt_state")]
    assert state and not any(isinstance(key, int) or key == "params" for p in state for key in p)
    holes = {p for p, leaf in tree.items() if isinstance(leaf, Hole)}
    assert all("mu" in p or "nu" in p for p in holes)  # masked weights, no empty states
    assert bool(holes) == ("muon" in run)
    scanned = None if scan is None else True
    back = mapping_cases.convert(tmp_path / "native", tmp_path / "back", "linen", scan=scanned)
    assert checkpoint.read(back).tree == checkpoint.read(path).tree
    a, b = mapping_cases.arrays(path), mapping_cases.arrays(back)
    assert [p for p in a if not mapping_cases.same_bits(a[p], b[p])] == []


def shapes(tree: dict[Any, Any]) -> dict[Any, Any]:
    """Shape and type of each array, and the holes; random state apart, which Linen runs lack."""
    told = {p: x if isinstance(x, Hole) else (x.shape, x.dtype) for p, x in tree.items()}
    return {p: x for p, x in told.items() if p[0] != "nnx_aux"}


@pytest.mark.parametrize(
    "run", ["llama2_muon", "llama2_skipspk", "gpt3_skipspk", "llama2_frozen", "gpt3", "mixtral"]
)
def test_each_sides_form_is_what_maxtext_wrote_there(run: str, source: Any, tree_of: Any) -> None:
    linen, native = (tree_of(f"{run}_{side}_scan") for side in ("linen", "nnx"))
    place = checkpoint.read(source("llama2_linen_scan")).place
    found = checkpoint.view(place, linen, {"scan_layers": True})
    made = mapping.planned(found, "maxtext-nnx").conversion
    assert shapes({**made.leaves, **made.holes}) == shapes(native)
    found = checkpoint.view(place, native, {"scan_layers": True})
    assert found.layout.name == ("linen" if run in ("gpt3", "mixtral") else "maxtext-nnx")
    back = mapping.planned(found, "linen").conversion
    nothing = ("opt_state", "inner_states", "frozen", "inner_state")  # is not in NNX's tree
    linen.pop(nothing, None)
    assert shapes({**back.leaves, **back.holes}) == shapes(linen)


@pytest.mark.parametrize(
    "run", ["llama2_muon_linen_scan", "llama2_skipspk_linen_scan", "gpt3_linen_scan"]
)
def test_the_form_that_maxtexts_nnx_runs_resume_from(
    run: str, source: Any, tree_of: Any, tmp_path: Path
) -> None:
    """It is what MaxText's own NNX run of the same kind wrote, key for key."""
    path = source(run)
    own = checkpoint.read(path)
    made = checkpoint.read(mapping_cases.convert(path, tmp_path / "made", "maxtext-nnx"))
    assert shapes(made.tree) == shapes(tree_of(run.replace("linen", "nnx")))
    assert (made.tree == own.tree) == (run == "gpt3_linen_scan")
    found = checkpoint.view(own.place, made.tree, {"scan_layers": True})  # as MaxText writes it
    assert found.layout.name == ("linen" if run == "gpt3_linen_scan" else "maxtext-nnx")
    assert found.leaves == own.leaves
    back = mapping.planned(found, "linen")
    assert {**back.conversion.leaves, **back.conversion.holes} == own.tree
    back_on_disk = mapping_cases.convert(tmp_path / "made", tmp_path / "back", "linen")
    a, b = mapping_cases.arrays(path), mapping_cases.arrays(back_on_disk)
    assert [p for p in a if not mapping_cases.same_bits(a[p], b[p])] == []
    assert checkpoint.read(back_on_disk).tree == own.tree


def test_the_unmerged_converters_moments_are_stacked(source: Any, tmp_path: Path) -> None:
    """Its result, made again here: weights stacked under `value`, moments left as layers_N."""
    scanned = mapping.planned(checkpoint.read(source("llama2_linen_scan")), "nnx")
    apart = mapping.planned(checkpoint.read(source("llama2_linen_scan")), "nnx", scan=False)
    tree: dict[Any, Any] = {}
    for planned, wanted in ((scanned, "params/"), (apart, "opt_state/")):
        for path, name in planned.written.items():
            if isinstance(name, str) and name.startswith(wanted):
                keys = path
                if wanted == "opt_state/":
                    keys = tuple(
                        int(k) if k.isdigit() and i == 2 else k for i, k in enumerate(path)
                    )
                    joined = "/".join(map(str, keys)).replace("layers/", "layers_")
                    keys = tuple(int(k) if k in "02" else k for k in joined.split("/"))
                else:
                    keys = (*path, "value")
                tree[keys] = planned.state.items[name].leaf
    tree[("optimizer", "opt_state", 1)] = Hole.NONE
    tree[("optimizer", "step")] = checkpoint.STEP
    base = checkpoint.read(source("llama2_linen_scan"))
    found = checkpoint.view(base.place, tree, {})
    assert found.layout.name == "nnx"
    made = mapping.planned(found, "linen")
    good = {p: leaf for p, leaf in base.tree.items() if p[0] != "nnx_aux"}
    assert {**made.conversion.leaves, **made.conversion.holes} == good
    assert any("was not stacked" in note for note in made.conversion.notes)


def test_deepseek_of_before_has_other_names() -> None:
    """`dense_layer_0`, and `layers/K` counted on: what is now dense_layers and moe_layers."""
    from maxmig.converters import layouts
    from maxmig.converters.leaves import Leaf

    leaf = Leaf((2,), "float32", 8)
    tree = {
        ("model", "decoder", "dense_layer_0", "mlp", "kernel"): leaf,
        ("model", "decoder", "layers", "1", "moe", "kernel"): leaf,
        ("model", "decoder", "layers", "2", "moe", "kernel"): leaf,
    }
    layout = layouts.get("nnx")
    reading = layout.read(tree)
    assert set(reading.places) == {
        "params/decoder/dense_layers_0/mlp/kernel",
        "params/decoder/moe_layers_0/moe/kernel",
        "params/decoder/moe_layers_1/moe/kernel",
    }
    assert set(layout.write(reading.places, None, reading.form)) == set(tree)
