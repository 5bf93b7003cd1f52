"""Tunix's steps of two items, as its two writers make them (Orbax's managers, v0 and v1)."""

import json
import shutil
import uuid

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from maxmig import errors
from maxmig.converters import checkpoint, convert, disk, inspect, places
from maxmig.converters.compare import hash
from maxmig.converters.engine.options import Options
from maxmig.converters.leaves import Leaf

try:
    from orbax.checkpoint import v1
except ImportError:
    from orbax.checkpoint.experimental import v1


class Model(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.embed = nnx.Embed(8, 4, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.drop = nnx.Dropout(0.1, rngs=rngs)


def trained(seed):
    model = Model(seed)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    return model, optimizer


def states(model, optimizer):
    return {
        "model_params": nnx.state(model),
        "optimizer_state": nnx.state(optimizer, nnx.optimizer.OptState),
    }


def numbers(state):
    leaves = jax.tree.leaves(jax.tree.map(lambda x: x, state))
    keys = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [
        jax.random.key_data(leaf).tolist() if key else leaf.tolist()
        for leaf, key in zip(leaves, keys, strict=True)
    ]


def save_v0(folder, items):
    args = {name: ocp.args.PyTreeSave(item=state) for name, state in items.items()}
    with ocp.CheckpointManager(folder) as manager:
        manager.save(7, args=ocp.args.Composite(**args), custom_metadata={"global_step": 7})


def save_v1(folder, items):
    with v1.training.Checkpointer(folder) as manager:
        manager.save_checkpointables(7, items, custom_metadata={"global_step": 7})


def restored_v0(folder, items):
    args = {
        name: ocp.args.PyTreeRestore(
            item=state, restore_args=ocp.checkpoint_utils.construct_restore_args(state)
        )
        for name, state in items.items()
    }
    with ocp.CheckpointManager(folder) as manager:
        found = manager.restore(manager.latest_step(), args=ocp.args.Composite(**args))
        return {name: found[name] for name in items}


def restored_v1(folder, items):
    with v1.training.Checkpointer(folder) as manager:
        return manager.load_checkpointables(7, items)


@pytest.fixture(scope="module")
def state():
    return states(*trained(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("tunix")
    save_v0(folder / "v0", state)
    save_v1(folder / "v1", state)
    return folder


def converted(source, made, to, options=None, **chosen):
    todo = convert.plan(checkpoint.read(source), to, **chosen)
    convert.run(todo, made, options=options)
    return todo


def same_bytes(one, other):
    one, other = checkpoint.read(one), checkpoint.read(other)
    mine, theirs = (each.load(dict.fromkeys(each.places)) for each in (one, other))
    assert mine.keys() == theirs.keys()
    for path, array in mine.items():
        assert numbers(array) == numbers(theirs[path]), path


@pytest.mark.parametrize("writer", ["v0", "v1"])
def test_both_items_are_one_source(saved, writer):
    found = checkpoint.read(saved / writer)
    assert found.layout.name == "tunix" and found.place.step == 7
    assert found.place.parts == ("model_params", "optimizer_state")
    assert {"params/layers_1/kernel", "opt_state/1/0/mu/layers_1/kernel"} < found.leaves.keys()
    assert found.leaves["aux/drop/rngs/key"].is_key and found.leaves["step"] == Leaf((), "int32", 4)
    assert found.metadata == {"global_step": 7}
    info = inspect.inspect(saved / writer)
    assert info.layout == "tunix" and info.steps == (7,)
    one = checkpoint.read(saved / writer / "7" / "model_params")  # still, by its own path
    assert one.layout.name == "nnx-state" and "step" not in one.leaves


@pytest.mark.parametrize("writer", ["v0", "v1"])
def test_to_linen_and_back_to_what_tunix_restores(saved, state, writer, tmp_path):
    linen, back = tmp_path / "linen", tmp_path / "back"
    todo = converted(saved / writer, linen, "linen")
    ways = {row["route"]: row["arrays"] for row in convert.prepare(todo, tmp_path / "x").rows()}
    assert ways == {"reference": 16, "stream": 1}  # the step's type, and nothing else
    tops = {path[0] for path in disk.tree(places.locate(linen))}
    assert tops == {"params", "opt_state", "step"}
    assert checkpoint.read(linen).layout.name == "linen-state"
    converted(linen, back, "tunix", random="drop")
    assert sorted(path.name for path in (back / "7").iterdir() if path.is_dir()) == [
        "model_params",
        "optimizer_state",
    ]
    told = json.loads((back / "7" / "_CHECKPOINT_METADATA").read_text())
    assert set(told["item_handlers"]) == {"model_params", "optimizer_state"}
    assert told["custom_metadata"]["global_step"] == 7
    fingerprints = {hash.fingerprint(checkpoint.read(x)).digest for x in (saved / writer, back)}
    assert len(fingerprints) == 1


@pytest.mark.parametrize("options", [Options(), Options(ocdbt=False), Options(zarr=3, link=False)])
@pytest.mark.parametrize("restored", [restored_v0, restored_v1])
def test_resumes(saved, state, restored, options, tmp_path):
    """What is written is restored into another model, which then is the first one."""
    converted(saved / "v0", tmp_path / "made", "tunix", options, random="keep")
    same_bytes(saved / "v0", tmp_path / "made")
    model, optimizer = trained(1)
    fresh = states(model, optimizer)
    assert numbers(fresh) != numbers(state)
    found = restored(tmp_path / "made", fresh)
    nnx.update(model, found["model_params"])
    nnx.update(optimizer, found["optimizer_state"])
    assert numbers(states(model, optimizer)) == numbers(state)


def test_from_one_item_and_without_an_optimizer(saved, tmp_path):
    converted(saved / "v0", tmp_path / "nnx", "nnx-optimizer")
    assert checkpoint.read(tmp_path / "nnx").place.items.name == "items"
    converted(tmp_path / "nnx", tmp_path / "back", "tunix")
    same_bytes(saved / "v0", tmp_path / "back")
    converted(saved / "v0", tmp_path / "params", "tunix", params_only=True)
    found = checkpoint.read(tmp_path / "params")
    assert found.layout.name == "tunix" and found.place.parts == ("model_params",)
    assert {path.partition("/")[0] for path in found.leaves} == {"params"}


def test_a_third_tree_is_not_left_out(saved, tmp_path):
    converted(saved / "v0", tmp_path / "made", "tunix")
    shutil.copytree(tmp_path / "made" / "7" / "model_params", tmp_path / "made" / "7" / "ema")
    with pytest.raises(errors.CheckpointError, match="holds 3: ema, model_params, optimizer_state"):
        checkpoint.read(tmp_path / "made")


def test_in_a_bucket(saved, tmp_path):
    url = f"memory://tunix/{uuid.uuid4()}"
    converted(saved / "v0", url, "tunix")
    found = checkpoint.read(url)
    assert found.layout.name == "tunix" and found.place.step == 7
    converted(url, tmp_path / "down", "tunix")
    same_bytes(saved / "v0", tmp_path / "down")


def test_damage_in_either_item_is_found(saved, tmp_path):
    converted(saved / "v0", tmp_path / "made", "tunix", Options(link=False))
    (tmp_path / "made" / "7" / "optimizer_state" / places.MARKER).unlink()
    with pytest.raises(errors.CheckpointError, match="missing in one of 7/ and optimizer_state/"):
        checkpoint.read(tmp_path / "made" / "7")
    (tmp_path / "made" / "7" / places.MARKER).unlink()
    (tmp_path / "made" / "7" / "model_params" / places.MARKER).unlink()
    (tmp_path / "made" / "7" / "optimizer_state" / "manifest.ocdbt").unlink()
    with pytest.raises(errors.CheckpointError, match="the index of its arrays, is missing"):
        checkpoint.read(tmp_path / "made" / "7")
    mixed = tmp_path / "mixed"
    converted(saved / "v0", mixed, "tunix")
    document = mixed / "7" / "model_params" / "_METADATA"
    document.write_text(json.dumps(json.loads(document.read_text()) | {"use_zarr3": True}))
    with pytest.raises(errors.CheckpointError, match="expected items that are stored alike"):
        checkpoint.read(mixed)
