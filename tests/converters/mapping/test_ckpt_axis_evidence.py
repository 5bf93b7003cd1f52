"""What tells on which axis layers are, and what is a coincidence."""

from pathlib import Path
from typing import Any

import mapping_cases
import numpy as np
import pytest

from maxmig import errors
from maxmig.converters import axes, checkpoint, evidence, mapping
from maxmig.converters.leaves import Leaf


def leaf(*shape: int, dtype: str = "float32") -> Leaf:
    return Leaf(shape, dtype, 4 * int(np.prod(shape)))


def unclear(leaves: dict[str, Leaf]) -> bool:
    try:
        axes.layer_axis(leaves)
    except axes.Unclear:
        return True
    return False


SQUARE = {"params/layers/d/kernel": leaf(3, 8, 8)}  # 3 layers, or 8
NORM = {"params/layers/n/scale": leaf(3, 8)}


@pytest.mark.parametrize(
    ("more", "axis"),
    [
        ({}, None),
        ({"params/layers/d/bias": leaf(3, 8)}, 0),  # a bias has its kernel's features
        ({"params/layers/d/kernel": leaf(8, 3, 8), "params/layers/d/bias": leaf(8, 3)}, 1),
        ({"params/layers/d/kernel": leaf(8, 8, 3), "params/layers/d/bias": leaf(8, 3)}, None),
        ({"params/layers/o/kernel": leaf(3, 8, 5)}, None),
        ({"params/layers/o/kernel": leaf(3, 8, 5), "params/layers/i/kernel": leaf(3, 5, 8)}, 0),
        ({"params/layers/i/kernel": leaf(3, 5, 8)}, None),
        (NORM, None),
        ({"params/layers/n/scale": leaf(8, 3)}, "counted from the end"),
        ({"params/layers/n/scale": leaf(3, 5)}, 0),
        ({"params/layers/n/scale": leaf(5, 3)}, "no axis has one length"),
        ({"opt_state/mu/layers/d/kernel": leaf(3, 8, 8)}, None),
        # layers that are stacks again: 2 of 3, or 3 of 2; a bias fits after both axes
        (
            {"params/layers/d/kernel": leaf(2, 12, 3, 8), "params/layers/d/bias": leaf(2, 8, 3)}
            | {"params/layers/n/scale": leaf(2, 8, 3)},
            None,
        ),
    ],
)
def test_what_tells_it(more: dict[str, Leaf], axis: Any) -> None:
    leaves = SQUARE | more
    if isinstance(axis, str):
        with pytest.raises(errors.ConvertError, match=axis):
            axes.layer_axis(leaves)
    elif axis is None:
        assert unclear(leaves)
    else:
        assert axes.layer_axis(leaves) == axis


@pytest.mark.parametrize(
    "more",
    [
        {"consts/layers/perm": leaf(8, dtype="int32")},  # of all layers, or of each
        {"cache/layers/seen": leaf(3, dtype="int32")},
        {"aux/layers/drop/rngs/count": leaf(3, dtype="uint32")},
        {"aux/layers/drop/rngs/key": leaf(3, dtype="key<threefry2x32>")},
        {"aux/layers/drop/rngs/key": leaf(8, 2, dtype="uint32")},
        {"cache/layers/table": leaf(8, 16)},
        NORM | {"batch_stats/layers/n/mean": leaf(8)},
        NORM | {"batch_stats/layers/n/mean": leaf(3, 8)},
        NORM | {"batch_stats/layers/n/mean": leaf(8, 3)},
        NORM | {"params/final/d/kernel": leaf(8, 8), "params/final/n/scale": leaf(8)},
        NORM | {"params/stem/d/kernel": leaf(3, 8), "params/stem/n/scale": leaf(3)},
    ],
)
def test_what_does_not_tell_it(more: dict[str, Leaf]) -> None:
    """Layers may share it, or it may have other sizes: a coincidence of lengths is no evidence."""
    assert unclear(SQUARE | more)
    told = {"params/layers/d/bias": leaf(3, 8)}
    assert axes.layer_axis(SQUARE | more | told) == 0  # the control


