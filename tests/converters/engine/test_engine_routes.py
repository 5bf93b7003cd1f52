"""Every route gives the same bits, in every form that Orbax knows, and Orbax reads the result."""

import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from engine_cases import LAYERS, apart, contents, convert, renamed, save, state, together

from maxmig import errors
from maxmig.converters import inverses, ops, storage
from maxmig.converters.engine import plan, routes
from maxmig.converters.engine.options import Options
from maxmig.converters.leaves import Leaf
from maxmig.converters.storage import zarr
from maxmig.converters.transfers import Made, Transfer


def as_is(path):
    return path


def kinds(todo):
    return {route.kind for route in todo.routes}


def test_renaming_is_by_reference_and_the_source_may_go(form, tmp_path):
    source = storage.open(save(tmp_path / "src", state(), **form))
    before = contents(tmp_path / "src")
    todo, result = convert(renamed(source), tmp_path / "dst")
    assert kinds(todo) == {routes.REFERENCE} and todo.disk == 0
    assert result.checked.shared == len(todo.routes)
    after = contents(tmp_path / "dst")
    assert {path[1:]: value for path, value in after.items()} == before
    shutil.rmtree(tmp_path / "src")
    assert contents(tmp_path / "dst") == after


@pytest.mark.parametrize("axis", [0, 1])
def test_layers_are_stacked_and_taken_apart_by_reference(form, axis, tmp_path):
    """Where a chunk holds one layer; and there and back is the identity."""
    stacked = save(tmp_path / "stacked", state(axis=axis), layer_axis=axis, **form)
    source = storage.open(stacked)
    todo, _ = convert(renamed(source, as_is, apart(source.tree(), axis)), tmp_path / "apart")
    assert kinds(todo) == {routes.REFERENCE}
    save(tmp_path / "truth", state(scanned=False), **form)
    assert contents(tmp_path / "apart") == contents(tmp_path / "truth")
    made = storage.open(tmp_path / "apart")
    todo, _ = convert(renamed(made, as_is, together(made.tree(), axis)), tmp_path / "back")
    assert kinds(todo) == {routes.REFERENCE}
    assert contents(tmp_path / "back") == contents(stacked)


def test_one_chunk_arrays_are_streamed_and_then_free(form, tmp_path):
    """Orbax writes a whole array as one chunk; what is written here has one layer in each."""
    source = storage.open(save(tmp_path / "stacked", state(), **form))
    todo, _ = convert(renamed(source, as_is, apart(source.tree())), tmp_path / "apart")
    assert {route.kind for route in todo.routes if len(route.transfer.leaf.shape) == 2} >= {
        routes.STREAM
    }
    assert any("a chunk holds 3 layers" in row["why"] for row in todo.rows())
    made = storage.open(tmp_path / "apart")
    todo, _ = convert(renamed(made, as_is, together(made.tree())), tmp_path / "back", link=False)
    assert contents(tmp_path / "back") == contents(tmp_path / "stacked")
    again = storage.open(tmp_path / "back")
    todo, _ = convert(renamed(again, as_is, apart(again.tree())), tmp_path / "again")
    assert kinds(todo) == {routes.REFERENCE}


@pytest.mark.parametrize("ocdbt", [True, False])
@pytest.mark.parametrize("zarr", [2, 3])
def test_any_form_becomes_any_other(form, ocdbt, zarr, tmp_path):
    source = storage.open(save(tmp_path / "src", state(), **form))
    todo, _ = convert(renamed(source, as_is), tmp_path / "dst", ocdbt=ocdbt, zarr=zarr)
    if form["use_zarr3"] != (zarr == 3):
        assert kinds(todo) == {routes.STREAM}
    else:
        same = ocdbt == form["use_ocdbt"]
        assert kinds(todo) == {routes.REFERENCE if same else routes.CHUNK}
    made = storage.open(tmp_path / "dst")
    assert (made.told.ocdbt, made.told.zarr) == (ocdbt, zarr)
    assert contents(tmp_path / "dst") == contents(tmp_path / "src")
    restored = ocp.PyTreeCheckpointer().restore(tmp_path / "dst" / "9" / "items")
    assert_trees(restored, state())


