"""What a layer is, as data: the parameters it owns and the parts it is made of.

Both wings build their modules from these descriptions, so that shapes, logical axes and
initialisers are told once; sharding, checkpoints and optimizers read them too.
"""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from maxmig.core import census

Array = jax.Array
Axes = tuple[str | None, ...]
Initializer = Callable[[Array, tuple[int, ...], Any], Array]


@dataclasses.dataclass(frozen=True)
class Param:
    """One array that a layer owns.

    Attributes:
        shape: its shape.
        axes: a logical axis name (or None) for each dimension.
        init: `(key, shape, dtype) -> array`.
        dtype: the dtype in which it is stored.
        fan_in: the dimensions that a matrix product contracts; None where the array is no matrix
            (norm scales, biases, embeddings). Matrix optimizers such as Muon read it.
        batch: the dimensions over which matrices are kept side by side, such as experts.
        layers: number of layers stacked in it, 0 for none; `axis` is where.
        template: its path with the layer number left out, and `layer` that number: the same in
            stacked and unstacked trees, so that random streams are the same too.
    """

    shape: tuple[int, ...]
    axes: Axes
    init: Initializer
    dtype: Any
    fan_in: tuple[int, ...] | None = None
    batch: tuple[int, ...] = ()
    layers: int = 0
    axis: int = 0
    axis_name: str = "layers"
    template: str = ""
    layer: int = 0

    def stacked(self, layers: int, axis: int, name: str) -> "Param":
        """This parameter for `layers` layers in one array, the layer axis at `axis`."""
        at = min(axis, len(self.shape))

        def moved(dims: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(i + (i >= at) for i in dims)

        return dataclasses.replace(
            self,
            shape=(*self.shape[:at], layers, *self.shape[at:]),
            axes=(*self.axes[:at], name, *self.axes[at:]),
            fan_in=self.fan_in and moved(self.fan_in),
            batch=moved(self.batch),
            layers=layers,
            axis=at,
            axis_name=name,
        )

    @property
    def abstract(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype without data."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype)

    def create(self, key: Array) -> Array:
        """Initial values. Each layer of a stack draws what it would draw on its own."""
        if not self.layers:
            return self.init(jax.random.fold_in(key, self.layer), self.shape, self.dtype)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.layers))
        shape = self.shape[: self.axis] + self.shape[self.axis + 1 :]
        values = jax.vmap(lambda k: self.init(k, shape, self.dtype))(keys)
        return jnp.moveaxis(values, 0, self.axis)


@dataclasses.dataclass(frozen=True)
class Part:
    """Base of all layer descriptions."""

    def params(self) -> Mapping[str, Param]:
        """The parameters that this layer itself owns, by attribute name."""
        return {}

    def parts(self) -> Mapping[str, "Part"]:
        """The layers inside this one, by attribute name."""
        return {}


@dataclasses.dataclass(frozen=True)
class Repeat(Part):
    """A stack of `length` equal layers: one scanned module, or a list of modules.

    Attributes:
        layer: what is repeated.
        length: how often.
        scan: True stacks the weights and scans over them (`layers/...`, the layer axis at `axis`);
            False keeps them apart (`layers_0/...`).
    """

    layer: Part
    length: int
    scan: bool
    axis: int = 1


def spec(part: Part) -> dict[str, Param]:
    """Every parameter below `part`, by canonical path."""
    return dict(_walk(part, ""))


def _walk(part: Part, prefix: str) -> Iterator[tuple[str, Param]]:
    for name, param in part.params().items():
        yield prefix + name, dataclasses.replace(param, template=prefix + name)
    for name, child in part.parts().items():
        if isinstance(child, Repeat):
            yield from _repeat(child, prefix + name)
        else:
            yield from _walk(child, f"{prefix}{name}/")


def _repeat(repeat: Repeat, path: str) -> Iterator[tuple[str, Param]]:
    name = path.rsplit("/", 1)[-1]
    inner = dict(_walk(repeat.layer, f"{path}/"))
    if repeat.scan:
        for leaf, param in inner.items():
            yield leaf, param.stacked(repeat.length, repeat.axis, name)
        return
    for layer in range(repeat.length):
        for leaf, param in inner.items():
            tail = leaf[len(path) :]
            yield f"{path}_{layer}{tail}", dataclasses.replace(param, layer=layer)


def initialise(params: Mapping[str, Param], key: Array) -> dict[str, Array]:
    """Initial values of all parameters, each from (key, its path, its layer).

    The stream depends on neither the framework nor the order of creation nor scanning, so every
    rung of the ladder starts from the same numbers for one seed.
    """
    return {
        path: param.create(stream(key, param.template or path)) for path, param in params.items()
    }


def stream(key: Array, name: str) -> Array:
    """The random stream called `name` below `key`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def read(owner: Any, name: str, dtype: Any) -> Array:
    """The array `name` of a module of either wing, cast to the dtype of the computation."""
    census.record(owner)
    return jnp.asarray(getattr(owner, name)[...], dtype)
