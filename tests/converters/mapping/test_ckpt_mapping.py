"""Mapping files and rules: what they do, how they are inverted, and what is refused."""

import itertools
import json
from pathlib import Path
from typing import Any

import mapping_cases
import numpy as np
import pytest

from maxmig import errors
from maxmig.converters import checkpoint, mapping
from maxmig.converters.mapping import auto, derive, explain, files, rules, state
from maxmig.converters.mapping.files import Document


def linen_variables(**params: Any) -> dict[str, Any]:
    return {"params": params}


def numbers(*shape: int, start: int = 1) -> np.ndarray:
    return np.arange(start, start + int(np.prod(shape)), dtype=np.float32).reshape(shape)


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


def document(*items: dict[str, Any], **more: Any) -> Document:
    return files.parse({"rules": list(items), **more}, "here")


def targets(planned: mapping.Planned) -> set[str]:
    return {"/".join(map(str, path)) for path in planned.written}


RULES: dict[str, tuple[list[dict[str, Any]], set[str]]] = {
    "rename-exact": ([{"rename": "head", "to": "top/out"}], {"params/top/out/kernel"}),
    "rename-regex": (
        [{"rename": {"regex": r"block_(\d+)/(.*)"}, "to": r"tower/part_\1/\2"}],
        {"params/tower/part_2/mlp/kernel"},
    ),
    "stack": ([{"stack": "block_{}", "to": "block", "axis": 1}], {"params/block/mlp/kernel"}),
    "stack-and-rename": (
        [{"stack": "block_{}", "to": "block"}, {"rename": "block", "to": "ScanBlock_0"}],
        {"params/ScanBlock_0/bias"},
    ),
    "split": (
        [{"split": "head/wide", "to": ["head/a", "head/b"], "axis": 1, "sizes": [2, 4]}],
        {"params/head/a", "params/head/b"},
    ),
    "concat": (
        [{"concat": ["block_0/mlp/kernel", "block_1/mlp/kernel"], "to": "fused", "axis": 0}],
        {"params/fused"},
    ),
    "transpose": ([{"transpose": "head/kernel", "axes": [1, 0]}], {"params/head/kernel"}),
    "collection": (
        [{"collection": "head/mean", "from": "batch_stats", "to": "stats"}],
        {"stats/head/mean"},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_operation_and_its_inverse(rule: str, tree: Path, tmp_path: Path) -> None:
    listed, there = RULES[rule]
    source = checkpoint.read(tree)
    planned = mapping.planned(source, "linen-variables", map_file=document(*listed))
    assert there <= targets(planned)
    made = mapping_cases.convert(
        tree, tmp_path / "made", "linen-variables", map_file=document(*listed)
    )
    changed = mapping_cases.arrays(made)
    back = mapping_cases.convert(
        tmp_path / "made", tmp_path / "back", "linen-variables", map_file=planned.document.inverse()
    )
    before, after = mapping_cases.arrays(tree), mapping_cases.arrays(back)
    assert before.keys() == after.keys()
    assert all(mapping_cases.same_bits(before[path], after[path]) for path in before)
    assert changed.keys() != before.keys() or any(
        not mapping_cases.same_bits(changed[path], before[path]) for path in before
    )


def test_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    blocks = {f"block_{i}": {"mlp": {"kernel": numbers(2, start=i)}} for i in range(12)}
    source = mapping_cases.save(tmp_path / "s", linen_variables(**blocks))
    one = document({"stack": "block_{}", "to": "block", "axis": 0})
    made = mapping_cases.convert(source, tmp_path / "m", "linen-variables", map_file=one)
    (stacked,) = mapping_cases.arrays(made).values()
    assert stacked[:, 0].tolist() == list(range(12))


def test_blocks_without_a_known_name_are_found_or_asked_for(tree: Path) -> None:
    source = checkpoint.read(tree)
    planned = mapping.planned(source, "linen-variables", scan=True)
    assert planned.document.rules == (rules.Stack("block_{}", "block", 0),)
    without = {path: leaf for path, leaf in source.leaves.items() if "block" not in path}
    start = state.start(without, None)
    with pytest.raises(errors.ConvertError, match="which layers are to be stacked"):
        auto.scan(start, scan=True, axis=None, source_axis=None)


def test_the_file_is_emitted_read_and_inverted(tree: Path, tmp_path: Path) -> None:
    listed = list(itertools.chain.from_iterable(items for items, _ in RULES.values()))
    listed += [
        {"drop": {"regex": "head/.*"}, "reason": "another head"},
        {"unstack": "a", "to": "a_{}", "axis": 0},
        {"move_axis": "a", "from": 0, "to": 1},
        {"layer": "cell", "kind": "gru", "to": "nnx"},
        {"list": "blocks"},
        {"random": "dropout/rngs", "impl": "raw", "shape": [2]},
    ]
    first = files.parse({"from": "linen-state", "to": "nnx", "rules": listed}, "here")
    file = tmp_path / "map.yml"
    file.write_text(first.to_yaml())
    again = files.read(file)
    assert again.rules == first.rules and (again.source, again.target) == ("linen-state", "nnx")
    assert files.parse(json.loads(json.dumps(first.data())), "json") == first
    known = [rule for rule in first.rules if not isinstance(rule, rules.Concat)]
    lossy = (rules.Drop, rules.Listed, rules.Random)
    kept = [r for r in known if not isinstance(r, lossy) and "regex" not in str(r.data())]
    assert rules.invert(rules.invert(tuple(kept))) == tuple(kept)


@pytest.mark.parametrize(
    ("rule", "back"),
    [
        ((r"block_(\d+)/(.*)", r"b/\1/\2"), (r"b/(\d+)/(.*)", r"block_\g<1>/\g<2>")),
        ((r"(\w+)/x/(\w+)", r"\2/\1"), (r"(\w+)/(\w+)", r"\g<2>/x/\g<1>")),
    ],
)
def test_regular_expressions_are_inverted(rule: Any, back: Any) -> None:
    found = rules.Rename(rules.Where(rule[0], regex=True), rule[1]).inverse()
    assert (found.where.path, found.to) == back


@pytest.mark.parametrize("pattern", [r"a.b/(\d+)", r"(\d+)/(\d+)", r"((a)b)"])
def test_what_has_no_inverse_says_so(pattern: str) -> None:
    rule = rules.Rename(rules.Where(pattern, regex=True), r"x/\1")
    with pytest.raises(errors.ConvertError, match="has no inverse"):
        rule.inverse()


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([{"rename": "nowhere", "to": "x"}], "a rule matches nothing"),
        ([{"rename": "block_0", "to": "block_1"}], "two leaves would have this path"),
        ([{"rename": "head/kernel", "to": "block_0"}], "block_0: is a leaf, and holds params/bl"),
        ([{"split": "head/wide", "to": ["a", "b"], "axis": 1, "sizes": [1, 1]}], "do not make up"),
        ([{"concat": ["head/kernel", "gone"], "to": "x", "axis": 0}], "not there: gone"),
        ([{"transpose": "head/kernel", "axes": [2, 0, 1]}], "expected 3 axes"),
        ([{"rename": "head/kernel", "to": "../../etc"}], "expected printable keys"),
        ([{"unstack": "head", "to": "head_{}", "axis": 2}], "expected a layer axis from 0 to 1"),
        ([{"stack": "block_{}", "to": "block", "axis": 3}], "expected a layer axis from 0 to 2"),
        ([{"move_axis": "head", "from": 0, "to": 2}], "expected a layer axis from 0 to 1"),
        ([{"drop": "gone", "reason": "x"}], "rules.0.: {drop: gone, reason: x}: a rule matches n"),
        ([{"unlist": "blocks"}], "a rule matches nothing"),
    ],
)
def test_holes_and_collisions_name_the_leaves(
    items: list[dict[str, Any]], told: str, tree: Path
) -> None:
    source = checkpoint.read(tree)
    with pytest.raises((errors.ConfigError, errors.ConvertError), match=told) as error:
        mapping.planned(source, "linen-variables", map_file=document(*items))
    assert error.value.exit_code == (4 if "etc" in str(items) else 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rules: 3", "expected a list"),
        ("[1]", "expected keys and values"),
        ("rule: []", "unknown keys"),
        ("maxmig_map: 9", "expected version 1"),
        ("rules: [{rename: a}]", r"rules\[0\]: rename: 'to' is missing"),
        ("rules: [{rename: a, to: b, axis: 1}]", "unknown"),
        ("rules: [{rename: {regex: '('}, to: b}]", "no regular expression"),
        ("rules: [{stack: a, to: b}]", "for the number"),
        ("rules: [{layer: a, kind: conv, to: nnx}]", "kind: expected one of"),
        ("rules: [{transpose: a, axes: [0, 0]}]", "each axis once"),
        ("rules: [{drop: a}]", "'reason' is missing"),
        ("to: keras", "expected a checkpoint layout"),
        ("a: [", "expected YAML"),
        ("rules: []\nmaxmig_map: 1\nrules: []", r"map.yml:3: rules: this key is there twice"),
        ("rules: []", "expected `maxmig_map: 1`, or `kind: maxmig.mapping`"),
        ("kind: other", "kind: expected 'maxmig.mapping'"),
        ("kind: maxmig.mapping", "expected leaves: with one line for every leaf"),
        ("rules:\n- {rename: {regex: 'a/(.*)'}, to: 'x/\\2'}", r"map.yml:2: .*group reference 2"),
        ("rules: [{concat: [a, b, a], to: c, axis: 0}]", "a is there twice"),
        ("rules: [{split: a, to: [b, b], axis: 0, sizes: [1, 1]}]", "b is there twice"),
        ("rules: [{split: a, to: [b], axis: 0, sizes: [1, 1]}]", "a path for each of the 2 sizes"),
        ("optimizer: 5", "optimizer: expected module:name"),
        ("leaves: {p/a: p/x, p/b: p/x}", "p/x is used twice, for p/a and p/b"),
        ("leaves: {p/a: {op: fry, from: p/x}}", "expected one of same"),
        ("boxed: [a, a]", "a is there twice"),
    ],
)
def test_bad_files(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "map.yml"
    file.write_text(text)
    with pytest.raises(errors.ConfigError, match=told):
        files.read(file)


TABLE = {
    f"params/block_{i}/{leaf}": f"params/block_{i}/{leaf}"
    for i in range(3)
    for leaf in ("mlp/kernel", "bias")
} | {"params/head/kernel": "params/head/kernel"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, r"1 of 8 are in no line of it.*\n  params/head/wide$"),
        (
            {
                "params/a": {
                    "op": "slice",
                    "axis": 1,
                    "start": 0,
                    "stop": 5,
                    "from": "params/head/wide",
                }
            },
            r"params/head/wide: its parts in leaves: \(params/a\) do not make up",
        ),
        ({"params/wide": "params/head/wide", "params/x": "params/gone"}, "expected params/gone in"),
    ],
)
def test_a_table_names_every_leaf(more: dict[str, Any], told: str, tree: Path) -> None:
    source = checkpoint.read(tree)
    with pytest.raises(errors.ConfigError, match=told):
        mapping.planned(source, "linen-variables", map_file=document(leaves=TABLE | more))
    whole = document(leaves=TABLE | {"params/wide": "params/head/wide"})
    assert "params/wide" in targets(mapping.planned(source, "linen-variables", map_file=whole))