@pytest.mark.parametrize("stack", ["layers", "ScanBlock_0", "blocks"])
@pytest.mark.parametrize("axis", [0, -1, -2])
def test_no_axis_is_rare(stack: str, axis: int, tmp_path: Path) -> None:
    """`variable_axes={"params": -1}` of a square layer is not cut on axis 0."""
    shapes: dict[str, tuple[int, ...]] = {"d/kernel": (6, 6), "n/scale": (6,)}
    count = 6 if axis == -2 else 3
    arrays = {
        at: np.moveaxis(np.ones((count, *shape), np.float32), 0, axis)
        for at, shape in shapes.items()
    }
    layers: dict[str, Any] = {
        "d": {"kernel": arrays["d/kernel"]},
        "n": {"scale": arrays["n/scale"]},
    }
    source = mapping_cases.save(tmp_path / "src", {"params": {stack: layers}})
    found = checkpoint.read(source)
    with pytest.raises(errors.ConvertError, match=r"axis 0 \(\d layers\).*--from-scan-axis"):
        mapping.planned(found, "nnx-state", scan=False)
    on = {0: 0, -1: 2, -2: 0}[axis]  # no rule takes layers from -2
    apart = mapping.planned(found, "nnx-state", scan=False, from_scan_axis=on).state.items
    assert apart[f"params/{stack}_1/d/kernel"].leaf.shape == (6, 6)


def test_each_stack_tells_its_own_axis() -> None:
    """Another stack of the model may be on another axis, so it tells nothing."""
    other = {"params/dec/layers/d/kernel": leaf(4, 3, 5), "params/dec/layers/d/bias": leaf(5, 3)}
    assert axes.layer_axis(other) == 1
    assert unclear(other | SQUARE)
    clear = SQUARE | {"params/layers/d/bias": leaf(3, 8)}
    with pytest.raises(errors.ConvertError, match="dec/layers on axis 1, layers on axis 0; say"):
        axes.layer_axis(other | clear)
    shapes = {"enc": ((4, 5, 3), (5, 4, 3)), "dec": ((7, 4, 5, 3), (4, 7, 2, 3))}
    last = {
        f"params/{at}/layers/{i}": leaf(*shape)
        for at, both in shapes.items()
        for i, shape in enumerate(both)
    }
    assert axes.layer_axis(last) == 3  # the last of each


@pytest.mark.parametrize(
    ("kernel", "bias"),
    [
        ((3, 2, 4, 9), (4, 9)),  # DenseGeneral
        ((3, 3, 6, 5), (5,)),  # Conv
        ((3, 3, 5, 6), (5,)),  # ConvTranspose with transpose_kernel
        ((7, 6, 5), (7, 5)),  # DenseGeneral with batch_dims, ConvLocal
        ((8,), ()),
    ],
)
def test_biases_that_modules_of_flax_have(kernel: Any, bias: Any) -> None:
    assert evidence.fits(bias, kernel)
    assert not evidence.fits((*bias, 10), kernel)
    for count in (3, 4, 5, 6, 7):  # whatever the number of layers is, they do not speak against it
        layers = {"kernel": leaf(count, *kernel), "bias": leaf(count, *bias)}
        assert 0 in evidence.axes(layers).left


def test_a_bias_of_any_axes_tells_nothing() -> None:
    """`nn.Einsum((8, 3), "...i,oi->...o")`, stacked on axis 0, looks like Dense on axis 1."""
    shapes = {"kernel": leaf(3, 8, 3), "bias": leaf(3, 8)}
    assert list(evidence.axes({f"Dense_0/{at}": each for at, each in shapes.items()}).left) == [1]
    assert 0 in evidence.axes({f"Einsum_0/{at}": each for at, each in shapes.items()}).left


def test_maxtext_has_its_own_axis() -> None:
    """Its names say so; evidence against it counts first."""
    stack = {"params/decoder/layers/mlp/wi/kernel": leaf(4, 4, 6)}
    names = ("token_embedder/embedding", "decoder/decoder_norm/scale")
    own = stack | {f"params/{name}": leaf(5) for name in names}
    assert axes.layer_axis(own) == 1 and axes.besides_usual(own) == [0, 2]
    assert unclear(stack) and not axes.besides_usual(stack)
    own["params/decoder/layers/mlp/wo/kernel"] = leaf(4, 6, 4)
    assert axes.layer_axis(own) == 0 and not axes.besides_usual(own)


def test_an_array_that_may_be_of_all_layers() -> None:
    """`layers` with a norm of its own around `ScanBlock_0`, as many layers as features."""
    block = {"params/layers/ScanBlock_0/wi/kernel": leaf(4, 4, 6)}
    block |= {"params/layers/ScanBlock_0/wo/kernel": leaf(4, 6, 4)}
    assert axes.layer_axis(block) == 0
    assert axes.layer_axis(block | {"params/layers/norm/scale": leaf(4)}, 0) == 0  # as one says
    assert unclear(block | {"params/layers/norm/scale": leaf(4)})
    block = {path: leaf(3, *each.shape[1:]) for path, each in block.items()}
    assert axes.layer_axis(block | {"params/layers/alpha": leaf(3)}) == 0  # no array of 3 features