def test_a_copy_shares_no_file(form, tmp_path):
    source = storage.open(save(tmp_path / "src", state(), **form))
    todo, _ = convert(renamed(source, as_is), tmp_path / "dst", link=False)
    assert kinds(todo) == {routes.CHUNK} and todo.disk > 0
    assert contents(tmp_path / "dst") == contents(tmp_path / "src")
    assert all(p.stat().st_nlink == 1 for p in (tmp_path / "dst").rglob("*") if p.is_file())


def test_every_reader_of_orbax_restores_the_result(form, tmp_path):
    source = storage.open(save(tmp_path / "src", state(), layer_axis=1, **form))
    convert(renamed(source, as_is, apart(source.tree())), tmp_path / "dst")
    wanted = state(scanned=False)
    items = tmp_path / "dst" / "9" / "items"
    assert_trees(ocp.PyTreeCheckpointer().restore(items), wanted)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
    assert_trees(ocp.StandardCheckpointer().restore(items, abstract), wanted)
    with ocp.CheckpointManager(tmp_path / "dst") as manager:
        assert manager.latest_step() == 9
        restored = manager.restore(9, args=ocp.args.Composite(items=ocp.args.PyTreeRestore()))
        assert_trees(restored["items"], wanted)
        assert manager.metadata(9).custom_metadata["maxmig"]["layout"] == "test"
    from orbax.checkpoint import v1

    assert_trees(v1.load(tmp_path / "dst" / "9", checkpointable_name="items"), wanted)


def test_a_tree_without_a_step_stands_alone(tmp_path):
    source = storage.open(save(tmp_path / "src", state()))
    convert(renamed(source, as_is, step=None), tmp_path / "dst")
    assert_trees(ocp.PyTreeCheckpointer().restore(tmp_path / "dst"), state())
    assert contents(tmp_path / "dst") == contents(tmp_path / "src")


