"""Layouts of all of Flax: recognised from metadata, read, and written back key for key."""

import json
from pathlib import Path

import pytest

from maxmig import errors
from maxmig.cli.ckpt import common
from maxmig.converters import checkpoint, layouts, leaves, names
from maxmig.converters.layouts import Form
from maxmig.converters.leaves import DiskPath, Hole, Leaf

DATA = Path(__file__).resolve().parents[1] / "data"
TREES: dict[str, dict[str, str]] = json.loads((DATA / "trees.json").read_text())
KINDS = {
    "linen_variables": "linen-variables",
    "linen_state": "linen-state",
    "linen_state_pp": "linen",
    "nnx_state": "nnx-state",
    "nnx_state_pure": "nnx-state",
    "nnx_params": "nnx-state",
    "nnx_model_optimizer": "nnx-optimizer",
    "nnx_pair": "nnx",
    "to_nnx": "to-nnx",
    "to_linen": "linen-variables",
    "to_linen2": "linen-variables",
}
F32 = Leaf((2,), "float32", 8)


def tree_of(name: str) -> dict[DiskPath, Leaf | Hole]:
    found: dict[DiskPath, Leaf | Hole] = {}
    for spelt, told in TREES[name].items():
        path = tuple(int(k[1:]) if k.startswith("#") else k for k in spelt.split("/"))
        if told in {hole.value for hole in Hole}:
            found[path] = Hole(told)
        else:
            dtype, _, shape = told[:-1].partition("[")
            found[path] = Leaf(tuple(int(s) for s in shape.split(",") if s.strip()), dtype, 0)
    return found


def written(layout, reading):
    return layout.write(reading.places, reading.skeleton, reading.form)


@pytest.mark.parametrize("foreign", sorted(TREES))
def test_recognised_and_written_back(foreign):
    tree = tree_of(foreign)
    version, _, kind = foreign.partition(": ")
    if kind == "nnx_optimizer":  # half a training state
        with pytest.raises(errors.ConvertError, match="an optimizer without its model"):
            layouts.detect(tree)
        return
    layout, evidence = layouts.detect(tree)
    bridged = version == "flax 0.10.2" and kind.startswith("to_linen")
    assert layout.name == ("to-linen" if bridged else KINDS[kind])
    assert 0.5 < evidence.confidence <= 1 and evidence.reasons
    reading = layout.read(tree)
    back = {
        path: tree[reading.places[value]] if isinstance(value, str) else value
        for path, value in written(layout, reading).items()
    }
    assert back == tree
    again = Form.from_json(json.loads(json.dumps(reading.form.to_json())))
    assert layout.read(tree, again).places == reading.places


def test_all_versions_of_nnx_have_one_canonical_tree():
    found = {
        version: set(layouts.detect(tree)[0].read(tree).places)
        for version in ("0.10.2", "0.11.2", "0.12.8")
        for tree in [tree_of(f"flax {version}: nnx_model_optimizer")]
    }
    weights = {v: {p for p in paths if not p.startswith("aux/")} for v, paths in found.items()}
    assert weights["0.10.2"] == weights["0.11.2"] == weights["0.12.8"]
    assert "batch_stats/bn/mean" in weights["0.12.8"]
    assert "params/blocks_1/kernel" in weights["0.12.8"]
    assert "opt_state/1/0/mu/blocks_0/kernel" in weights["0.12.8"]
    assert "aux/drop/rngs/default/key" in found["0.10.2"]
    assert "aux/drop/rngs/key" in found["0.12.8"]


@pytest.mark.parametrize(
    ("folder", "kind", "holds"),
    [
        ("flax_0_10_optimizer", "nnx-optimizer", "batch_stats/bn/var"),
        ("flax_0_10_to_linen", "to-linen", "RngKey/drop/rngs/dropout/key"),
        ("flax_0_11_pair", "nnx", "opt_state/1/2/count"),
        ("flax_0_11_train_state", "linen-state", "params/Dense_0/kernel"),
    ],
)
def test_real_files_of_older_versions(folder, kind, holds):
    found = checkpoint.read(DATA / folder)
    assert found.layout.name == kind
    array = found.storage.read(found.places[holds])
    assert array.shape[: len(found.leaves[holds].shape)] == found.leaves[holds].shape


def test_boxes_are_told_from_modules_called_value():
    tree = {
        ("params", "attention", "value", "kernel", "value"): F32,
        ("params", "attention", "value", "bias"): F32,
        ("params", "scores", "value"): F32,
        ("params", "scores", "weight"): F32,
    }
    reading = layouts.get("linen-variables").read(tree)
    assert set(reading.places) == {
        "params/attention/value/kernel",
        "params/attention/value/bias",
        "params/scores/value",
        "params/scores/weight",
    }
    assert reading.form.boxed == {"attention/value/kernel"}
    unclear = {("params", "temperature", "value"): F32, ("params", "Dense_0", "kernel"): F32}
    with pytest.raises(errors.ConvertError, match="a boxed parameter 'temperature', or a"):
        layouts.get("linen-variables").read(unclear)
    known = Form(boxed=frozenset({"temperature"}))
    assert "params/temperature" in layouts.get("linen-variables").read(unclear, known).places
    plain = layouts.get("linen-variables").read(unclear, Form())
    assert "params/temperature/value" in plain.places