@pytest.mark.parametrize("key", ["boxed", "unboxed", "collections"])
def test_what_is_said_of_the_tree_is_there(key: str, tree: Path) -> None:
    told: Any = {"gone": "stats"} if key == "collections" else ["gone"]
    with pytest.raises(errors.ConfigError, match=f"{key}: gone: no leaf or module"):
        mapping.planned(checkpoint.read(tree), "nnx", map_file=document(**{key: told}))


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


@pytest.mark.parametrize("zero", [True, False])
def test_gru(zero: bool, tmp_path: Path) -> None:
    """Linen's hn/bias has no home in NNX: zero, or refused with its size."""
    import jax
    from flax import linen as nn
    from flax import nnx

    cell = nn.GRUCell(4)
    x = jax.numpy.asarray(numbers(2, 3))
    carry = jax.numpy.zeros((2, 4))
    params = cell.init(jax.random.key(0), carry, x)["params"]
    params = jax.tree.map(lambda a: a + 0.1, params)
    if zero:
        params["hn"]["bias"] = params["hn"]["bias"] * 0
    source = mapping_cases.save(tmp_path / "s", linen_variables(GRUCell_0=params))
    if not zero:
        with pytest.raises(errors.ConvertError, match=r"hn/bias: gru at GRUCell_0.*not zero \(0.1"):
            mapping.plan(checkpoint.read(source), "nnx")
        return
    made = mapping_cases.convert(source, tmp_path / "n", "nnx")
    found = mapping_cases.arrays(made)
    native = nnx.GRUCell(3, 4, rngs=nnx.Rngs(0))
    for name in ("dense_i", "dense_h"):
        part = getattr(native, name)
        for leaf in ("kernel", "bias") if name == "dense_i" else ("kernel",):
            setattr(part, leaf, nnx.Param(found[f"GRUCell_0/{name}/{leaf}/value"]))
    np.testing.assert_allclose(
        native(carry + 0.5, x)[0], cell.apply({"params": params}, carry + 0.5, x)[0], rtol=1e-6
    )
    back = mapping_cases.convert(tmp_path / "n", tmp_path / "b", "linen")
    a, b = mapping_cases.arrays(source), mapping_cases.arrays(back)
    assert a.keys() == b.keys() and all(mapping_cases.same_bits(a[p], b[p]) for p in a)


