"""Stacks of layers whose layers hold stacks: `nn.scan` in `nn.scan`, blocks in pipeline stages."""

import itertools

import numpy as np
import orbax.checkpoint as ocp
import pytest

from maxmig import errors
from maxmig.converters import axes, checkpoint, convert, inverses, ops, transfers
from maxmig.converters.compare import diff, hash, verify
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import files

OUTER, INNER = 3, 2
ORIGIN = {"kernel": (4, 6), "bias": (6,), "gate": (5,)}


def layer(seed, scale=1.0):
    numbers = np.random.default_rng(seed)
    return {
        name: (scale * numbers.standard_normal(shape)).astype(np.float32)
        for name, shape in ORIGIN.items()
    }


def stacked(parts, axis):
    return {
        name: np.stack([p[name] for p in parts], min(axis, len(ORIGIN[name]))) for name in ORIGIN
    }


def outer_stacked(parts, axis):
    """As `nn.scan` does it: on an axis of what the inner one made."""
    return {
        name: np.stack([p[name] for p in parts], min(axis, parts[0][name].ndim)) for name in ORIGIN
    }


def model(outer, inner, names=("layers", "layers"), scale=1.0):
    """(stacked, apart); a norm in each outer layer tells which of the two levels is which."""
    every = [[layer((i, j), scale) for j in range(INNER)] for i in range(OUTER)]
    both = outer_stacked([stacked(each, inner) for each in every], outer)
    norms = [layer(i, scale)["gate"] for i in range(OUTER)]
    norm = {"n": {"scale": np.stack(norms, min(outer, 1))}}
    top = {"head": {"kernel": np.full((6, 5), scale, np.float32)}}
    apart = {
        f"{names[0]}_{i}": {
            **{f"{names[1]}_{j}": {"mlp": every[i][j]} for j in range(INNER)},
            "n": {"scale": norms[i]},
        }
        for i in range(OUTER)
    }
    return {names[0]: {names[1]: {"mlp": both}, **norm}, **top}, {**apart, **top}


def state(params, moments):
    adam = {"count": np.int32(3), "mu": moments, "nu": moments}
    return {"params": params, "opt_state": [adam, None], "step": np.int32(3)}


def saved(folder, outer=1, inner=1, names=("layers", "layers")):
    pairs = model(outer, inner, names), model(outer, inner, names, 0.5)
    for name, params, moments in zip(("stacked", "apart"), *pairs, strict=True):
        ocp.PyTreeCheckpointer().save(folder / name, state(params, moments))
    return folder / "stacked", folder / "apart"


def converted(source, made, to="linen", **options):
    todo = convert.plan(checkpoint.read(source), to, **options)
    convert.run(todo, made)
    return todo


def same(one, other, *, as_trees=True):
    report = diff.diff(checkpoint.read(one), checkpoint.read(other))
    assert report and {line.sign for line in report.lines} <= {"=", "~"}, report.summary()
    assert not as_trees or checkpoint.read(one).leaves == checkpoint.read(other).leaves


@pytest.mark.parametrize(("outer", "inner"), [(0, 0), (1, 1), (0, 1), (1, 0), (2, 2)])
def test_apart_on_both_levels_and_back(outer, inner, tmp_path):
    one, other = saved(tmp_path, outer, inner)
    converted(one, tmp_path / "made", scan=False, from_scan_axis=outer)
    same(tmp_path / "made", other)
    report, _ = verify.checkpoints(checkpoint.read(tmp_path / "made"), checkpoint.read(one))
    assert report
    todo = converted(tmp_path / "made", tmp_path / "back", scan=True)
    same(tmp_path / "back", one)
    ways = convert.prepare(todo, tmp_path / "x").rows()
    assert [row["route"] for row in ways] == ["reference"]  # a layer in each chunk
    again = converted(tmp_path / "back", tmp_path / "again", scan=False)
    assert convert.prepare(again, tmp_path / "x").rows()[0]["arrays"] == len(again.leaves)
    same(tmp_path / "again", other)


def test_digests_do_not_depend_on_the_levels(tmp_path):
    one, other = saved(tmp_path)
    assert len({hash.fingerprint(checkpoint.read(each)).digest for each in (one, other)}) == 1
    same(one, other, as_trees=False)
    same(other, one, as_trees=False)


def test_in_the_native_layout(tmp_path):
    one, other = saved(tmp_path)
    converted(one, tmp_path / "made", "nnx", scan=False)
    paths = checkpoint.read(tmp_path / "made").places
    assert paths["params/layers_2/layers_1/mlp/bias"][:5] == ("model", "layers", "2", "layers", "1")
    same(tmp_path / "made", other, as_trees=False)
    converted(tmp_path / "made", tmp_path / "back", "linen")  # the way back restores the stacks
    same(tmp_path / "back", one)


