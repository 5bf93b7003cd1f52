"""Stacks that no name tells, boxes and padded numbers: taken apart, and back as they were."""

from pathlib import Path
from typing import Any

import mapping_cases
import numpy as np
import pytest

from maxmig import errors
from maxmig.converters import checkpoint, mapping
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import explain, files, shaped
from maxmig.converters.mapping.rules import Unstack

LAYERS = 3


def numbers(*shape: int) -> np.ndarray:
    return np.arange(1, 1 + int(np.prod(shape)), dtype=np.float32).reshape(shape)


def tree(name: str, axis: int, *, boxed: bool = False) -> dict[str, Any]:
    """A TrainState with a stack of some name on some axis, as `nn.scan` makes it."""

    def stacked(*shape: int) -> Any:
        whole = numbers(LAYERS, *shape)
        array = np.moveaxis(whole, 0, min(axis, len(shape)))
        return {"value": array} if boxed else array

    def model() -> dict[str, Any]:
        block = {
            "ln": {"scale": stacked(4)},
            "wi": {"kernel": stacked(4, 6), "bias": stacked(6)},
            "wo": {"kernel": stacked(6, 4), "bias": stacked(4)},
        }
        return {name: block, "head": {"kernel": numbers(4, 2), "bias": numbers(2)}}

    state = [{"count": np.int32(2), "mu": model(), "nu": model()}, None]
    return {"params": model(), "opt_state": state, "step": np.int32(2)}


def same(one: Path, other: Path) -> None:
    a, b = mapping_cases.arrays(one), mapping_cases.arrays(other)
    assert a.keys() == b.keys() and a
    assert all(mapping_cases.same_bits(a[path], b[path]) for path in a)


@pytest.mark.parametrize(("stack", "axis"), [("h", 0), ("blocks", 1), ("ScanBlk_0", 1)])
@pytest.mark.parametrize("to", ["nnx", "nnx-state"])
def test_apart_and_back_whatever_its_name(stack: str, axis: int, to: str, tmp_path: Path) -> None:
    source = mapping_cases.save(tmp_path / "src", tree(stack, axis, boxed=True))
    only = {"params_only": True} if to == "nnx-state" else {}
    made = mapping_cases.convert(source, tmp_path / "nnx", to, scan=False, **only)
    apart = checkpoint.read(tmp_path / "nnx").leaves
    assert apart[f"params/{stack}_2/wi/kernel"].shape == (4, 6)
    assert not any(path.startswith(f"params/{stack}/") for path in apart)
    model = "model/" if to == "nnx" else ""
    assert f"{model}{stack}/2/wi/kernel/value" in mapping_cases.arrays(made)
    whole = tree(stack, axis, boxed=True)
    wanted = mapping_cases.save(tmp_path / "w", {"params": whole["params"]} if only else whole)
    back = mapping_cases.convert(tmp_path / "nnx", tmp_path / "back", "linen")
    same(wanted, back)
    with pytest.raises(AssertionError):
        same(wanted, made)
    again = "linen-params" if only else "linen-state"
    mapping_cases.convert(tmp_path / "nnx", tmp_path / "again", again, scan=True)
    found = checkpoint.read(tmp_path / "again")
    assert found.leaves[f"params/{stack}/wi/kernel"].shape.index(LAYERS) == axis
    assert found.form.boxed >= {f"{stack}/wi/kernel", f"{stack}/ln/scale"}


