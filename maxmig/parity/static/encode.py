"""Bytes that stand for a value, the same for equal ones and different for all others."""

import dataclasses
import enum
import hashlib
import struct
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

Number = bytes  # the digest that stands for a value of a computation
Function = Callable[[Any], bytes]


class Opaque(Exception):
    """The value cannot be told by its content; the text says what it is."""


def digest(*parts: bytes) -> Number:
    """A digest of a sequence of byte strings; their borders count."""
    h = hashlib.blake2b(digest_size=20)
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.digest()


def encode(value: Any, function: Function) -> bytes:
    """Encodes a parameter of an equation.

    Args:
        value: numbers, text, dtypes, arrays, and containers of them.
        function: encodes a jaxpr.

    Raises:
        Opaque: there is something in it whose content cannot be seen, such as a Python function.
    """
    simple = _simple(value)
    if simple is not None:
        return simple
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return b"a" + digest(*array(value))
    if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
        return b"j" + function(value)
    if isinstance(value, Mapping):
        items = [(encode(k, function), encode(v, function)) for k, v in value.items()]
        return b"d" + digest(*(part for item in sorted(items) for part in item))
    if isinstance(value, set | frozenset):
        return b"S" + digest(*sorted(encode(v, function) for v in value))
    if isinstance(value, PartitionSpec):
        return b"P" + digest(*(encode(v, function) for v in tuple(value)))
    if isinstance(value, list | tuple) and not _is_generator(value):
        kind = type(value)
        name = "" if kind in (list, tuple) else f"{kind.__module__}.{kind.__qualname__}"
        return b"l" + digest(name.encode(), *(encode(v, function) for v in value))
    fields = _fields(value)
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    return b"o" + digest(name.encode(), *(encode(v, function) for v in fields))


def array(value: Any) -> tuple[bytes, bytes]:
    """Description and bytes of an array.

    Raises:
        Opaque: it is a tracer, or spread over several hosts.
    """
    if isinstance(value, jax.core.Tracer):
        raise Opaque("a traced value in the place of a constant")
    if isinstance(value, jax.Array):
        if not value.is_fully_addressable:
            raise Opaque("a constant that is spread over several hosts")
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            data = np.asarray(jax.random.key_data(value))
            return f"{value.dtype} {value.shape}".encode(), data.tobytes()
    value = np.asarray(value)
    if value.dtype.hasobject:
        raise Opaque("a constant made of Python objects")
    return f"{value.dtype} {value.shape}".encode(), value.tobytes()


def _simple(value: Any) -> bytes | None:
    if value is None:
        return b"N"
    if isinstance(value, enum.Enum):
        return f"e{type(value).__module__}.{type(value).__qualname__}.{value.name}".encode()
    if isinstance(value, bool):
        return b"T" if value else b"F"
    if type(value) is int:
        return b"i%d" % value
    if type(value) is float:
        return b"f" + struct.pack("<d", value)
    if type(value) is complex:
        return b"c" + struct.pack("<dd", value.real, value.imag)
    if type(value) is str:
        return b"s" + value.encode()
    if type(value) is bytes:
        return b"b" + value
    if isinstance(value, np.integer):
        return b"i%d" % int(value)
    if isinstance(value, np.dtype):
        return f"t{value}".encode()
    if isinstance(value, type) and issubclass(value, np.generic):
        return f"t{np.dtype(value)}".encode()
    return None


def _fields(value: Any) -> list[Any]:
    """What an object of JAX's own classes is made of."""
    if isinstance(value, SingleDeviceSharding):
        return [value.memory_kind]
    if isinstance(value, NamedSharding):
        return [value.mesh, value.spec, value.memory_kind]
    if isinstance(value, Mesh):
        ids = tuple(d.id for d in value.devices.flat)
        return [value.axis_names, value.devices.shape, ids, str(value.axis_types)]
    if isinstance(value, AbstractMesh):
        return [value.axis_names, value.axis_sizes, str(value.axis_types)]
    own = type(value).__module__.startswith("jax")
    if own and type(value).__name__ == "UnspecifiedValue":
        return []
    if _is_generator(value):
        return _generator(value)
    frozen = getattr(getattr(type(value), "__dataclass_params__", None), "frozen", False)
    if own and frozen:
        return [getattr(value, f.name) for f in dataclasses.fields(value)]
    raise Opaque(f"a {type(value).__module__}.{type(value).__qualname__}")


def _is_generator(value: Any) -> bool:
    """Whether it is a generator of random bits."""
    own = type(value).__module__.startswith("jax")
    return own and hasattr(value, "key_shape") and hasattr(value, "tag")


def _generator(value: Any) -> list[Any]:
    """A generator of random bits is told by its name if JAX knows this very one by it."""
    try:
        known = jax.eval_shape(lambda: jax.random.key(0, impl=value.name)).dtype._impl
    except (AttributeError, TypeError, ValueError) as error:
        raise Opaque(f"the random generator {value.name!r}, which is not registered") from error
    if known != value:
        raise Opaque(f"another random generator than JAX's {value.name!r}")
    return [value.name, value.tag, tuple(value.key_shape)]