def assert_trees(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        if jax.dtypes.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype and np.array_equal(np.asarray(a), np.asarray(b)), path


def test_casts_and_numbers(tmp_path):
    source = storage.open(save(tmp_path / "src", state()))
    tree = source.tree()
    kernel, step = ("params", "layers", "kernel"), ("step",)
    cast = [
        Transfer(kernel, Leaf(tree[kernel].shape, "bfloat16", 144), (kernel,), ops.Same(), True),
        Transfer(step, Leaf((), "uint32", 4), (step,), ops.Same(), True),
    ]
    convert(renamed(source, as_is, cast), tmp_path / "dst")
    made = storage.open(tmp_path / "dst")
    wanted = np.asarray(state()["params"]["layers"]["kernel"].astype(jnp.bfloat16))
    assert made.read(kernel).tobytes() == wanted.tobytes()
    assert made.read(step).dtype == np.uint32 and made.read(step) == 10


def test_a_number_is_never_wrapped_around(tmp_path):
    save(tmp_path / "src", {"step": jnp.int32(-1)})
    source = storage.open(tmp_path / "src")
    cast = Transfer(("step",), Leaf((), "uint32", 4), (("step",),), ops.Same(), True)
    with pytest.raises(errors.ConvertError, match=r"step: a number does not fit uint32"):
        convert(renamed(source, as_is, [cast]), tmp_path / "dst")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_leaves_without_a_source(tmp_path):
    source = storage.open(save(tmp_path / "src", state()))
    made = (
        Made(("seed",), Leaf((2,), "key<threefry2x32>", 16), lambda: np.ones((2, 2), "uint32"), ""),
        Made(("scale",), Leaf((3,), "float32", 12), lambda: np.ones((3,), "float32"), ""),
    )
    convert(renamed(source, as_is, made=made), tmp_path / "dst")
    restored = ocp.PyTreeCheckpointer().restore(tmp_path / "dst" / "9" / "items")
    assert np.array_equal(jax.random.key_data(restored["seed"]), np.ones((2, 2)))
    assert np.array_equal(restored["scale"], np.ones(3))
    wrong = Made(("scale",), Leaf((4,), "float32", 16), made[1].make, "")
    with pytest.raises(errors.ConvertError, match=r"scale: expected float32\[4\], made float32"):
        convert(renamed(source, as_is, made=(wrong,)), tmp_path / "wrong")


@pytest.mark.parametrize(
    "op",
    [
        ops.MoveAxis(0, 2),
        ops.MoveAxis(2, 0),
        ops.Slice(0, 1, 5),
        ops.Slice(1, 2, 3),
        ops.Reshape((3, 24)),
        ops.Then(ops.Take(1, 2), ops.MoveAxis(0, 1)),
    ],
    ids=str,
)
def test_other_operations_are_those_of_numpy(op, tmp_path):
    source = storage.open(save(tmp_path / "src", state(), layer_axis=1))
    path = ("params", "layers", "kernel")
    leaf = source.tree()[path]
    assert isinstance(leaf, Leaf)
    target = Transfer(("made",), op.result([leaf]), (path,), op)
    convert(renamed(source, as_is, [target]), tmp_path / "dst")
    whole = source.read(path)
    wanted = {
        "MoveAxis(source=0, target=2)": lambda: np.moveaxis(whole, 0, 2),
        "MoveAxis(source=2, target=0)": lambda: np.moveaxis(whole, 2, 0),
        "Slice(axis=0, start=1, stop=5)": lambda: whole[1:5],
        "Slice(axis=1, start=2, stop=3)": lambda: whole[:, 2:3],
        "Reshape(shape=(3, 24))": lambda: whole.reshape(3, 24),
    }.get(str(op), lambda: whole[:, 2].T)()
    made = storage.open(tmp_path / "dst").read(("made",))
    assert made.shape == wanted.shape and np.array_equal(made, wanted)


def test_concat_joins_and_slices_part(tmp_path):
    save(tmp_path / "src", {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones((4, 3))})
    source = storage.open(tmp_path / "src")
    op = ops.Concat(0)
    paths = (("a",), ("b",))
    result = op.result([source.tree()[path] for path in paths])
    join = Transfer(("c",), result, paths, op)
    convert(renamed(source, as_is, [join]), tmp_path / "dst")
    made = storage.open(tmp_path / "dst")
    assert np.array_equal(made.read(("c",))[:2], np.arange(6.0).reshape(2, 3))
    back = inverses.inverse([join], source.tree())
    convert(renamed(made, as_is, back), tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "src")


def _large(source):
    """A cast of an array of a gigabyte that nobody reads."""
    shape = (1 << 14, 1 << 14)
    array = zarr.new(2, shape, "float32", shape)
    source.__dict__["arrays"] = {**source.arrays, ("zeros",): array}
    tree = {**source.tree(), ("zeros",): Leaf(shape, "float32", 4 * math.prod(shape))}
    source.__dict__["_tree"] = tree
    leaf = Leaf(shape, "bfloat16", 2 * math.prod(shape))
    return renamed(source, transfers=[Transfer(("w",), leaf, (("zeros",),), ops.Same(), cast=True)])


def test_a_plan_needs_metadata_alone_and_refuses_small_budgets(tmp_path, monkeypatch):
    source = storage.open(save(tmp_path / "src", state()))
    monkeypatch.setattr(type(source), "read", None)
    todo = plan.plan(renamed(source, as_is, apart(source.tree())), str(tmp_path / "dst"), Options())
    assert todo.floor < todo.options.max_memory
    small = plan.plan(todo.conversion, str(tmp_path / "dst"), Options(max_memory=1 << 20))
    with pytest.raises(errors.PreflightError, match=r"--max-memory 192MiB or more"):
        plan.preflight(small, str(tmp_path / "dst"))
    for least in (1 << 20, 160 << 20, 200 << 20):  # with more memory, larger chunks are written
        small = plan.plan(_large(source), str(tmp_path / "dst"), Options(max_memory=least))
        with pytest.raises(errors.PreflightError) as refused:
            plan.preflight(small, str(tmp_path / "dst"))
        advised = int(re.search(r"give --max-memory (\d+)MiB", str(refused.value))[1]) << 20
        enough = plan.plan(_large(source), str(tmp_path / "dst"), Options(max_memory=advised))
        assert small.floor < enough.floor <= advised
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(errors.PreflightError, match="of free disk, but there are 0 B"):
        plan.preflight(todo, str(tmp_path / "dst"))
    assert LAYERS == 3 and [path.name for path in tmp_path.iterdir()] == ["src"]