def test_a_cell_that_might_be_two_is_asked_for(tmp_path: Path) -> None:
    import jax
    from flax import linen as nn

    x = jax.numpy.ones((1, 3))
    cell = nn.LSTMCell(2)
    carry = cell.initialize_carry(jax.random.key(0), x.shape)
    params = cell.init(jax.random.key(0), carry, x)["params"]
    source = mapping_cases.save(tmp_path / "s", linen_variables(encoder=params))
    with pytest.raises(errors.ConvertError, match="LSTMCell and OptimizedLSTMCell store the same"):
        mapping.plan(checkpoint.read(source), "nnx")
    for kind, there in (
        ("lstm", "encoder/if_/kernel"),
        ("optimized-lstm", "encoder/dense_i/kernel"),
    ):
        one = document({"layer": "encoder", "kind": kind, "to": "nnx"})
        planned = mapping.planned(checkpoint.read(source), "nnx", map_file=one)
        assert f"{there}/value" in targets(planned)


def test_casts_are_of_parameters_only(tmp_path: Path) -> None:
    import ml_dtypes

    params = {"w": numbers(2, 2), "n": np.arange(3, dtype=np.int32)}
    tree = {"params": params, "opt_state": [{"mu": {"w": numbers(2, 2), "n": params["n"]}}]}
    source = mapping_cases.save(tmp_path / "s", tree | {"step": np.int32(3)})
    found = mapping_cases.arrays(
        mapping_cases.convert(source, tmp_path / "m", "linen", dtype="bfloat16")
    )
    assert found["params/w"].dtype == ml_dtypes.bfloat16 and found["params/n"].dtype == np.int32
    assert found["opt_state/0/mu/w"].dtype == np.float32
    both = mapping.plan(checkpoint.read(source), "linen", dtype="bfloat16,opt_state=bfloat16")
    assert {leaf.dtype for path, leaf in both.leaves.items() if path[-1] == "w"} == {"bfloat16"}
    for wrong in ("int32", "step=float32", "float7"):
        with pytest.raises(errors.ConfigError, match="Numbers are never made integers"):
            mapping.plan(checkpoint.read(source), "linen", dtype=wrong)


