"""Leaves that are not plain: cast, tied, scalar, empty, in files, with names like another's."""

from pathlib import Path

import mapping_cases
import numpy as np
import pytest
from mapping_trees import linen_variables, numbers

from maxmig import errors
from maxmig.converters import checkpoint, mapping


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


def test_a_file_is_loaded_like_a_directory(tmp_path: Path) -> None:
    from flax import serialization

    file = tmp_path / "v.msgpack"
    file.write_bytes(serialization.to_bytes(linen_variables(Dense_0={"kernel": numbers(2, 2)})))
    found = checkpoint.read(file)
    array = found.load({"params/Dense_0/kernel": None})["params/Dense_0/kernel"]
    assert np.array_equal(array, numbers(2, 2))
