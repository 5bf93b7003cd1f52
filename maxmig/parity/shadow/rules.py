"""What each primitive does when every float is a float64."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from maxmig.parity.shadow import host
from maxmig.parity.static import source

# Rearrangements, whose results tell nothing that their operands do not.
QUIET = {
    *("reshape", "broadcast_in_dim", "squeeze", "convert_element_type", "copy", "copy_p", "name"),
    *("transpose", "iota", "optimization_barrier", "stop_gradient", "random_wrap", "split"),
    *("stack", "unstack", "broadcast_to"),
    *("random_unwrap", "random_clone", "device_put", "reduce_precision", "tile"),
    *("sharding_constraint", "slice", "concatenate"),
}
# The result is still the parameter that the operand was.
RENAMING = {
    *("convert_element_type", "reshape", "squeeze", "transpose", "slice", "copy", "copy_p"),
    *("broadcast_in_dim", "name", "reduce_precision", "optimization_barrier", "stop_gradient"),
}
# Values cannot be promoted through these.
OPAQUE = {
    *("pallas_call", "pure_callback", "io_callback", "ffi_call", "custom_call", "shard_map"),
    *("custom_partitioning", "custom_lin", "run_state", "core_map", "nextafter", "xla_call"),
    *("tpu_custom_call", "triton_kernel_call", "mosaic_gpu", "infeed", "outfeed"),
}
_DTYPES = ("preferred_element_type", "new_dtype", "dtype", "out_dtype")
_IDENTITIES = {
    *("name", "copy", "copy_p", "optimization_barrier", "stop_gradient", "reduce_precision"),
    *("device_put", "sharding_constraint"),
}


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Lets JAX compute with 64 bits inside, on the host; nothing of it stays afterwards."""
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        yield


def promote(value: Any) -> Any:
    """The value on the host, its floats in 64 bits; random keys as they are."""
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        return value
    value = np.asarray(value)
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        return value.astype(np.complex128)
    return value.astype(np.float64) if jnp.issubdtype(value.dtype, jnp.floating) else value


def unshadowable(eqn: Any) -> str:
    """Why values cannot be promoted through an equation; empty where they can."""
    name = eqn.primitive.name
    if name in OPAQUE or (eqn.effects and eqn.outvars):
        return f"the primitive {name!r} has no meaning in float64"
    for var in (*eqn.invars, *eqn.outvars):
        if str(getattr(var.aval, "dtype", "")).startswith(("float8", "float4", "float6")):
            return f"{name} on {var.aval.dtype}: rounding to so few bits is part of the model"
    if name in ("dot_general", "conv_general_dilated"):
        kinds = [v.aval.dtype for v in eqn.invars[:2]]
        if all(jnp.issubdtype(k, jnp.integer) for k in kinds):
            return f"{name} on {kinds[0]}: rounding to so few bits is part of the model"
    return ""


def bodies(eqn: Any) -> list[Any]:
    """The jaxprs that an equation runs: what it calls, its branches, its body."""
    found = [eqn.params.get(key) for key in ("jaxpr", "call_jaxpr", "cond_jaxpr", "body_jaxpr")]
    return [*(sub for sub in found if sub is not None), *eqn.params.get("branches", ())]


def apply(eqn: Any, ins: Sequence[Any]) -> list[Any]:
    """The results of one equation that is no call, loop or branch."""
    name = eqn.primitive.name
    if name in _IDENTITIES:
        return list(ins)
    if not eqn.outvars:
        return []  # it only has an effect, such as printing
    if name == "convert_element_type":
        return [_convert(eqn, ins[0])]
    if name == "bitcast_convert_type":
        native = np.asarray(ins[0], eqn.invars[0].aval.dtype)
        return [promote(lax.bitcast_convert_type(native, eqn.params["new_dtype"]))]
    found = host.apply(eqn, ins)
    return _by_jax(eqn, ins) if found is None else found


def stack(items: Sequence[Any], aval: Any) -> Any:
    """What a scan stacks up."""
    if not items:
        return promote(jnp.zeros(aval.shape, aval.dtype))
    keys = jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended)
    return jnp.stack(items) if keys else np.stack(items)


def _by_jax(eqn: Any, ins: Sequence[Any]) -> list[Any]:
    """The results by JAX's own primitive, its parameters made for 64 bits."""
    params = {k: _wide(v) if k in _DTYPES else _wide_function(v) for k, v in eqn.params.items()}
    with eqn.ctx.manager:
        outs = eqn.primitive.bind(*(jnp.asarray(x) for x in ins), **params)
    outs = outs if eqn.primitive.multiple_results else [outs]
    return [promote(out) for out in outs]


def _wide_function(value: Any) -> Any:
    """A jaxpr among the parameters, such as the sum of a scatter, traced again for 64 bits."""
    if not (hasattr(value, "eqns") or hasattr(value, "jaxpr")):
        return value
    inner, consts = source.parts(value)
    if consts:
        return value
    return _traced_wide(str(inner), inner if hasattr(value, "jaxpr") else None, inner)


@functools.lru_cache(maxsize=256)
def _by_text(text: str, closed: bool) -> list[Any]:
    """Holds what was traced for a jaxpr of this text, so that JAX need not compile it again."""
    return []


def _traced_wide(text: str, closed: Any, inner: Any) -> Any:
    kept = _by_text(text, closed is not None)
    if not kept:

        def function(*args: Any) -> Any:
            env = dict(zip(inner.invars, args, strict=True))
            for eqn in inner.eqns:
                ins = [
                    jnp.asarray(v.val, _wide(v.aval.dtype)) if hasattr(v, "val") else env[v]
                    for v in eqn.invars
                ]
                params = {k: _wide(v) if k in _DTYPES else v for k, v in eqn.params.items()}
                outs = eqn.primitive.bind(*ins, **params)
                outs = outs if eqn.primitive.multiple_results else [outs]
                env.update(zip(eqn.outvars, outs, strict=True))
            return [env[v] for v in inner.outvars]

        avals = [jax.ShapeDtypeStruct(v.aval.shape, _wide(v.aval.dtype)) for v in inner.invars]
        traced = jax.make_jaxpr(function)(*avals)
        kept.append(traced if closed is not None else traced.jaxpr)
    return kept[0]


def _convert(eqn: Any, value: Any) -> Any:
    new = _wide(eqn.params["new_dtype"])
    if value.dtype == new:
        return value
    if value.dtype.kind == "f":  # as XLA does it: saturating, NaN to 0
        return np.asarray(lax.convert_element_type(value, new))
    return value.astype(new)


def _wide(dtype: Any) -> Any:
    if dtype is None or jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype(np.complex128)
    return np.dtype(np.float64) if jnp.issubdtype(dtype, jnp.floating) else dtype