def test_random_state_is_derived_from_seed_path_and_step() -> None:
    leaf = derive.key_leaf("threefry2x32", (3,))

    def made(path: str = "a/key", seed: int = 0, step: int = 5) -> list[int]:
        return list(derive.maker(path, leaf, seed, step)().ravel())

    assert made() == made()
    assert len({tuple(found) for found in (made(), made("b/key"), made(seed=1), made(step=6))}) == 4
    assert derive.maker("a/key", leaf, 0, 5)().shape == (3, 2)


def test_random_state_of_a_list_is_spelt_as_nnx_has_it_and_dropped_on_the_way_back(
    tree: Path, tmp_path: Path
) -> None:
    spelt = [{"random": f"block/{i}/dropout/rngs"} for i in range(3)]
    there = document({"list": "block"}, *spelt)
    mapping_cases.convert(tree, tmp_path / "nnx", "nnx-state", map_file=there)
    planned = mapping.planned(checkpoint.read(tree), "nnx-state", map_file=there)
    assert {"block/2/dropout/rngs/count/value", "block/2/bias/value"} <= targets(planned)
    assert "aux/block_2/dropout/rngs/key" in planned.state.items
    alone = mapping.planned(checkpoint.read(tree), "nnx-state", map_file=document(*spelt))
    assert targets(alone) == targets(planned)
    back = files.parse(there.inverse().data(), "back")
    again = mapping.planned(
        checkpoint.read(tmp_path / "nnx"), "linen-variables", map_file=back, random="keep"
    )
    assert targets(again) == targets(mapping.planned(checkpoint.read(tree), "linen-variables"))


