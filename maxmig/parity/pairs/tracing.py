"""Runs each side once on abstract values and notes which layers were called, and what they own."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import nnx

from maxmig import errors
from maxmig.parity.pairs import arguments, kinds, streams
from maxmig.parity.pairs.linen_side import LinenSide
from maxmig.parity.pairs.nnx_side import NnxSide
from maxmig.parity.pairs.values import named

Shapes = tuple[tuple[int, ...], ...]

# Methods that prepare something; the layer is used by another one.
_NO_CALLS = {"setup", "initialize_carry", "init_cache", *dir(nnx.Module)}


@dataclasses.dataclass(frozen=True)
class Unit:
    """A layer that owns leaves: the smallest thing that is mapped as a whole.

    Attributes:
        path: of the module, `encoder/Dense_0`.
        module: name of its class.
        kind: which of Flax's own layers it is, in the spelling of NNX; else the class's name.
        order: the place of its first call among all calls; the number of calls if it had none.
        calls: how often it was called.
        inputs, outputs: shapes of the first call's arrays.
        leaves: `collection/rest of the path` -> leaf with shape and dtype.
    """

    path: str
    module: str
    kind: str
    order: int
    calls: int
    inputs: Shapes
    outputs: Shapes
    leaves: Mapping[str, jax.ShapeDtypeStruct]

    def leaf(self, name: str) -> str:
        """The full path of one of its leaves."""
        collection, _, rest = name.partition("/")
        return "/".join(part for part in (collection, self.path, rest) if part)

    @property
    def parent(self) -> str:
        """The path of the module that it is in."""
        return self.path.rpartition("/")[0]


@dataclasses.dataclass
class _Seen:
    """The calls of one module."""

    module: str
    kind: str
    order: int
    calls: int = 0
    inputs: Shapes = ()
    outputs: Shapes = ()


class _Log:
    """What was called, in order."""

    def __init__(self) -> None:
        self.seen: dict[str, _Seen] = {}
        self.active = 0

    def enter(self, path: str, module: Any, args: Any) -> _Seen:
        entry = self.seen.get(path)
        if entry is None:
            cls = type(module)
            entry = _Seen(kinds.plain(cls), kinds.of(cls), len(self.seen), inputs=_shapes(args))
            self.seen[path] = entry
        entry.calls += 1
        return entry

    def leave(self, entry: _Seen, result: Any) -> None:
        if not entry.outputs:
            entry.outputs = _shapes(result)


def linen(side: LinenSide) -> tuple[Unit, ...]:
    """The layers of the Linen side, in the order of their calls.

    Raises:
        ConfigError: the module raises.
        DataError: an input is an index that its embedding does not have.
    """
    log = _Log()
    inside: list[str] = []  # a method that calls another of its own module is one call

    def note(function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        method = context.method_name
        if method != "__call__" and (method in _NO_CALLS or not method.isidentifier()):
            return function(*args, **kwargs)
        if inside and inside[-1] == path:
            return function(*args, **kwargs)
        if isinstance(context.module, nn.Embed) and method == "__call__":
            _within(context.module, path, (*args, *kwargs.values())[0])
        entry = log.enter(path, context.module, (args, kwargs))
        inside.append(path)
        try:
            result = function(*args, **kwargs)
        finally:
            inside.pop()
        log.leave(entry, result)
        return result

    def _within(module: nn.Embed, path: str, indices: Any) -> None:
        """An index beyond the table would be NaN; it can be seen if it is an input as it is."""
        for name, tracer in tracers.items():
            if tracer is indices:
                _in_range(side, path, name, np.asarray(given.values[name]), module.num_embeddings)

    tracers: dict[str, Any] = {}
    mode = _first(side.pair, side.call)
    given = arguments.arrays(side.call, mode)

    def run(flat: dict[str, Any], values: dict[str, Any]) -> Any:
        args, kwargs = given.put(values)
        tracers.update(values)
        with streams.shared(), nn.intercept_methods(note):  # maxmig: ignore[no-nnx-twin]
            return named(side.run(flat, args, kwargs, mode)[0])

    jax.eval_shape(run, dict(side.variables), dict(given.values))
    return _units(_abstract(side.variables), log.seen)


def _in_range(side: LinenSide, path: str, name: str, values: np.ndarray, size: int) -> None:
    bad = (values < 0) | (values >= size)
    if bad.any():
        at = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        raise errors.DataError(
            f"pair {side.pair.title}: {name}: the index {values[at]} at {list(at)} is out of "
            f"range, {int(bad.sum())} in all; {path} has {size} rows, 0 to {size - 1}"
        )


def nnx_(side: NnxSide, mode: str) -> tuple[Unit, ...]:
    """The layers of the NNX side, in the order of their calls.

    Raises:
        ConfigError: the module raises.
    """
    log = _Log()
    given = arguments.arrays(side.call, mode)

    def run(flat: dict[str, Any], values: dict[str, Any]) -> Any:
        args, kwargs = given.put(values)
        model = side.model(flat, mode)
        with streams.shared(), _noted(model, log):
            return named(side.call_model(model, args, kwargs))

    jax.eval_shape(run, dict(side.values), dict(given.values))
    classes = {
        "/".join(map(str, path)): type(module) for path, module in nnx.iter_modules(side.pair.nnx)
    }
    return _units(side.leaves, log.seen, classes)


@contextlib.contextmanager
def _noted(model: nnx.Module, log: _Log) -> Iterator[None]:
    """Wraps the methods of all classes in a model while it lasts."""
    wrapped: list[tuple[type, str, Any]] = []
    inside: list[str] = []
    for cls in {type(module) for _, module in nnx.iter_modules(model)}:
        for name, function in inspect.getmembers(cls, inspect.isfunction):
            if name != "__call__" and (name.startswith("_") or name in _NO_CALLS):
                continue
            own = cls.__dict__.get(name)
            wrapped.append((cls, name, own))
            setattr(cls, name, _wrapper(function, log, inside))
    try:
        yield
    finally:
        for cls, name, own in reversed(wrapped):
            if own is None:
                delattr(cls, name)
            else:
                setattr(cls, name, own)


def _wrapper(function: Callable[..., Any], log: _Log, inside: list[str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        path = getattr(self, streams.MARK, None)
        if path is None or (inside and inside[-1] == path):
            return function(self, *args, **kwargs)
        entry = log.enter(path, self, (args, kwargs))
        inside.append(path)
        try:
            result = function(self, *args, **kwargs)
        finally:
            inside.pop()
        log.leave(entry, result)
        return result

    return call


def _units(
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    seen: Mapping[str, _Seen],
    classes: Mapping[str, type] | None = None,
) -> tuple[Unit, ...]:
    """Leaves by the layer that owns them."""
    found: dict[str, dict[str, jax.ShapeDtypeStruct]] = {}
    kind_of = {path: entry.kind for path, entry in seen.items()}
    kind_of |= {path: kinds.of(cls) for path, cls in (classes or {}).items()}
    for name, leaf in leaves.items():
        collection, *parts = name.split("/")
        owner = _owner(parts, kind_of)
        rest = "/".join(parts[len(owner.split("/")) if owner else 0 :])
        found.setdefault(owner, {})[f"{collection}/{rest}"] = leaf
    units = []
    for path, own in found.items():
        entry = seen.get(path) or _Seen("", "", len(seen))
        kind = kind_of.get(path, "")
        module = entry.module or (kinds.plain(classes[path]) if classes and path in classes else "")
        units.append(
            Unit(path, module, kind, entry.order, entry.calls, entry.inputs, entry.outputs, own)
        )
    natural = {path: i for i, path in enumerate(kinds.natural(found))}
    return tuple(sorted(units, key=lambda unit: (unit.order, natural[unit.path])))


def _owner(parts: list[str], kind_of: Mapping[str, str]) -> str:
    """The path of the layer that owns a leaf: a layer of several parts owns all that is in them."""
    prefixes = ["/".join(parts[:length]) for length in range(len(parts))]
    for prefix in prefixes:
        if kind_of.get(prefix) in kinds.WHOLE:
            return prefix
    known = [prefix for prefix in prefixes if prefix in kind_of]
    return known[-1] if known else "/".join(parts[:-1])


def _shapes(tree: Any) -> Shapes:
    leaves = jax.tree.leaves(tree)
    return tuple(tuple(leaf.shape) for leaf in leaves if hasattr(leaf, "shape"))


def _abstract(variables: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    return {n: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for n, leaf in variables.items()}


def _first(pair: Any, call: arguments.Call) -> str:
    return arguments.modes(pair, call)[0]
