"""On which axis layers are: told by evidence or refused, but never guessed."""

from pathlib import Path
from typing import Any

import mapping_cases
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maxmig import errors
from maxmig.converters import axes, checkpoint, mapping, ops
from maxmig.converters.compare import diff
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import files, restack

RANDOM = np.random.default_rng(0)


def leaf(*shape: int, dtype: str = "float32") -> Leaf:
    return Leaf(shape, dtype, 4 * int(np.prod(shape)))


def array(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def test_a_module_with_a_stacks_name(tmp_path: Path) -> None:
    """Its kernels have the axes of one layer: it is not cut into numbers."""
    dense = {"kernel": array(4, 8), "bias": array(8)}
    tree = {"params": {"layers": {"Dense_0": dense, "LayerNorm_0": {"scale": array(8)}}}}
    source = checkpoint.read(mapping_cases.save(tmp_path / "src", tree))
    with pytest.raises(axes.Unclear, match=r"layers: no stack.*Dense_0/kernel float32\[4, 8\] has"):
        mapping.planned(source, "nnx-state", scan=False)
    apart = mapping.planned(source, "nnx-state", scan=False, from_scan_axis=1)
    assert "params/layers_7/Dense_0/kernel" in apart.state.items
    mapping_cases.convert(tmp_path / "src", tmp_path / "made", "nnx-state")
    assert mapping_cases.digest(tmp_path / "made") == mapping_cases.digest(tmp_path / "src")


@st.composite
def stacked(draw: st.DrawFn) -> tuple[dict[str, Leaf], dict[str, int], int]:
    """Leaves of a stack whose lengths coincide often, the axis of each, and the parameters'."""
    sizes = st.sampled_from([1, 2, 3, 4])
    layers, wide, heads, deep = (draw(sizes) for _ in range(4))
    axis = draw(st.sampled_from([0, 1, -1, -2]))
    parts: dict[str, tuple[int, ...]] = {}
    for some in (
        {"d/kernel": (wide, wide)},
        {"b/kernel": (wide, wide), "b/bias": (wide,)},
        {"u/kernel": (wide, heads), "o/kernel": (heads, wide)},
        {"n/scale": (wide,)},
        {"q/kernel": (wide, heads, deep), "q/bias": (heads, deep), "k/scale": (heads, deep)},
        {"e/kernel/qvalue": (wide, heads), "e/kernel/scale": (1, heads)},
        {"bn/scale": (wide,)},
    ):
        parts |= some if draw(st.booleans()) else {}
    parts = parts or {"d/kernel": (wide, wide)}
    leaves, on = {}, {}
    for part, shape in parts.items():
        path = f"params/layers/{part}"
        on_axis = min(axis, len(shape)) if axis >= 0 else axis + len(shape) + 1
        leaves[path] = leaf(*shape[:on_axis], layers, *shape[on_axis:])
        on[path] = on_axis
    if "bn/scale" in parts:
        path = "batch_stats/layers/bn/mean"
        match draw(st.sampled_from(["0", "own", "shared"])):
            case "shared":
                leaves[path], on[path] = leaf(wide), -1
            case kind:
                on[path] = axis % 2 if kind == "own" else 0
                leaves[path] = leaf(*((wide, layers) if on[path] else (layers, wide)))
    if draw(st.booleans()):
        leaves["cache/layers/seen"], on["cache/layers/seen"] = leaf(layers, dtype="int32"), 0
    if draw(st.booleans()):
        leaves |= {f"params/final/{part}": leaf(*shape) for part, shape in parts.items()}
    if draw(st.booleans()):
        leaves["consts/layers/perm"], on["consts/layers/perm"] = leaf(wide, dtype="int32"), -1
    return leaves, on, axis


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(model=stacked(), told=st.booleans())
def test_layers_are_right_or_refused(model: Any, told: bool) -> None:
    leaves, on, axis = model
    try:
        state, _ = restack.plan(
            leaves, None, scan=False, source_axis=axis if told and axis >= 0 else None
        )
    except errors.ConvertError:
        return
    taken = {(item.sources[0], taken_from(item.op)) for item in state.items.values()}
    assert {each for each in taken if each[1] is not None} == set(on.items()), (leaves, state.notes)


def taken_from(op: ops.Op) -> int | None:
    """The axis out of which an operation takes a layer; None if it is another."""
    match op:
        case ops.Take(axis, _):
            return axis
        case ops.Then(ops.MoveAxis(axis, 0), ops.Take(0, _)):
            return axis
    return None


def cube(path: Path) -> Path:
    """As many layers as features."""
    layers = {"d": {"kernel": array(4, 4, 4), "bias": array(4, 4)}}
    return mapping_cases.save(path, {"params": {"layers": layers, "head": {"kernel": array(4, 2)}}})


@pytest.mark.parametrize("options", [{"scan": False}, {"scan_axis": 0}, {"scan_axis": 1}])
def test_refused_where_it_matters(options: dict[str, Any], tmp_path: Path) -> None:
    source = checkpoint.read(cube(tmp_path / "src"))
    told = r"layers: axis 0 \(4 layers\) or axis 1 \(4 layers\) or axis 2 .*with --from-scan-axis"
    with pytest.raises(errors.ConvertError, match=told):
        mapping.planned(source, "nnx-state", **options)
    assert mapping.planned(source, "nnx-state", **options, from_scan_axis=0)


@pytest.mark.parametrize("options", [{}, {"scan": True}])
def test_not_needed_where_layers_stay(options: dict[str, Any], tmp_path: Path) -> None:
    source = cube(tmp_path / "src")
    made = mapping_cases.convert(source, tmp_path / "made", "nnx-state", **options)
    assert "param_scan_axis" not in checkpoint.read(tmp_path / "made").own
    one, two = mapping_cases.arrays(source), mapping_cases.arrays(made)
    held = two["layers/d/kernel/value"]
    assert mapping_cases.same_bits(one["params/layers/d/kernel"], held)
    assert mapping_cases.digest(source) == mapping_cases.digest(tmp_path / "made")


def test_layers_cut_on_either_axis_are_not_called_equal(tmp_path: Path) -> None:
    source = cube(tmp_path / "src")
    read = mapping_cases.arrays(source)
    for axis in (0, 1):
        layers = {
            f"layers_{i}": {
                "d": {
                    name: np.take(read[f"params/layers/d/{name}"], i, axis)
                    for name in ("kernel", "bias")
                }
            }
            for i in range(4)
        }
        params = {**layers, "head": {"kernel": read["params/head/kernel"]}}
        other = mapping_cases.save(tmp_path / f"cut{axis}", {"params": params})
        for pair in ((source, other), (other, source)):
            report = diff.diff(*map(checkpoint.read, pair))
            assert report.exit_code == 1 and report.counts["="] == 1  # the head
            assert any("nor shapes tell" in note for note in report.notes)
        assert mapping_cases.digest(other) != mapping_cases.digest(source)


@pytest.mark.parametrize("stack", ["layers", "blocks"])
def test_layers_of_an_untold_stack_are_not_called_equal(stack: str, tmp_path: Path) -> None:
    """The number of layers fits one axis only, but they may have been cut on the wrong one."""
    kernel = array(3, 6, 6)

    def report(axis: int, **more: np.ndarray) -> diff.Report:
        whole = {"kernel": kernel, **more}
        apart = {
            f"{stack}_{i}": {"d": {at: np.take(each, i, axis) for at, each in whole.items()}}
            for i in range(kernel.shape[axis])
        }
        head = {"head": {"kernel": array(2, 2)}}
        trees = ({stack: {"d": whole}} | head, apart | head)
        sides = [
            checkpoint.read(
                mapping_cases.save(tmp_path / f"{i}{axis}{len(more)}", {"params": tree})
            )
            for i, tree in enumerate(trees)
        ]
        return diff.diff(sides[0], sides[1])

    for axis in (0, 1):
        found = report(axis)
        assert found.exit_code == 1 and found.counts["="] == 1  # the head
    assert report(0, gate=array(3, 4)).exit_code == 0  # the control: its shape tells the axis


def nested(outer: int, inner: int) -> dict[str, np.ndarray]:
    """Two layers of four, each a square matrix, and a norm in each outer layer."""
    kernel = np.moveaxis(array(2, 4, 8, 8), 1, 1 + inner)
    return {"kernel": np.moveaxis(kernel, 0, outer), "scale": np.moveaxis(array(2, 8), 0, outer)}


@pytest.mark.parametrize(("outer", "inner"), [(0, 0), (1, 0), (1, 1)])
def test_the_axis_of_a_stack_does_not_tell_that_of_another_in_it(
    outer: int, inner: int, tmp_path: Path
) -> None:
    held = nested(outer, inner)
    tree = {"layers": {"layers": {"d": {"kernel": held["kernel"]}}, "n": {"scale": held["scale"]}}}
    source = mapping_cases.save(tmp_path / "src", {"params": tree})
    found = checkpoint.read(source)
    for told in ({}, {"from_scan_axis": outer}):
        with pytest.raises(
            errors.ConvertError, match=r"axis [01] \(\d layers\) or axis -?\d \(\d la"
        ):
            mapping.planned(found, "nnx-state", scan=False, **told)
    rules = [
        {"unstack": "layers", "to": "layers_{}", "axis": outer},
        {"unstack": "layers_*/layers", "to": "layers_*/layers_{}", "axis": inner},
    ]
    document = files.parse({"maxmig_map": 1, "to": "nnx-state", "rules": rules}, "here")
    made = mapping_cases.arrays(
        mapping_cases.convert(source, tmp_path / "made", None, map_file=document)
    )
    wanted = np.take(np.take(held["kernel"], 1, outer), 2, inner)
    assert mapping_cases.same_bits(made["layers_1/layers_2/d/kernel/value"], wanted)


def normed(params_on: int, mean_on: int, wide: int = 8) -> dict[str, Any]:
    """Three layers with statistics."""
    layers = {
        "u": {"kernel": np.moveaxis(array(3, wide, 16), 0, params_on)},
        "d": {"kernel": np.moveaxis(array(3, 16, wide), 0, params_on)},
        "bn": {"scale": np.moveaxis(array(3, wide), 0, params_on)},
    }
    mean = {"bn": {"mean": np.moveaxis(array(3, wide), 0, mean_on)}}
    return {"params": {"layers": layers}, "batch_stats": {"layers": mean}}


@pytest.mark.parametrize("options", [{"scan": False}, {"scan_axis": 0}])
def test_statistics_on_the_axis_of_the_parameters(options: dict[str, Any], tmp_path: Path) -> None:
    """Their lengths tell it: they go to axis 0, and back where they were."""
    tree = normed(1, 1)
    source = mapping_cases.save(tmp_path / "src", tree)
    made = mapping_cases.convert(source, tmp_path / "made", "nnx-state", **options)
    mean = tree["batch_stats"]["layers"]["bn"]["mean"]
    held = mapping_cases.arrays(made)
    if "scan" in options:
        assert mapping_cases.same_bits(held["layers/2/bn/mean/value"], mean[:, 2])
    else:
        assert mapping_cases.same_bits(held["layers/bn/mean/value"], mean.T)
    assert mapping_cases.digest(source) == mapping_cases.digest(tmp_path / "made")
    back = mapping_cases.convert(tmp_path / "made", tmp_path / "back", "linen-variables")
    one, two = mapping_cases.arrays(source), mapping_cases.arrays(back)
    assert one.keys() == two.keys()
    assert all(mapping_cases.same_bits(one[path], two[path]) for path in one)
    stats = np.array(tree["batch_stats"]["layers"]["bn"]["mean"].T)
    for same in (True, False):  # as another program has them on axis 0
        stats[0, 0] += not same
        tree["batch_stats"]["layers"]["bn"]["mean"] = stats
        other = mapping_cases.save(tmp_path / f"other{same}", tree)
        assert bool(diff.diff(checkpoint.read(source), checkpoint.read(other))) == same


def test_statistics_of_which_one_tells_it(tmp_path: Path) -> None:
    tree = normed(1, 1)
    tree["batch_stats"]["layers"]["bn"]["count"] = square = array(3, 3)
    source = checkpoint.read(mapping_cases.save(tmp_path / "src", tree))
    planned = mapping.planned(source, "nnx-state", scan=False)
    assert planned.state.items["batch_stats/layers_1/bn/count"].leaf.shape == (3,)
    made = mapping_cases.convert(tmp_path / "src", tmp_path / "made", "nnx-state", scan=False)
    held = mapping_cases.arrays(made)["layers/1/bn/count/value"]
    assert mapping_cases.same_bits(held, square[:, 1])


@pytest.mark.parametrize("part", ["table", "alone"])
def test_statistics_that_all_layers_may_share(part: str, tmp_path: Path) -> None:
    """They are like a parameter of one layer as they are, or no part of them is."""
    tree = normed(1, 1)
    layers = tree["params"]["layers"]
    layers["bn"] = {part: array(*((8, 3, 3) if part == "table" else (6, 3)))}
    layers["bn"] |= {"scale": array(8, 3)} if part == "table" else {}
    source = checkpoint.read(mapping_cases.save(tmp_path / "src", tree))
    told = r"bn/mean: float32\[8, 3\]: .* all layers share it.*transpose: {collection: batch"
    with pytest.raises(errors.ConvertError, match=told):
        mapping.planned(source, "nnx-state", scan=False)
    turn = {"transpose": {"collection": "batch_stats", "path": "layers/bn/mean"}, "axes": [1, 0]}
    document = files.parse({"maxmig_map": 1, "to": "nnx-state", "rules": [turn]}, "here")
    planned = mapping.planned(source, None, scan=False, map_file=document)
    assert planned.state.items["batch_stats/layers_1/bn/mean"].leaf.shape == (8,)


def test_statistics_that_may_be_on_either_axis(tmp_path: Path) -> None:
    """As many layers as features: refused; the digest knows what a conversion put there itself."""
    source = checkpoint.read(mapping_cases.save(tmp_path / "src", normed(1, 0, wide=3)))
    with pytest.raises(errors.ConvertError, match="does not tell whether its 3 layers"):
        mapping.planned(source, "nnx-state", scan=False, from_scan_axis=1)
    apart = {
        f"layers_{i}": {"d": {"kernel": array(3, 4), "bias": array(4)}, "bn": {"scale": array(3)}}
        for i in range(3)
    }
    means = {f"layers_{i}": {"bn": {"mean": array(3)}} for i in range(3)}
    tree = {"params": apart, "batch_stats": means}
    first = mapping_cases.save(tmp_path / "first", tree)
    mapping_cases.convert(first, tmp_path / "whole", "linen-variables", scan=True)
    whole = checkpoint.read(tmp_path / "whole")
    assert whole.leaves["params/layers/d/kernel"].shape == (3, 3, 4)
    assert mapping_cases.digest(tmp_path / "whole") == mapping_cases.digest(first)
    back = mapping_cases.convert(
        tmp_path / "whole", tmp_path / "back", "linen-variables", scan=False
    )
    one, two = mapping_cases.arrays(first), mapping_cases.arrays(back)
    assert one.keys() == two.keys()
    assert all(mapping_cases.same_bits(one[path], two[path]) for path in one)


def test_statistics_that_layers_may_share(tmp_path: Path) -> None:
    tree = normed(0, 0)
    tree["batch_stats"]["layers"]["bn"]["mean"] = array(3)  # one number for each layer, it seems
    tree["params"]["layers"]["bn"]["scale"] = array(3, 3)
    tree["params"]["layers"]["d"]["kernel"] = array(3, 16, 5)
    source = checkpoint.read(mapping_cases.save(tmp_path / "src", tree))
    with pytest.raises(errors.ConvertError, match="or one array that they share"):
        mapping.planned(source, "nnx-state", scan=False, from_scan_axis=0)