def test_random_state_at_no_module_or_at_several(tree: Path) -> None:
    def notes(at: str) -> tuple[str, ...]:
        planned = mapping.planned(
            checkpoint.read(tree), "nnx-state", map_file=document({"random": at})
        )
        return planned.conversion.notes

    assert any("where block_2 is meant" in note for note in notes("blokc_2/dropuot/rngs"))
    assert not any("is meant" in x for at in ("block_2/rngs", "dropout/rngs") for x in notes(at))
    with pytest.raises(errors.ConfigError, match=r"path of one module, without \*"):
        document({"random": "block/*/rngs"})


def test_random_state_policies(tmp_path: Path) -> None:
    data = Path(__file__).resolve().parents[1] / "data" / "flax_0_10_optimizer"
    source = checkpoint.read(data)
    kept = mapping.plan(source, "nnx")
    assert any("rngs" in map(str, path) for path in kept.leaves)
    assert not any("rngs" in path for path in mapping.plan(source, "nnx", random="drop").leaves)
    with pytest.raises(errors.ConvertError, match="no place for random state"):
        mapping.plan(source, "linen", random="keep")
    mapping_cases.convert(data, tmp_path / "linen", "linen")
    back = mapping.plan(checkpoint.read(tmp_path / "linen"), "nnx")
    assert {item.why for item in back.made} == {"random state, derived from (seed, path, step)"}
    assert back.leaves == kept.leaves


def test_odd_leaves_survive(tmp_path: Path) -> None:
    """Scalar and tied ones; a name with a slash; a collection of one's own."""
    tied = numbers(2, 2)
    tree = {
        "params": {"e": {"embedding": tied}},
        "counters": {"e": {"n": np.int32(7)}},
        "batch_stats": {"Odd_0": {"e/kernel/u": numbers(1, 2)}},
    }
    source = mapping_cases.save(tmp_path / "s", tree)
    made = mapping_cases.convert(source, tmp_path / "n", "nnx")
    found = mapping_cases.arrays(made)
    assert sum(np.array_equal(tied, array) for array in found.values()) == 1
    back = mapping_cases.convert(tmp_path / "n", tmp_path / "b", "linen")
    a, b = mapping_cases.arrays(source), mapping_cases.arrays(back)
    assert a.keys() == b.keys() and all(mapping_cases.same_bits(a[p], b[p]) for p in a)


