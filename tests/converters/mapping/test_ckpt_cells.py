"""Recurrent cells, which NNX lays out in another way."""

from pathlib import Path

import mapping_cases
import numpy as np
import pytest
from mapping_trees import document, linen_variables, numbers, targets

from maxmig import errors
from maxmig.converters import checkpoint, mapping


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


def test_cells_in_a_stack_of_stacks_are_taken_apart_first(tmp_path: Path) -> None:
    """In a stack of stacks; one stack is no matter (test_ckpt_stacked_cells)."""
    gates = {f"i{gate}": {"kernel": numbers(2, 2, 3, 4)} for gate in "ifgo"}
    gates |= {f"h{g}": {"kernel": numbers(2, 2, 4, 4), "bias": numbers(2, 2, 4)} for g in "ifgo"}
    source = mapping_cases.save(tmp_path / "s", linen_variables(OptimizedLSTMCell_0=gates))
    with pytest.raises(errors.ConvertError, match="on which axis; take them apart first"):
        mapping.plan(checkpoint.read(source), "nnx")
