"""Layouts, on metadata alone: what MaxText wrote is read, and written back key for key."""

import pytest

from maxmig import errors, trees
from maxmig.converters import layouts, leaves, skeletons, stacks
from maxmig.converters.leaves import Hole, Leaf

F32 = Leaf((2,), "float32", 8)
COUNT = Leaf((), "int32", 4)


def back(tree, layout, reading):
    written = layout.write(reading.places, reading.skeleton)
    return {at: tree[reading.places[v]] if isinstance(v, str) else v for at, v in written.items()}


def test_every_tree_is_recognised_and_written_back(listed, tree_of):
    tree = tree_of(listed)
    layout, evidence = layouts.detect(tree)
    nested = listed.endswith(("muon_nnx_scan", "skipspk_nnx_scan", "frozen_nnx_scan"))
    newer = "maxtext-nnx" if nested else "linen"
    assert layout.name == ("nnx" if "pre3929nnx" in listed else newer)
    assert evidence.fits and evidence.reasons
    reading = layout.read(tree)
    assert reading.notes == ()
    assert back(tree, layout, reading) == tree
    assert list(reading.places) == trees.sort(reading.places)


@pytest.mark.parametrize("layers", ["llama2_%s_scan", "llama2_%s_noscan", "gpt3_%s_scan"])
def test_both_spellings_of_one_run_are_one_canonical_tree(layers, tree_of):
    linen, native = tree_of(layers % "nnx"), tree_of(layers % "pre3929nnx")
    a, b = layouts.get("linen").read(linen), layouts.get("nnx").read(native)
    assert a.places.keys() == b.places.keys()
    for path in a.places.keys() - {"step"}:
        assert linen[a.places[path]] == native[b.places[path]], path
    written = layouts.get("nnx").write(a.places, a.skeleton)
    assert set(written) == set(native)


def test_muon_in_native_form(tree_of):
    """Dicts keyed by position, no `params` level, masked weights None, empty states absent."""
    tree = tree_of("llama2_muon_linen_scan")
    reading = layouts.get("linen").read(tree)
    written = layouts.get("nnx").write(reading.places, reading.skeleton)
    states = ("optimizer", "opt_state", "inner_states")
    adam, muon = (*states, "adam", "inner_state"), (*states, "muon", "inner_state")
    assert {path[5] for path in written if path[:5] == adam} == {"0", "2"}
    assert {path[5] for path in written if path[:5] == muon} == {"0", "3"}
    assert written[(*adam, "0", "mu", "decoder", "layers", "mlp", "wo", "kernel")] is Hole.NONE
    assert written[(*muon, "0", "mu", "token_embedder", "embedding")] is Hole.NONE
    ns_coeffs = (*muon, "0", "ns_coeffs")
    assert written[ns_coeffs] == "opt_state/inner_states/muon/inner_state/0/ns_coeffs"
    native = {at: F32 if isinstance(v, str) else v for at, v in written.items()}
    again = layouts.get("nnx").read(native)
    assert again.skeleton == reading.skeleton
    assert again.places.keys() == reading.places.keys()


def test_skip_step_on_spikes_in_native_form(tree_of):
    reading = layouts.get("linen").read(tree_of("llama2_skipspk_linen_scan"))
    written = layouts.get("nnx").write(reading.places, reading.skeleton)
    state = ("optimizer", "opt_state")
    assert (*state, "is_skipped") in written
    assert (*state, "inner_state", "0", "nu", "token_embedder", "embedding") in written
    assert not any(path[:4] == (*state, "inner_state", "1") for path in written)


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({("weights", "w"): F32}, "no known layout fits"),
        ({}, "no known layout fits"),
        ({("opt_state", "w"): F32}, "nothing below 'params/params'"),
        ({("params", "params", "w"): F32, ("model", "w"): F32}, "top-level keys ['model']"),
        ({("model", "w"): F32, ("ema", "w"): F32}, "does not know the top-level keys ['ema']"),
    ],
)
def test_refuses_to_guess(tree, told):
    with pytest.raises(errors.ConvertError) as error:
        layouts.detect(tree)
    assert told in str(error.value)
    assert "linen:" in str(error.value) and "nnx:" in str(error.value)  # the evidence of each


def test_refuses_when_several_fit(monkeypatch):
    monkeypatch.setitem(layouts.LAYOUTS, "twin", layouts.get("nnx"))
    with pytest.raises(errors.ConvertError, match="more than one layout fits"):
        layouts.detect({("model", "w"): F32})


def test_unknown_layout_name():
    with pytest.raises(errors.ConfigError, match=r"one of linen, nnx, .* got 'keras'"):
        layouts.get("keras")


