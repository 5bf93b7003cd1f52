"""Orbax trees on disk: their metadata, and their leaves.

Nothing here knows layouts: paths are disk paths, and trees are what Orbax's metadata show.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from maxmig import errors
from maxmig.converters import leaves, places
from maxmig.converters.leaves import DiskPath, Hole, Leaf
from maxmig.converters.places import Place


def tree(place: Place) -> dict[DiskPath, Leaf | Hole]:
    """All leaves and holes of a checkpoint with shapes and types; reads no array.

    Raises:
        CheckpointError: the metadata cannot be read.
    """
    from maxmig.converters.storage import items

    return items.of(place).tree()


def load(
    place: Place,
    stored: Mapping[DiskPath, Leaf | Hole],
    wanted: Mapping[DiskPath, Any],
) -> dict[DiskPath, Any]:
    """Reads some leaves and nothing else.

    Args:
        place: the checkpoint.
        stored: its whole tree, as `tree` tells it.
        wanted: {path: sharding}; None puts a leaf on the first CPU device. Shapes and types are
            those on disk: nothing is cast, cut or padded here.

    Raises:
        CheckpointError: the data are damaged, missing or not what the metadata say.
    """
    import jax
    import orbax.checkpoint as ocp

    if place.parts:
        return _load_parts(place, stored, wanted)
    items: dict[DiskPath, Any] = {}
    args: dict[DiskPath, Any] = {}
    for path, leaf in stored.items():
        items[path], args[path] = leaf, leaf
        if isinstance(leaf, Leaf):
            items[path], args[path] = ocp.PLACEHOLDER, ocp.RestoreArgs()
            if path in wanted:
                items[path] = struct(leaf)
                args[path] = _restore_args(leaf, wanted[path])
    with reading(place):
        request = ocp.args.PyTreeRestore(item=leaves.nest(items), restore_args=leaves.nest(args))
        restored = ocp.PyTreeCheckpointHandler().restore(place.items, args=request)
        found = {path: value for path, value in leaves.walk(restored) if path in wanted}
        jax.block_until_ready(found)
    for path, value in found.items():
        if describe(value) != stored[path]:
            raise errors.CheckpointError(
                f"{place}: {leaves.spell(path)}: the metadata say {stored[path]}, "
                f"the data are {describe(value)}; the checkpoint is damaged"
            )
    return found


def _load_parts(
    place: Place, stored: Mapping[DiskPath, Leaf | Hole], wanted: Mapping[DiskPath, Any]
) -> dict[DiskPath, Any]:
    """The same where several items hold the tree."""
    found: dict[DiskPath, Any] = {}
    for part in place.parts:
        inside = {path[1:]: leaf for path, leaf in stored.items() if path[0] == part}
        asked = {path[1:]: sharding for path, sharding in wanted.items() if path[0] == part}
        here = Place(place.items / part, place.step_dir, place.step)
        found |= {(part, *path): value for path, value in load(here, inside, asked).items()}
    return found


def describe(value: Any) -> Leaf:
    """Shape and type of an array or a `ShapeDtypeStruct`, random keys included."""
    import jax
    import numpy as np

    shape = tuple(value.shape)
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return _key_leaf(shape, _key_impl(value.dtype))
    dtype = np.dtype(value.dtype)
    return Leaf(shape, dtype.name, dtype.itemsize * int(np.prod(shape, dtype=np.int64)))


def struct(leaf: Leaf, sharding: Any = None) -> Any:
    """The `jax.ShapeDtypeStruct` of a leaf."""
    import jax
    import jax.numpy as jnp

    dtype = _key_dtype(leaf.dtype[4:-1]) if leaf.is_key else jnp.dtype(leaf.dtype)
    return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding)


@contextlib.contextmanager
def reading(place: Place) -> Iterator[None]:
    """Turns whatever goes wrong while a checkpoint is read into a `CheckpointError`."""
    try:
        yield
    except errors.MaxmigError:
        raise
    except Exception as error:
        if denied := places.denied(error):
            raise errors.CheckpointError(f"{place}: {denied}") from error
        told = "\n  ".join(str(error).strip().splitlines()[:4])
        raise errors.CheckpointError(
            f"{place}: expected a readable Orbax tree, but reading it failed; the files are "
            f"damaged or incomplete. Take another step or another copy.\n"
            f"  {type(error).__name__}: {told}"
        ) from error


def _restore_args(leaf: Leaf, sharding: Any) -> Any:
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    if not leaf.is_key and jax.dtypes.canonicalize_dtype(leaf.dtype) != np.dtype(leaf.dtype):
        return ocp.RestoreArgs(restore_type=np.ndarray)  # JAX would narrow 64 bits to 32
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    if not leaf.is_key:
        return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding)
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array,
        sharding=sharding,
        global_shape=leaf.shape,
        dtype=_key_dtype(leaf.dtype[4:-1]),
    )


@functools.cache
def _key_impl(dtype: Any) -> str:
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        if _key_dtype(impl) == dtype:
            return impl
    raise errors.CheckpointError(
        f"expected random keys of JAX's own kinds (threefry2x32, rbg, unsafe_rbg), got {dtype}"
    )


@functools.cache
def _key_dtype(impl: str) -> Any:
    import jax

    return jax.eval_shape(lambda: jax.random.key(0, impl=impl)).dtype


def _key_leaf(shape: tuple[int, ...], impl: str) -> Leaf:
    import jax
    import numpy as np

    data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=impl)))
    return Leaf(shape, f"key<{impl}>", int(np.prod((*shape, *data.shape), dtype=np.int64)) * 4)