def test_moments_follow_the_right_box():
    """`value/kernel` is boxed and `attention/value/kernel` is not: neither takes the other's."""
    tree = {
        ("params", "value", "kernel", "value"): F32,
        ("params", "attention", "value", "kernel"): F32,
        ("opt_state", 0, "mu", "value", "kernel", "value"): F32,
        ("opt_state", 0, "mu", "attention", "value", "kernel"): F32,
        ("opt_state", 1): Hole.NONE,
        ("step",): Leaf((), "int32", 4),
    }
    layout = layouts.get("linen-state")
    reading = layout.read(tree)
    assert reading.skeleton == {"tuple": [{"dict": {"mu": {"params": []}}}, None]}
    assert set(layout.write(reading.places, reading.skeleton, reading.form)) == set(tree)


def test_a_bare_tree_without_a_sign_is_not_guessed():
    bare = {("encoder", "kernel"): F32, ("head", "kernel"): F32}
    with pytest.raises(errors.ConvertError, match="no known layout fits") as error:
        layouts.detect(bare)
    assert "nothing in it that only NNX writes" in str(error.value)
    assert "no name of Linen's" in str(error.value)
    named = {("Dense_0", "kernel"): F32}
    assert layouts.detect(named)[0].name == "linen-params"
    listed = {("layers", "0", "kernel"): F32}
    assert layouts.detect(listed)[0].name == "nnx-state"


def test_a_list_and_an_attribute_of_the_same_number_collide():
    tree = {("blocks", "0", "w", "value"): F32, ("blocks_0", "w", "value"): F32}
    with pytest.raises(errors.ConvertError, match="both params/blocks_0/w"):
        layouts.get("nnx-state").read(tree)


def test_statistics_without_a_sign_are_not_guessed():
    tree = {("bn", "mean", "value"): F32, ("bn", "var", "value"): F32}
    with pytest.raises(errors.ConvertError, match="batch statistics, or a parameter"):
        layouts.get("nnx-state").read(tree)
    beside = tree | {("bn", "scale", "value"): F32}
    assert "batch_stats/bn/mean" in layouts.get("nnx-state").read(beside).places
    alone = {("gauss", "mean", "value"): F32, ("gauss", "w", "value"): F32}
    assert "params/gauss/mean" in layouts.get("nnx-state").read(alone).places


def test_the_unmerged_converter_of_maxtext():
    """Leaves under `value`, lists kept in the optimizer, moments left apart while weights stack."""
    stacked = Leaf((4, 2, 3), "float32", 96)
    single = Leaf((4, 3), "float32", 48)
    scalar = Leaf((), "int32", 4)
    tree = {("model", "decoder", "layers", "mlp", "kernel", "value"): stacked}
    for name in ("mu", "nu"):
        for layer in range(2):
            path = (
                "optimizer",
                "opt_state",
                0,
                name,
                "decoder",
                f"layers_{layer}",
                "mlp",
                "kernel",
            )
            tree[path] = single
    tree |= {
        ("optimizer", "opt_state", 0, "count"): scalar,
        ("optimizer", "opt_state", 1): Hole.NONE,
        ("optimizer", "opt_state", 2, "count"): scalar,
        ("optimizer", "step"): scalar,
    }
    layout, _ = layouts.detect(tree)
    assert layout.name == "nnx"
    reading = layout.read(tree)
    node = reading.skeleton["tuple"][0]["dict"]["mu"]
    assert node["apart"] == ["decoder/layers_0/mlp/kernel", "decoder/layers_1/mlp/kernel"]
    assert set(layout.write(reading.places, reading.skeleton, reading.form)) == set(tree)


def test_tunix():
    count = Leaf((), "uint32", 4)
    tree = {
        ("model_params", "layers", "0", "w", "value"): F32,
        ("optimizer_state", "opt_state", "0", "mu", "layers", "0", "w", "value"): F32,
        ("optimizer_state", "opt_state", "0", "count", "value"): count,
        ("optimizer_state", "step", "value"): count,
    }
    layout, _ = layouts.detect(tree)
    reading = layout.read(tree)
    assert layout.name == "tunix"
    assert set(layout.write(reading.places, reading.skeleton, reading.form)) == set(tree)


@pytest.mark.parametrize(
    "keys",
    [("a", "b"), ("blocks", "0", "w"), ("n", "1", "0"), ("SpectralNorm_0", "Dense_0/kernel/u")],
)
def test_names_come_back(keys):
    lists: set[str] = set()
    path = names.canonical(keys, lists)
    assert names.keys(path, lists) == keys
    assert len(path.split("/")) <= len(keys)


def test_the_command_line_knows_all_layouts():
    assert set(common.LAYOUTS) == {*layouts.LAYOUTS, *layouts.ALIASES}
    for name in common.LAYOUTS:
        assert layouts.get(name).title
    for source in layouts.LAYOUTS.values():
        assert layouts.twin(source, "linen").family == "linen"
        assert layouts.twin(source, "nnx").family == "nnx"
    assert leaves.spell(("a", 0)) == "a/0"
