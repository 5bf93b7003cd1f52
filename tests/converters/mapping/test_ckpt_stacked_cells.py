"""Recurrent cells in a stack of layers: each layer of the result is the cell converted alone."""

from pathlib import Path
from typing import Any

import mapping_cases
import numpy as np
import pytest

from maxmig import errors

HIDDEN, INPUTS, LAYERS = 4, 6, 3
GATES = {"OptimizedLSTMCell_0": "ifgo", "LSTMCell_0": "ifgo", "GRUCell_0": "rzn"}


def cells(name: str, inputs: int = INPUTS) -> list[dict[str, Any]]:
    """The leaves of some cells of a kind, as Linen has them."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(LAYERS):
        cell: dict[str, Any] = {}
        for gate in GATES[name]:
            one = {"kernel": rng.normal(size=(inputs, HIDDEN)).astype(np.float32)}
            two = {"kernel": rng.normal(size=(HIDDEN, HIDDEN)).astype(np.float32)}
            bias = rng.normal(size=HIDDEN).astype(np.float32)
            if name != "GRUCell_0":
                two["bias"] = bias
            else:
                one["bias"] = bias
                if gate == "n":
                    two["bias"] = np.zeros(HIDDEN, np.float32)
            cell |= {f"i{gate}": one, f"h{gate}": two}
        found.append(cell)
    return found


def stacked(trees: list[Any], axis: int) -> Any:
    import jax

    return jax.tree.map(lambda *x: np.stack(x, min(axis, x[0].ndim)), *trees)


def state(name: str, axis: int | None) -> Any:
    """A state with moments; `axis` None: the first layer alone."""
    held = cells(name)
    cell = held[0] if axis is None else stacked(held, axis)
    params = {"layers": {name: cell}}
    adam = {"count": np.array(1, np.int32), "mu": params, "nu": params}
    return {"params": params, "opt_state": [adam, None], "step": np.array(1, np.int32)}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("cell", GATES)
def test_every_layer_as_if_alone(cell: str, axis: int, tmp_path: Path) -> None:
    source = mapping_cases.save(tmp_path / "src", state(cell, axis))
    alone = mapping_cases.save(tmp_path / "one", state(cell, None))
    options = {"layout": "linen-state"}
    made = mapping_cases.arrays(convert(source, tmp_path / "nnx", "nnx-optimizer", options))
    wanted = mapping_cases.arrays(convert(alone, tmp_path / "1nnx", "nnx-optimizer", options))
    assert made.keys() == wanted.keys()
    checked = 0
    for path, one in wanted.items():
        if "layers" in path:
            layer = np.take(made[path], 0, min(axis, one.ndim))
            assert mapping_cases.same_bits(layer, one), path
            assert not mapping_cases.same_bits(np.take(made[path], 1, min(axis, one.ndim)), one)
            checked += 1
    assert checked == 3 * len({p for p in wanted if p.startswith("model/")})
    back = mapping_cases.arrays(convert(tmp_path / "nnx", tmp_path / "back", "linen-state", {}))
    first = mapping_cases.arrays(source)
    assert first.keys() == back.keys()
    assert [p for p in first if not mapping_cases.same_bits(first[p], back[p])] == []


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("cell", ["OptimizedLSTMCell_0", "GRUCell_0"])
def test_found_in_nnx_by_its_shapes(cell: str, axis: int, tmp_path: Path) -> None:
    """The same tree without metadata: nothing is remembered, the layer is found."""
    import orbax.checkpoint as ocp

    source = mapping_cases.save(tmp_path / "src", state(cell, axis))
    made = convert(source, tmp_path / "nnx", "nnx-optimizer", {"layout": "linen-state"})
    plain = mapping_cases.save(tmp_path / "plain", ocp.PyTreeCheckpointer().restore(made))
    back = mapping_cases.arrays(convert(plain, tmp_path / "back", "linen-state", {}))
    first = mapping_cases.arrays(source)
    assert first.keys() == back.keys()
    assert [p for p in first if not mapping_cases.same_bits(first[p], back[p])] == []


def convert(source: Path, destination: Path, to: str, options: dict[str, Any]) -> Path:
    from maxmig.converters import checkpoint, mapping
    from maxmig.converters.engine import plan, run
    from maxmig.converters.engine.options import Options

    found = mapping.plan(checkpoint.read(source, **options), to)
    made = run.run(plan.plan(found, str(destination), Options()), str(destination))
    directory = Path(made.directory)
    return directory / "items" if (directory / "items").is_dir() else directory


def test_as_many_layers_as_features_cannot_be_told(tmp_path: Path) -> None:
    held = cells("OptimizedLSTMCell_0", inputs=HIDDEN)
    layers = {"OptimizedLSTMCell_0": stacked([*held, held[0]], 0)}
    tree = {"params": {"layers": layers}, "step": np.int32(1)}
    source = mapping_cases.save(tmp_path / "src", tree)
    with pytest.raises(errors.ConvertError, match="the shapes do not tell on which axis"):
        convert(source, tmp_path / "nnx", "nnx-optimizer", {"layout": "linen-state"})