def test_the_axis_of_a_stack_without_a_name(tmp_path: Path) -> None:
    source = mapping_cases.save(tmp_path / "src", tree("h", 0))
    made = mapping_cases.convert(source, tmp_path / "made", "nnx", scan_axis=1)
    assert mapping_cases.arrays(made)["model/h/wi/kernel/value"].shape == (4, LAYERS, 6)
    same(source, mapping_cases.convert(tmp_path / "made", tmp_path / "back", "linen"))
    planned = mapping.planned(checkpoint.read(source), "nnx", scan=True)
    assert not planned.document.rules  # it is stacked already
    assert any("h: taken for a stack of layers on axis 0" in n for n in planned.state.notes)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"scan": False}, "--no-scan: no stack of layers was found: no name or shape tells"),
        ({"scan_axis": 0}, "--scan-axis: no stack of layers was found"),
        ({"scan": True}, "which layers are to be stacked"),
        ({"scan": False, "scan_axis": 0}, "drop --no-scan or --scan-axis"),
    ],
)
def test_nothing_is_done_silently(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    params = {
        "query": {"kernel": numbers(8, 2, 2), "bias": numbers(2, 2)},
        "Dense_0": {"kernel": numbers(3, 3), "bias": numbers(3)},
    }  # square heads are no stack
    source = mapping_cases.save(tmp_path / "src", {"params": params})
    with pytest.raises((errors.ConvertError, errors.ConfigError), match=told):
        mapping.planned(checkpoint.read(source), "nnx", **options)


def test_two_axes_are_asked_for() -> None:
    square = {f"h/{name}/scale": Leaf((3, 3), "float32", 36) for name in "ab"}
    assert shaped.find(square, [], None) == {}  # norms over two axes, for all that one can tell
    square["h/c/kernel"] = Leaf((3, 3, 2), "float32", 72)
    with pytest.raises(errors.ConvertError, match=r"h: looks like .*--from-scan-axis"):
        shaped.find(square, [], None)
    assert shaped.find(square, [], 1) == {"h": 1}
    assert shaped.find(square, ["h"], None) == {}


def shapes(at: str, **found: tuple[int, ...]) -> dict[str, Leaf]:
    return {
        f"{at}/{path.replace('__', '/')}": Leaf(shape, "float32", 4)
        for path, shape in found.items()
    }


def test_an_axis_of_length_1_counts_beside_a_longer_one() -> None:
    """One layer, or as many as features."""
    one = shapes("blocks", n__scale=(1, 6), d__kernel=(1, 6, 6))
    with pytest.raises(errors.ConvertError, match=r"axis 0 \(1 layers\) or axis 1 \(6 layers\)"):
        shaped.find(one, [], None)
    assert shaped.find(one, [], 0) == {"blocks": 0}
    two = shapes("blocks", n__scale=(2, 6), d__kernel=(2, 5, 7))
    assert shaped.find(two, [], None) == {"blocks": 0}  # the control
    last = shapes("h", n__scale=(6, 3), d__kernel=(6, 6, 3), o__kernel=(6, 6, 3))
    with pytest.raises(errors.ConvertError, match=r"axis 0 \(6 layers\) or axis 2 \(3 layers\)"):
        shaped.find(last, [], None)


def test_parts_of_a_stack_with_numbers_of_its_own() -> None:
    """`alpha` is one number for each of three layers: `h` is the stack, not `h/mlp`."""
    stack = shapes("h", mlp__ln__scale=(3, 4), mlp__wi__kernel=(3, 4, 6), mlp__wo__kernel=(3, 6, 4))
    stack |= shapes("h", out__kernel=(3, 4, 4))
    assert shaped.find(stack, [], None) == {"h": 0}
    beside = shapes("h", alpha=(5,)) | {path.replace("h/", "h/s/"): w for path, w in stack.items()}
    assert shaped.find(beside, [], None) == {"h/s": 0}
    with pytest.raises(errors.ConvertError, match=r"h/mlp: looks like .* but h may be the one"):
        shaped.find(stack | shapes("h", alpha=(3,)), [], None)


def test_what_has_the_shapes_of_a_stack_by_chance() -> None:
    """A norm over two axes beside a kernel of both; beside a stack, a name that is no stack's."""
    pool = shapes("pool", n__scale=(3, 4), d__kernel=(3, 4, 6))
    with pytest.raises(errors.ConvertError, match=r"axis 0 \(3 layers\) or axis 1 \(4 layers\)"):
        shaped.find(pool, [], None)
    wide = shapes("pool", n__scale=(3, 4), d__kernel=(3, 5, 6))
    assert shaped.find(wide, [], None) == {"pool": 0}  # the only one
    heads: dict[str, int] = {}
    assert shaped.find(wide, ["layers"], None, heads=heads) == {} and heads == {"pool": 0}
    both = wide | shapes("blocks", n__scale=(3, 4), d__kernel=(3, 5, 6))
    assert shaped.find(both, [], None) == {"blocks": 0}


@pytest.mark.parametrize("stack", ["ScanBlock_0", "layers"])
def test_what_told_the_axis_is_noted(stack: str, tmp_path: Path) -> None:
    source = checkpoint.read(mapping_cases.save(tmp_path / "src", tree(stack, 1)))
    notes = mapping.planned(source, "nnx", scan=False).state.notes
    assert any(note.startswith("layer axis 1: the only one on which all") for note in notes)
    told = mapping.planned(source, "nnx", scan=False, from_scan_axis=1).state.notes
    assert not any(note.startswith("layer axis") for note in told)


@pytest.mark.parametrize(
    ("path", "found"),
    [("dec/blocks", "dec/blocks"), ("blocks/inner", "blocks"), ("dec/h", None), ("as/bs", None)],
)
def test_a_stack_in_a_module_of_its_own(path: str, found: str | None, tmp_path: Path) -> None:
    """Which of them is the stack, a plural name tells; else it is asked for."""
    leaves = shapes(path, d__kernel=(2, 5, 8), n__scale=(2, 4))
    if found is not None:
        assert shaped.find(leaves, [], None) == {found: 0}
        return
    with pytest.raises(errors.ConvertError, match=f"but {path.partition('/')[0]} or {path} may be"):
        shaped.find(leaves, [], None)


def test_layers_of_two_names_are_not_left_apart_silently(tmp_path: Path) -> None:
    layer = {"d": {"kernel": numbers(4, 6)}}
    names = {"enc": ("layers", 3), "dec": ("blocks", 2)}
    params = {at: {f"{name}_{i}": layer for i in range(n)} for at, (name, n) in names.items()}
    source = checkpoint.read(mapping_cases.save(tmp_path / "src", {"params": params}))
    notes = mapping.planned(source, "linen-variables", scan=True).state.notes
    assert any("dec/blocks_{}: left apart" in note and "'dec/blocks_{}'" in note for note in notes)
    del params["dec"]
    source = checkpoint.read(mapping_cases.save(tmp_path / "one", {"params": params}))
    notes = mapping.planned(source, "linen-variables", scan=True).state.notes
    assert not any("left apart" in note for note in notes)


@pytest.mark.parametrize("stack", ["layers", "block"])
def test_padded_numbers_come_back(stack: str, tmp_path: Path) -> None:
    layer = {"mlp": {"kernel": numbers(2, 3)}}
    params = {f"{stack}_{i:02d}": layer for i in range(11)}
    source = mapping_cases.save(tmp_path / "src", {"params": params})
    for scan in (None, True):
        mapping_cases.convert(source, tmp_path / f"nnx{scan}", "nnx", scan=scan)
        back = mapping_cases.convert(tmp_path / f"nnx{scan}", tmp_path / f"back{scan}", "linen")
        same(source, back)
    mapping_cases.convert(source, tmp_path / "one", "linen", scan=True)
    two = mapping_cases.convert(tmp_path / "one", tmp_path / "two", "linen", scan=False)
    same(source, two)
    written = mapping.planned(checkpoint.read(source), "nnx", scan=True).document
    text = tmp_path / "map.yml"
    text.write_text(written.inverse().to_yaml())
    assert files.read(text).rules == (Unstack(stack, f"{stack}_{{:02}}", written.rules[0].axis),)


def test_numbered_names_are_lists_only_where_modules_have_lists(tmp_path: Path) -> None:
    layer = {"mlp": {"kernel": numbers(2, 3)}}
    params = {f"{name}_{i}": layer for name in ("blocks", "encoderblock", "cross") for i in (0, 1)}
    source = checkpoint.read(mapping_cases.save(tmp_path / "src", {"params": params}))
    planned = mapping.planned(source, "nnx")
    found = {"/".join(map(str, at)) for at in planned.written}
    assert {"blocks/0/mlp/kernel/value", "encoderblock_0/mlp/kernel/value"} <= found
    assert "cross_1/mlp/kernel/value" in found
    told = explain.explain(planned, "blocks_1/mlp/kernel")
    assert any("blocks_1 is number 1 of the list blocks" in fact for fact in told.facts)
    assert not any("list" in f for f in explain.explain(planned, "cross_1/mlp/kernel").facts)
    assert any("encoderblock_{}" in note and "- list: PATH" in note for note in planned.state.notes)
    chosen = files.parse({"rules": [{"list": "cross"}, {"unlist": "blocks"}]}, "here")
    other = {
        "/".join(map(str, at)) for at in mapping.planned(source, "nnx", map_file=chosen).written
    }
    assert {"blocks_0/mlp/kernel/value", "cross/1/mlp/kernel/value"} <= other
    mapping_cases.convert(tmp_path / "src", tmp_path / "nnx", "nnx")
    native = checkpoint.read(tmp_path / "nnx")
    plain = mapping.planned(
        native, "nnx-state", map_file=files.parse({"rules": [{"unlist": "blocks"}]}, "here")
    )
    assert ("blocks_0", "mlp", "kernel", "value") in plain.written


@pytest.mark.parametrize("shapes", [{0: (4, 4), 2: (4, 4)}, {0: (4, 6), 1: (6, 4)}])
def test_a_sequential_is_no_stack(shapes: dict[int, tuple[int, int]], tmp_path: Path) -> None:
    """Its layers have a stack's name; with a function between them or in several shapes."""
    block = {"ln": {"scale": numbers(4)}, "wi": {"kernel": numbers(4, 6)}}
    params: dict[str, Any] = {f"blocks_{i}": block for i in range(LAYERS)}
    params["seq"] = {f"layers_{i}": {"kernel": numbers(*each)} for i, each in shapes.items()}
    state = [{"count": np.int32(2), "mu": params}, None]
    whole = {"params": params, "opt_state": state, "step": np.int32(2)}
    source = mapping_cases.save(tmp_path / "src", whole)
    made = mapping_cases.convert(source, tmp_path / "made", "linen-state", scan=True)
    held = mapping_cases.arrays(made)
    assert held["opt_state/0/mu/blocks/wi/kernel"].shape == (LAYERS, 4, 6)
    assert {f"params/seq/layers_{i}/kernel" for i in shapes} < held.keys()
    notes = mapping.planned(checkpoint.read(source), "linen-state", scan=True).state.notes
    assert any("seq/layers_{}: left apart" in note for note in notes)
    same(
        source, mapping_cases.convert(tmp_path / "made", tmp_path / "b", "linen-state", scan=False)
    )
    del params["seq"], params["blocks_1"]
    for i in (0, 2):  # a layer is missing: refused, as these are no single ones
        params[f"layers_{i}"] = params.pop(f"blocks_{i}")
    lost = mapping_cases.save(tmp_path / "lost", {"params": params, "step": np.int32(2)})
    with pytest.raises(errors.ConvertError, match=r"layers \[1\] of 3 have no such leaf"):
        mapping_cases.convert(lost, tmp_path / "x", "linen-state", scan=True)


def test_a_member_of_a_list_has_a_numbered_name(tmp_path: Path) -> None:
    source = mapping_cases.save(tmp_path / "src", tree("h", 0))
    rules = "maxmig_map: 1\nto: nnx\nrules:\n- rename: head\n  to: heads{}0\n- list: heads\n"
    file = tmp_path / "map.yml"
    file.write_text(rules.format("/"))
    with pytest.raises(errors.ConfigError, match=r"heads/0/bias: say heads_0/bias"):
        mapping_cases.convert(source, tmp_path / "x", map_file=file)
    file.write_text(rules.format("_"))
    made = mapping_cases.convert(source, tmp_path / "y", map_file=file)
    assert "model/heads/0/bias" in mapping_cases.arrays(made)
