"""Checkpoints that Orbax writes here, and conversions put together by hand, without any layout.

Heavy imports are inside the functions: processes that are killed in tests start quickly.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from maxmig.converters import storage
from maxmig.converters.accounting import Accounting
from maxmig.converters.engine import plan, run
from maxmig.converters.engine.options import Options
from maxmig.converters.leaves import Hole, Leaf
from maxmig.converters.ops import Same, Stack, Take
from maxmig.converters.transfers import Conversion, Transfer

LAYERS = 3
FORMS = [
    {"use_ocdbt": ocdbt, "use_zarr3": zarr3}
    for ocdbt, zarr3 in itertools.product((True, False), repeat=2)
]


def state(*, scanned: bool = True, axis: int = 1) -> dict[str, Any]:
    """A small training state with everything in it: layers, holes, random keys, scalars."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    layers = [
        {
            "kernel": jnp.asarray(rng.normal(size=(6, 4)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=(4,)), jnp.bfloat16),
        }
        for _ in range(LAYERS)
    ]
    stacked = jax.tree.map(lambda *each: jnp.stack(each, min(axis, each[0].ndim)), *layers)
    apart = {f"layers_{index}": layer for index, layer in enumerate(layers)}
    return {
        "params": {**({"layers": stacked} if scanned else apart), "0.1": jnp.ones((2,))},
        "0.10": {"x": jnp.full((3,), 7.0)},
        "opt_state": [None, {"count": jnp.int32(3)}, {}],
        "zeros": jnp.zeros((5,)),
        "wide": np.arange(3.0),
        "keys": jax.random.split(jax.random.key(1), LAYERS),
        "step": jnp.int32(10),
    }


def save(directory: Path, tree: Any, *, layer_axis: int | None = None, **form: bool) -> Path:
    """Saves step 9 of a directory as Orbax does it; with a layer axis, one layer in a chunk."""
    import jax
    import orbax.checkpoint as ocp

    handler = ocp.PyTreeCheckpointHandler(**form)
    args = None
    if layer_axis is not None:
        args = jax.tree_util.tree_map_with_path(
            lambda path, leaf: _cut(path, leaf, layer_axis), tree
        )
    with ocp.CheckpointManager(directory, item_handlers={"items": handler}) as manager:
        manager.save(9, args=ocp.args.Composite(items=ocp.args.PyTreeSave(tree, save_args=args)))
    return directory


def _cut(path: Any, leaf: Any, axis: int) -> Any:
    import jax
    import orbax.checkpoint as ocp

    if "'layers'" not in jax.tree_util.keystr(path):
        return ocp.SaveArgs()
    axis = min(axis, leaf.ndim - 1)
    return ocp.SaveArgs(chunk_byte_size=leaf.nbytes // leaf.shape[axis], shard_axes=(axis,))


def renamed(
    source: Any,
    rename: Callable[[tuple], tuple] = lambda path: ("moved", *path),
    transfers: Iterable[Transfer] = (),
    skip: Iterable[tuple] = (),
    **more: Any,
) -> Conversion:
    """A conversion that renames everything but what other transfers use."""
    transfers = list(transfers)
    used = {path for each in transfers for path in each.sources} | set(skip)
    holes = {}
    for path, leaf in source.tree().items():
        if isinstance(leaf, Hole):
            holes[rename(path)] = leaf
        elif path not in used:
            transfers.append(Transfer(rename(path), leaf, (path,), Same()))
    options = {"metadata": {"maxmig": {"layout": "test"}}, "step": 9, "holes": holes, **more}
    return Conversion(source, "test", tuple(transfers), Accounting((), ()), **options)


def apart(tree: Mapping[tuple, Any], axis: int = 1) -> list[Transfer]:
    """Takes the layers of `params/layers` apart."""
    found = []
    for path, leaf in tree.items():
        if isinstance(leaf, Leaf) and path[:2] == ("params", "layers"):
            at = min(axis, len(leaf.shape) - 1)
            for index in range(leaf.shape[at]):
                op = Take(at, index)
                target = ("params", f"layers_{index}", *path[2:])
                found.append(Transfer(target, op.result([leaf]), (path,), op))
    return found


def unstacked(source: str | Path) -> Conversion:
    """A conversion that takes the layers apart, where all else stays."""
    found = storage.open(source)
    return renamed(found, lambda path: path, apart(found.tree()))


def together(tree: Mapping[tuple, Any], axis: int = 1) -> list[Transfer]:
    """Stacks the layers of `params/layers_0`, ..."""
    found = []
    for path, leaf in tree.items():
        if isinstance(leaf, Leaf) and path[:2] == ("params", "layers_0"):
            sources = tuple(("params", f"layers_{i}", *path[2:]) for i in range(LAYERS))
            op = Stack(min(axis, len(leaf.shape)))
            result = op.result([tree[each] for each in sources])
            found.append(Transfer(("params", "layers", *path[2:]), result, sources, op))
    return found


def convert(conversion: Conversion, destination: Path, **options: Any) -> Any:
    """Plans and runs; the plan with the result as `(plan, result)`."""
    flags = {key: options.pop(key) for key in ("overwrite", "resume") if key in options}
    todo = plan.plan(conversion, str(destination), Options(**options))
    return todo, run.run(todo, str(destination), **flags)


def contents(directory: Path) -> dict[tuple, Any]:
    """Every leaf, read by our own storage: bytes, shape and type."""
    found = storage.open(directory)
    return {
        path: leaf if isinstance(leaf, Hole) else (leaf, found.read(path).tobytes())
        for path, leaf in found.tree().items()
    }