def test_names_that_scan_gave_by_itself(tmp_path):
    names = ("ScanStage_0", "ScanBlock_0")
    one, other = saved(tmp_path, 0, 0, names)
    converted(one, tmp_path / "made", scan=False, from_scan_axis=0)
    same(tmp_path / "made", other)
    converted(tmp_path / "made", tmp_path / "back", scan=True)
    same(tmp_path / "back", one)


RULES = """
maxmig_map: 1
to: linen-state
rules:
- {stack: 'stage_*/block_{}', to: stage_*/block, axis: 1}
- {stack: 'stage_{}', to: stage, axis: 1}
"""


def test_names_of_ones_own_by_a_mapping_file(tmp_path):
    one, other = saved(tmp_path, names=("stage", "block"))
    (tmp_path / "map.yml").write_text(RULES)
    document = files.read(tmp_path / "map.yml")
    todo = converted(other, tmp_path / "made", None, map_file=document)
    same(tmp_path / "made", one)
    assert len(todo.planned.document.rules) == OUTER + 1  # one for each stage, then the stages
    back = todo.planned.document.inverse()
    converted(tmp_path / "made", tmp_path / "back", None, map_file=back)
    same(tmp_path / "back", other)
    wrong = files.parse({"rules": [{"stack": "stage_*/block_{}", "to": "x", "axis": 0}]}, "here")
    with pytest.raises(errors.ConfigError, match=r"expected as many \*"):
        converted(other, tmp_path / "x", "linen", map_file=wrong)


def test_what_looks_like_layers_of_one_layer_stays(tmp_path):
    """Without a record of stacks in stacks, parts of a layer are not stacked: nothing tells."""
    _, other = saved(tmp_path)
    converted(other, tmp_path / "made", scan=True, scan_axis=0)
    found = checkpoint.read(tmp_path / "made").leaves
    assert found["params/layers/layers_1/mlp/bias"].shape == (OUTER, 6)


def test_an_axis_of_both_levels_is_not_moved(tmp_path):
    one, _ = saved(tmp_path)
    with pytest.raises(errors.ConvertError, match="of stacks in stacks cannot be moved"):
        converted(one, tmp_path / "made", scan_axis=0)
    converted(one, tmp_path / "single", scan=False)
    converted(tmp_path / "single", tmp_path / "made", scan=True, scan_axis=0)
    params = checkpoint.read(tmp_path / "made").leaves
    assert params["params/layers/layers/mlp/kernel"].shape == (OUTER, INNER, 4, 6)


def test_a_missing_inner_layer_is_named(tmp_path):
    _, apart = model(1, 1)
    del apart["layers_1"]["layers_1"]
    ocp.PyTreeCheckpointer().save(tmp_path / "src", {"params": apart, "step": np.int32(0)})
    with pytest.raises(errors.ConvertError, match=r"layers \[1\] of 3 have no such leaf"):
        converted(tmp_path / "src", tmp_path / "made", scan=True)
    assert axes.layer_axis(checkpoint.read(tmp_path / "src").leaves) is None


def test_composed_operations_and_their_inverses():
    """Two levels of stacks, parts of parts, in any box, and what leads back."""
    arrays = [np.arange(24.0).reshape(4, 6) + 100 * i for i in range(6)]
    leaves = [Leaf((4, 6), "float64", 192)] * 6
    op = ops.Join((ops.Stack(1),) * 3, (2,) * 3, ops.Stack(0))
    whole = np.stack([np.stack(arrays[i : i + 2], 1) for i in (0, 2, 4)])
    assert op.result(leaves).shape == whole.shape
    box = ((1, 3), (0, 2), (1, 2), (2, 5))
    parts = [arrays[n][tuple(slice(*s) for s in part)] for n, part in op.parts(box, leaves)]
    assert np.array_equal(op.apply(parts, box, leaves), whole[1:3, 0:2, 1:2, 2:5])
    names = [(f"s{i}",) for i in range(6)]
    told = dict(zip(names, leaves, strict=True))
    join = transfers.Transfer(("made",), op.result(leaves), tuple(names), op)
    back = inverses.inverse([join], told)
    assert [each.op for each in back] == [
        ops.Then(ops.Take(0, i), ops.Take(1, j)) for i, j in itertools.product(range(3), range(2))
    ]
    for each, array in zip(back, arrays, strict=True):
        ((_, part),) = each.op.parts(transfers.whole(each.leaf), [op.result(leaves)])
        cut = whole[tuple(slice(*span) for span in part)]
        found = each.op.apply([cut], transfers.whole(each.leaf), [op.result(leaves)])
        assert np.array_equal(found, array)
    (again,) = inverses.inverse(back, {("made",): op.result(leaves)})
    assert again.op == op and again.sources == tuple(names)
    with pytest.raises(errors.ConvertError, match="there is no way back"):
        inverses.inverse(back[1:], {("made",): op.result(leaves)})
