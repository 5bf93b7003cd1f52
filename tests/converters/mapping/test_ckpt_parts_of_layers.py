"""Parts of a layer that have a stack's shapes: norms over two axes, quantised kernels, adapters."""

from pathlib import Path
from typing import Any

import mapping_cases
import numpy as np
import pytest

from maxmig import errors
from maxmig.converters import checkpoint, mapping
from maxmig.converters.compare import diff, hash
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import shaped

LAYERS = 3
RANDOM = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def int8(*shape: int) -> dict[str, np.ndarray]:
    scale = array(*shape[:-2], 1, shape[-1])
    return {"qvalue": RANDOM.integers(-9, 9, shape).astype(np.int8), "scale": scale}


def part(kind: str, *stack: int) -> dict[str, Any]:
    """What one layer holds; with an axis in front if its layers are stacked."""

    def of(*shape: int) -> np.ndarray:
        return array(*stack, *shape)

    match kind:
        case "head norms":
            norms = {name: {"scale": of(2, 8)} for name in ("q_norm", "k_norm")}
            return {"attn": {**norms, "kernel": of(4, 16)}, "ln": {"scale": of(4)}}
        case "norms alone":
            return {"norms": {name: {"scale": of(2, 8)} for name in "qk"}, "mlp": {"w": of(4, 8)}}
        case "square heads":  # as long as it is wide: all of `attn` agrees on axis 1
            names = ("query", "key", "value")
            heads = {name: {"kernel": of(6, 5, 5)} for name in names}
            out = {"out": {"kernel": of(5, 5, 6)}, "q_norm": {"scale": of(5, 5)}}
            return {"attn": heads | out, "ln": {"scale": of(6)}}
        case "biased heads":
            return {"q": {"kernel": of(4, 2, 3), "bias": of(2, 3)}, "ln": {"scale": of(4)}}
        case "int8":
            return {"mlp": {"kernel": int8(*stack, 4, 6)}}
        case "int8 with a bias":
            return {"mlp": {"kernel": int8(*stack, 4, 6), "bias": of(6)}}
        case "fp8":
            scales = {f"{name}_scale": of(1) for name in ("input", "kernel")}
            return {"mlp": {"kernel": of(4, 6), **scales, "kernel_amax_history": of(1, 16)}}
        case "lora":
            adapter = {"lora_a": of(4, 2), "lora_b": of(2, 6), "scale": of(1, 1)}
            return {"mlp": {"kernel": of(4, 6), **adapter}, "ln": {"scale": of(4)}}
    raise ValueError(kind)


KINDS = (
    *("head norms", "norms alone", "square heads", "biased heads"),
    *("int8", "int8 with a bias", "fp8", "lora"),
)


def same(one: Path, other: Path) -> None:
    a, b = mapping_cases.arrays(one), mapping_cases.arrays(other)
    assert a.keys() == b.keys() and a
    assert all(mapping_cases.same_bits(a[path], b[path]) for path in a)
    assert diff.diff(checkpoint.read(one), checkpoint.read(other))
    assert mapping_cases.digest(one) == mapping_cases.digest(other)


def there_and_back(folder: Path, tree: Any, **options: Any) -> dict[str, Any]:
    """The arrays of the NNX tree in between."""
    source = mapping_cases.save(folder / "src", {"params": tree})
    made = mapping_cases.convert(source, folder / "made", "nnx-state", **options)
    back = {"scan": not options["scan"]} if "scan" in options else {}
    same(source, mapping_cases.convert(folder / "made", folder / "b", "linen-variables", **back))
    assert mapping_cases.digest(folder / "made") == mapping_cases.digest(source)
    return mapping_cases.arrays(made)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stack", ["layers", "block"])
def test_stacked_and_back(kind: str, stack: str, tmp_path: Path) -> None:
    tree = {"decoder": {f"{stack}_{i}": part(kind) for i in range(LAYERS)}}
    made = there_and_back(tmp_path, tree, scan=True)
    assert all(
        path.startswith(f"decoder/{stack}/") and LAYERS in a.shape for path, a in made.items()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_apart_and_back(kind: str, tmp_path: Path) -> None:
    tree = {"decoder": {"layers": part(kind, LAYERS)}}
    made = there_and_back(tmp_path, tree, scan=False, from_scan_axis=0)
    assert all(path.split("/")[2].isdigit() and path.count("_0") == 0 for path in made)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_heads_that_have_the_shapes_of_a_stack(axis: int | None, tmp_path: Path) -> None:
    """They stay whole; a note says so, unless a stack beside them is on another axis."""
    tree = {"pool": part("square heads")}
    if axis is not None:
        tree["layers"] = {"d": {"kernel": array(*((LAYERS, 4, 6), (4, LAYERS, 6))[axis])}}
        tree["layers"]["d"]["bias"] = array(*((LAYERS, 6), (6, LAYERS))[axis])
    source = checkpoint.read(mapping_cases.save(tmp_path / "src", {"params": tree}))
    told = [note for note in hash.fingerprint(source).notes if "pool/attn: looks like" in note]
    assert len(told) == (axis != 0)
    if axis is None:
        with pytest.raises(errors.ConvertError, match="no stack of layers was found"):
            mapping.planned(source, "linen-params", scan=False)
        return
    state = mapping.planned(source, "linen-params", scan=False).state
    assert {path for path in source.leaves if "/pool/" in path} < state.items.keys()
    assert any("pool/attn: left as it is" in note for note in state.notes) == (axis == 1)


@pytest.mark.parametrize("kind", KINDS)
def test_beside_a_stack(kind: str, tmp_path: Path) -> None:
    """What is no layer stays whole."""
    stack = {"mlp": {"kernel": array(LAYERS, 4, 6), "bias": array(LAYERS, 6)}}
    tree = {"layers": stack, "pool": part(kind)}
    made = there_and_back(tmp_path, tree, scan=False)
    assert {path.split("/")[0] for path in made} == {"layers", "pool"}
    assert "layers/2/mlp/bias/value" in made


@pytest.mark.parametrize("kind", KINDS)
def test_apart_already(kind: str, tmp_path: Path) -> None:
    """`--no-scan` of layers that are apart changes nothing, or is refused."""
    for name in ("layers", "block"):
        tree = {f"{name}_{i}": part(kind) for i in range(LAYERS)}
        source = checkpoint.read(mapping_cases.save(tmp_path / name, {"params": tree}))
        planned = mapping.planned(source, "linen-variables", scan=False)
        assert planned.state.leaves() == dict(source.leaves)


def leaves(**shapes: tuple[int, ...]) -> dict[str, Leaf]:
    return {
        f"h/{path.replace('__', '/')}": Leaf(shape, "float32", 4) for path, shape in shapes.items()
    }


def test_what_makes_a_stack_by_its_shapes() -> None:
    """The control: a real one is found, and each of these is needed."""
    stack = {"ln__scale": (3, 4), "wi__kernel": (3, 5, 6)}
    assert shaped.find(leaves(**stack), [], None) == {"h": 0}
    for odd in (
        {"wi__kernel": (3, 6)},  # of one layer
        {"wi__kernel": (5, 3, 6)},  # on another axis than the norm
        {"ln__qvalue": (3, 4)},  # no norm
        {"head__kernel__qvalue": (3, 6)},
        {"ln__bias": (3,)},
    ):
        assert shaped.find(leaves(**(stack | odd)), [], None) == {}, odd
    assert shaped.find(leaves(**stack), ["h/ln/scale"], None) == {}