def test_value_wrappers_are_read(tree_of):
    plain = tree_of("llama2_pre3929nnx_noscan")
    wrapped = {
        (*path, "value")
        if path[0] == "model" or path[:3] == ("optimizer", "opt_state", "0")
        else path: leaf
        for path, leaf in plain.items()
    }
    wrapped = {
        path
        if path[:2] != ("optimizer", "opt_state") or path[-1] == "value"
        else (*path, "value"): leaf
        for path, leaf in wrapped.items()
    }
    layout, _ = layouts.detect(wrapped)
    reading = layout.read(wrapped)
    assert reading.places.keys() == layout.read(plain).places.keys()
    assert reading.skeleton == layout.read(plain).skeleton
    assert any("wrapped in a 'value'" in note for note in reading.notes)


def test_a_module_may_be_called_value():
    tree = {("model", "attention", "value"): F32, ("model", "attention", "key"): F32}
    assert layouts.get("nnx").read(tree).places.keys() == {
        "params/attention/value",
        "params/attention/key",
    }


def test_random_state_is_told_from_weights():
    key = Leaf((), "key<rbg>", 16)
    tree = {
        ("model", "drop", "rngs", "count"): COUNT,
        ("model", "drop", "rngs", "key"): F32,
        ("model", "noise"): key,
        ("model", "rngs_free", "key"): F32,
    }
    assert set(layouts.get("nnx").read(tree).places) == {
        "aux/drop/rngs/count",
        "aux/drop/rngs/key",
        "aux/noise",
        "params/rngs_free/key",
    }


def test_holes_and_strange_leaves_are_all_listed():
    tree = {("params", "params", "w"): Hole.NONE, ("nnx_aux", "other"): F32, ("step", "x"): F32}
    tree |= {("opt_state", 0, "mu", "params", name): F32 for name in ("v", "w")}
    with pytest.raises(errors.ConvertError) as error:
        layouts.get("linen").read({**tree, ("params", "params", "v"): F32})
    for told in ("params/params/w: a hole (None)", "nnx_aux/other: no place", "step/x: no place"):
        assert told in str(error.value)


def test_two_leaves_of_one_name():
    tree = {("model", "layers", "0", "w"): F32, ("model", "layers_0", "w"): F32}
    with pytest.raises(errors.ConvertError, match="both params/layers_0/w"):
        layouts.get("nnx").read(tree)


@pytest.mark.parametrize(
    "skeleton",
    [
        {"tuple": [None, None]},
        {"tuple": []},
        {"dict": {}},
        {"tuple": [{"dict": {"trace": {"params": []}}}, None]},
        {"dict": {"hyperparams": {"dict": {"lr": "array"}}, "states": {"dict": {}}, "inner": None}},
        {"params": ["a"]},
    ],
)
def test_containers_survive_the_linen_tree(skeleton):
    flat = {"params/a": F32, "params/b": F32}
    flat |= dict.fromkeys(skeletons.paths(skeleton, {"a", "b"}), F32)
    written = layouts.get("linen").write(flat, skeleton)
    tree = {at: F32 if isinstance(v, str) else v for at, v in written.items()}
    again = layouts.get("linen").read(dict(leaves.walk(leaves.nest(tree))))
    assert again.skeleton == skeleton
    native = layouts.get("nnx").write(flat, skeleton)
    assert {v for v in native.values() if isinstance(v, str)} == set(flat)


def test_skeleton_and_leaves_must_agree():
    skeleton = {"tuple": [{"dict": {"mu": {"params": []}}}]}
    flat = ["params/a", "params/b", "opt_state/0/mu/a", "opt_state/0/ema/a"]
    with pytest.raises(errors.ConvertError) as error:
        layouts.get("linen").write(flat, skeleton)
    assert "missing: opt_state/0/mu/b" in str(error.value)
    assert "no place in the optimizer's skeleton: opt_state/0/ema/a" in str(error.value)


def test_param_shaped_subtrees_are_known_by_structure_not_by_name():
    flat = ["params/a/w", "params/b", "opt_state/first/a/w", "opt_state/first/b", "opt_state/mu/x"]
    assert skeletons.infer(flat) == {
        "dict": {"first": {"params": []}, "mu": {"dict": {"x": "array"}}}
    }


def test_stack_names():
    assert stacks.joined(("decoder", "layers", "3", "w")) == "decoder/layers_3/w"
    assert stacks.split("decoder/moe_layers_12/mlp/wi_0") == (
        "decoder",
        "moe_layers",
        "12",
        "mlp",
        "wi_0",
    )
    assert stacks.unscanned("decoder/layers_3/w") == ("decoder/layers/w", 3)
    assert stacks.scanned("decoder/layers_3/w") is None


@pytest.mark.parametrize("tree", [{("a", 0): 1, ("a", "b"): 2}, {("a", 0): 1, ("a", 2): 2}])
def test_containers_that_cannot_be(tree):
    with pytest.raises(ValueError, match="a"):
        leaves.nest(tree)