def test_one_name_in_two_collections_is_refused(tmp_path: Path) -> None:
    tree = {"params": {"n": numbers(2)}, "stats": {"n": numbers(2)}}
    source = mapping_cases.save(tmp_path / "s", tree)
    with pytest.raises(errors.ConvertError, match="one attribute cannot be two"):
        mapping.plan(checkpoint.read(source), "nnx")


def test_zero_sizes_and_state_dictionaries(tmp_path: Path) -> None:
    """What flax.serialization writes: `{}` for empty states; Orbax itself holds no empty array."""
    import jax
    import optax
    from flax import serialization
    from flax.training import train_state

    params = {"encoder": {"kernel": numbers(3, 2), "empty": np.zeros((0, 3), np.float32)}}
    tx = optax.chain(optax.clip(1.0), optax.adamw(optax.linear_schedule(0.1, 0.0, 3)))
    like = train_state.TrainState.create(apply_fn=None, params=params, tx=tx)
    state = like.apply_gradients(grads=jax.tree.map(np.ones_like, params))
    file = tmp_path / "state.msgpack"
    file.write_bytes(serialization.to_bytes(state))
    source = checkpoint.read(file)
    assert source.layout.name == "linen-state"
    assert source.skeleton["tuple"][0] is None and len(source.skeleton["tuple"][1]["tuple"]) == 3
    made = tmp_path / "again.msgpack"
    found = mapping.plan(source, "linen", container="msgpack")
    mapping_cases.run.run(
        mapping_cases.plan.plan(found, str(made), mapping_cases.Options()), str(made)
    )
    back = serialization.from_bytes(like, made.read_bytes())
    pairs = zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_flat_names(tmp_path: Path) -> None:
    """Safetensors: names are cut at dots or slashes, whichever there are; both are ambiguous."""
    from maxmig.converters import flat

    assert flat.cut({("a.b",): 1, ("a.c",): 1}, own=False) == {
        ("a.b",): ("a", "b"),
        ("a.c",): ("a", "c"),
    }
    assert flat.cut({("a/b",): 1}, own=False) == {("a/b",): ("a", "b")}
    with pytest.raises(errors.ConvertError, match="which separates"):
        flat.cut({("a/b.c",): 1}, own=False)
    with pytest.raises(errors.ConvertError, match="has one of its own"):
        flat.plain({("a.b", "c"): "params/a.b/c"}, "safetensors")


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


def test_a_file_is_loaded_like_a_directory(tmp_path: Path) -> None:
    from flax import serialization

    file = tmp_path / "v.msgpack"
    file.write_bytes(serialization.to_bytes(linen_variables(Dense_0={"kernel": numbers(2, 2)})))
    found = checkpoint.read(file)
    array = found.load({"params/Dense_0/kernel": None})["params/Dense_0/kernel"]
    assert np.array_equal(array, numbers(2, 2))


def test_cells_in_a_stack_of_stacks_are_taken_apart_first(tmp_path: Path) -> None:
    """In a stack of stacks; one stack is no matter (test_ckpt_stacked_cells)."""
    gates = {f"i{gate}": {"kernel": numbers(2, 2, 3, 4)} for gate in "ifgo"}
    gates |= {f"h{g}": {"kernel": numbers(2, 2, 4, 4), "bias": numbers(2, 2, 4)} for g in "ifgo"}
    source = mapping_cases.save(tmp_path / "s", linen_variables(OptimizedLSTMCell_0=gates))
    with pytest.raises(errors.ConvertError, match="on which axis; take them apart first"):
        mapping.plan(checkpoint.read(source), "nnx")
