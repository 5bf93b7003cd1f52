"""What a result tells of its sharding must hold for the arrays that it has."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from engine_cases import convert, renamed, save
from jax.sharding import NamedSharding, PartitionSpec

from maxmig.converters import ops, storage
from maxmig.converters.engine import shardings
from maxmig.converters.leaves import Leaf
from maxmig.converters.transfers import Transfer

MESH = {"sharding_type": "NamedSharding", "shape": [4, 2], "axis_names": ["x", "y"]}


@pytest.mark.parametrize(
    ("op", "spec", "shape", "wanted"),
    [
        (ops.Same(), ["x"], (12, 2), ["x"]),
        (ops.Slice(0, 0, 8), ["x", "y"], (8, 2), ["x", "y"]),
        (ops.Slice(0, 0, 6), ["x", "y"], (6, 2), [None, "y"]),
        (ops.Slice(0, 0, 6), ["y", None], (6, 2), ["y"]),
        (ops.Slice(0, 0, 4), [["x", "y"], "z"], (4, 2), [None, "z"]),
        (ops.Then(ops.MoveAxis(0, 1), ops.Slice(1, 0, 2)), ["x"], (2, 2), []),
        (ops.Concat(0), ["x"], (24, 2), ["x"]),
        (ops.Take(0, 1), ["x", "y"], (2,), ["y"]),
    ],
)
def test_an_axis_that_the_mesh_does_not_divide_is_replicated(op, spec, shape, wanted):
    told = json.dumps({**MESH, "partition_spec": spec})
    found = json.loads(shardings.of(op, [told], 2, shape) or "")
    assert found == {**MESH, "partition_spec": wanted}


@pytest.mark.skipif(jax.device_count() < 4, reason="a mesh of four devices")
def test_orbax_places_the_parts_of_a_sharded_array(tmp_path):
    mesh = jax.make_mesh((4,), ("x",), devices=jax.devices()[:4])
    placed = NamedSharding(mesh, PartitionSpec("x"))
    whole = jax.device_put(np.arange(24, dtype=np.float32).reshape(12, 2), placed)
    source = storage.open(save(tmp_path / "src", {"w": whole}))
    leaf = Leaf((6, 2), "float32", 48)
    parts = [
        Transfer((name,), leaf, (("w",),), ops.Slice(0, at, at + 6))
        for name, at in (("a", 0), ("b", 6))
    ]
    convert(renamed(source, transfers=parts), tmp_path / "dst")
    found = ocp.PyTreeCheckpointer().restore(tmp_path / "dst" / "9" / "items")
    np.testing.assert_array_equal(found["b"], np.asarray(whole)[6:])
