"""A source of very many small chunks does not become a result of as many."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from engine_cases import contents, convert

from maxmig.converters import storage
from maxmig.converters.accounting import Accounting
from maxmig.converters.engine import plan, routes
from maxmig.converters.engine.options import Options
from maxmig.converters.leaves import Leaf
from maxmig.converters.ops import Same, Stack
from maxmig.converters.transfers import Conversion, Transfer


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A table of 400 rows, each a chunk, and two layers of 200."""
    rng = np.random.default_rng(0)
    tree = {"table": rng.normal(size=(400, 16)).astype("f4")}
    tree |= {f"layers_{i}": rng.normal(size=(200, 16)).astype("f4") for i in range(2)}
    args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=64, shard_axes=(0,)), tree)
    path = tmp_path_factory.mktemp("rows") / "src"
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=True)
    ocp.Checkpointer(handler).save(path, args=ocp.args.PyTreeSave(tree, save_args=args))
    return tree, storage.open(path)


def _conversion(source):
    cast = Transfer(("table",), Leaf((400, 16), "bfloat16", 12800), (("table",),), Same(), True)
    stack = Transfer(("layers",), *_stacked(), Stack(0), cast=True)
    return Conversion(source, "test", (cast, stack), Accounting((), ()))


def _stacked():
    return Leaf((2, 200, 16), "bfloat16", 12800), (("layers_0",), ("layers_1",))


def test_small_chunks_become_larger_ones(rows, tmp_path):
    tree, source = rows
    assert source.grid(("table",)).chunk == (1, 16)
    todo, _ = convert(_conversion(source), tmp_path / "dst")
    assert [route.array.stored for route in todo.routes] == [(400, 16), (1, 200, 16)]
    found = contents(tmp_path / "dst")
    assert found["table",][1] == tree["table"].astype("bfloat16").tobytes()
    layers = np.stack([tree["layers_0"], tree["layers_1"]])
    assert found["layers",][1] == layers.astype("bfloat16").tobytes()


def test_chunks_that_are_asked_for_stay_small_and_are_counted(rows, tmp_path):
    """Also where each piece of many chunks is done by itself."""
    _, source = rows
    large, small = (
        plan.plan(_conversion(source), str(tmp_path / "dst"), Options(chunk=chunk))
        for chunk in (1 << 20, 64)
    )
    assert [route.array.stored for route in small.routes] == [(2, 16), (1, 2, 16)]
    assert 0.1 < small.seconds - large.seconds < 1  # 400 chunks of half a millisecond


@pytest.mark.parametrize(
    ("chunk", "shape", "held", "grown"),
    [
        ([1, 64], (30000, 64), (), [7500, 64]),  # as even as can be, and up to the limit
        ([1, 1], (30000, 64), (), [7500, 64]),
        ([3, 64], (1000, 64), (), [1000, 64]),
        ([1, 1, 8], (3, 400, 8), (), [1, 400, 8]),  # layers stay apart
        ([1, 8], (100, 8), (), [1, 8]),
        ([1, 1, 8], (300, 400, 8), (0,), [1, 400, 8]),
        ([1 << 19], (1 << 30,), (), [1 << 19]),
    ],
)
def test_chunks_grow_from_the_back(chunk, shape, held, grown):
    routes._grow(chunk, shape, 1 << 19, set(held))
    assert chunk == grown
