"""Canonical paths: natural order, round trips, and both wings' trees seen as one."""

from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from maxmig import trees
from maxmig import view as views
from maxmig.config.flags import Stage

names = st.text("abcxyz_019²", min_size=1, max_size=6)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
nested = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(names, inner, min_size=1, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.integers(0, 2000), min_size=1, unique=True), names)
def test_numbers_are_ordered_by_value(numbers: list[int], name: str) -> None:
    prefix = name.rstrip("0123456789_") + "s_"
    given_paths = [f"decoder/{prefix}{n}/kernel" for n in numbers]
    wanted = [f"decoder/{prefix}{n}/kernel" for n in sorted(numbers)]
    assert trees.sort(given_paths) == wanted


def test_layers_10_follows_layers_9() -> None:
    shuffled = ["layers_10/a", "layers_2/a", "layers_9/b", "layers_9/a", "layers_11/a"]
    assert trees.sort(shuffled) == [
        "layers_2/a",
        "layers_9/a",
        "layers_9/b",
        "layers_10/a",
        "layers_11/a",
    ]
    assert sorted(shuffled)[0] == "layers_10/a"  # the control: string order puts it first


@example(["a_1", "a_01", "a_1²"])  # equal numbers, other paths; a digit that is no decimal
@given(st.lists(paths, unique=True))
def test_the_order_is_total_and_keeps_subtrees_together(given_paths: list[str]) -> None:
    ordered = trees.sort(given_paths)
    assert sorted(ordered) == sorted(given_paths)
    assert trees.sort(reversed(given_paths)) == ordered
    heads = [path.split("/")[0] for path in ordered]
    for head in set(heads):
        at = [i for i, other in enumerate(heads) if other == head]
        assert at == list(range(at[0], at[-1] + 1))


@given(st.dictionaries(names, nested, min_size=1, max_size=4))
def test_flatten_and_unflatten_are_inverse(tree: dict[str, Any]) -> None:
    flat = trees.flatten(tree)
    assert trees.unflatten(flat) == tree
    assert trees.flatten(trees.unflatten(flat)) == flat
    for head in tree:
        if isinstance(tree[head], dict):
            assert trees.subtree(flat, head) == trees.flatten(tree[head])


@pytest.mark.parametrize("flat", [{"a": 1, "a/b": 2}, {"a/b": 2, "a": 1}, {"a/b/c": 1, "a/b": 2}])
def test_a_leaf_that_is_a_parent_too_is_refused(flat: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"a(/b)*: (appears twice|the parent 'a' is a leaf)"):
        trees.unflatten(flat)


def test_integers_join_their_parents_name() -> None:
    assert views.model_path(["decoder", "layers", 10, "mlp"]) == "decoder/layers_10/mlp"
    assert views.model_path(["a", 1, 2]) == "a_1_2"


@given(st.permutations(range(12)))
def test_a_view_is_a_bijection_in_natural_order(order: list[int]) -> None:
    tree = {"layers": [{"w": np.full(2, i)} for i in range(12)], "top": np.zeros(1)}
    view = views.View(tree, lambda keys: views.model_path(views.parts(keys)))
    assert view.paths == (*(f"layers_{i}/w" for i in range(12)), "top")
    flat = view.flat(tree)
    assert all(flat[f"layers_{i}/w"][0] == i for i in range(12))
    items = list(flat.items())
    shuffled = dict([items[i] for i in order] + items[12:])
    again = view.native(shuffled)
    assert all(again["layers"][i]["w"] is tree["layers"][i]["w"] for i in range(12))


def test_two_leaves_of_one_path_are_refused() -> None:
    tree = {"layers": [np.zeros(1)], "layers_0": np.ones(1)}
    with pytest.raises(ValueError, match="two leaves share the canonical path layers_0"):
        views.View(tree, lambda keys: views.model_path(views.parts(keys)))


def test_a_view_refuses_missing_extra_and_misspelt_leaves() -> None:
    view = views.View({"a": np.zeros(1), "b": np.zeros(1)}, views.path)
    with pytest.raises(ValueError, match=r"places without a leaf: \['b'\]"):
        view.native({"a": 1})
    with pytest.raises(ValueError, match=r"leaves without a place: \['c'\]"):
        view.native({"a": 1, "b": 2, "c": 3})
    with pytest.raises(KeyError, match="c"):
        view.native({"a": 1, "c": 3})


@pytest.mark.parametrize("scan", ["scan_layers=true", "scan_layers=false"])
@pytest.mark.parametrize("opt", ["adam_pax", "muon"])
def test_a_state_survives_the_round_trip_and_looks_the_same_on_every_rung(
    opt: str, scan: str, stage: Stage
) -> None:
    options = (f"opt_type={opt}", scan, "base_num_decoder_layers=11")
    rt = helpers.runtime("tiny_llama2", *options, stage=stage)
    wanted = helpers.runtime("tiny_llama2", *options)
    assert rt.view.paths == wanted.view.paths == tuple(trees.sort(rt.view.paths))
    numbered = {p: np.full(a.shape, i, a.dtype) for i, (p, a) in enumerate(rt.abstract.items())}
    again = rt.view.flat(rt.view.native({p: jnp.asarray(v) for p, v in numbered.items()}))
    helpers.same(numbered, again)
    assert set(rt.param_paths) == set(rt.backend.spec)
    assert {p: rt.abstract[f"params/{p}"].shape for p in rt.param_paths} == {
        p: param.shape for p, param in rt.backend.spec.items()
    }
    last = "decoder/layers_10/mlp/wo/kernel"
    assert (last in rt.param_paths) == (scan == "scan_layers=false")


def test_no_state_holds_anything_but_weights_optimizer_and_step(stage: Stage) -> None:
    """No random counter or key hides in a module: all streams derive from seed, step and path."""
    rt = helpers.runtime("tiny_llama2", "dropout_rate=0.1", stage=stage)
    assert {path.split("/")[0] for path in rt.view.paths} == {"params", "opt_state", "step"}
    native = rt.view.native(rt.view.abstract)
    assert len(jax.tree.leaves(native)) == len(rt.view.paths)
