"""The common primitives in NumPy, in float64.

Small models have many small equations: NumPy needs no compilation for them, and is a witness of its
own. What is not here goes through JAX.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
Rule = Callable[[Any, Sequence[Any]], list[Any] | None]


def apply(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    """The results of an equation; None where there is no rule for it."""
    if not all(isinstance(x, np.ndarray | np.generic) for x in ins):
        return None  # random keys
    rule = RULES.get(eqn.primitive.name)
    if rule is None:
        return None
    with np.errstate(all="ignore"):
        return rule(eqn, ins)


def _each(function: Callable[..., Any], kinds: str = "fciub") -> Rule:
    """An elementwise function of operands of these kinds."""

    def rule(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
        if any(x.dtype.kind not in kinds for x in ins):
            return None
        return [np.asarray(function(*ins))]

    return rule


def _special(name: str) -> Rule:
    def function(x: Array) -> Array:
        from scipy import special

        return np.asarray(getattr(special, name)(x))

    return _each(function, "f")


def _reduce(function: Callable[..., Any]) -> Rule:
    def rule(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
        if not ins[0].size:
            return None
        kept = {"dtype": ins[0].dtype} if function in (np.sum, np.prod) else {}
        return [np.asarray(function(ins[0], axis=tuple(eqn.params["axes"]), **kept))]

    return rule


def _integer_pow(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    x, y = ins[0], eqn.params["y"]
    return [np.asarray(x**y)] if x.dtype.kind == "f" else None


def _select(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    which, *cases = ins
    if which.dtype.kind != "b" or len(cases) != 2:
        return None
    return [np.where(which, cases[1], cases[0])]


def _clamp(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    low, x, high = ins
    return [np.asarray(np.minimum(np.maximum(x, low), high))]


def _reshape(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    if eqn.params.get("dimensions") is not None:
        return None
    return [np.reshape(ins[0], eqn.outvars[0].aval.shape)]


def _broadcast(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    x, shape = ins[0], tuple(eqn.params["shape"])
    if len(ins) != 1:
        return None
    wide = [1] * len(shape)
    for axis, size in zip(eqn.params["broadcast_dimensions"], x.shape, strict=True):
        wide[axis] = size
    return [np.broadcast_to(np.reshape(x, wide), shape)]


def _transpose(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    return [np.transpose(ins[0], eqn.params["permutation"])]


def _slice(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    p = eqn.params
    strides = p["strides"] or (1,) * ins[0].ndim
    at = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    return [ins[0][tuple(slice(*each) for each in at)]]


def _concatenate(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    return [np.concatenate(ins, axis=eqn.params["dimension"])]


def _split(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    borders = np.cumsum(eqn.params["sizes"])[:-1]
    return list(np.split(ins[0], borders, axis=eqn.params["axis"]))


def _rev(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    return [np.flip(ins[0], tuple(eqn.params["dimensions"]))]


def _iota(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    p = eqn.params
    dtype = np.dtype(p["dtype"])
    if ins or dtype.kind not in "iuf":
        return None
    axis, shape = p["dimension"], p["shape"]
    wide = [shape[axis] if i == axis else 1 for i in range(len(shape))]
    kind = np.float64 if dtype.kind == "f" else dtype
    return [np.broadcast_to(np.arange(shape[axis], dtype=kind).reshape(wide), shape)]


def _start(x: Any, starts: Sequence[Any], sizes: Sequence[int]) -> tuple[slice, ...]:
    at = []
    for size, start, total in zip(sizes, starts, x.shape, strict=True):
        first = min(max(int(start), 0), total - size)
        at.append(slice(first, first + size))
    return tuple(at)


def _dynamic_slice(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    x, *starts = ins
    if len(starts) != x.ndim:
        return None
    return [x[_start(x, starts, eqn.params["slice_sizes"])]]


def _dynamic_update_slice(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    x, update, *starts = ins
    if len(starts) != x.ndim:
        return None
    changed = np.array(x)
    changed[_start(x, starts, update.shape)] = update
    return [changed]


def _dot_general(eqn: Any, ins: Sequence[Any]) -> list[Any] | None:
    x, y = ins
    if x.dtype.kind != "f" or y.dtype.kind != "f":
        return None
    (cx, cy), (bx, by) = eqn.params["dimension_numbers"]
    fx = [a for a in range(x.ndim) if a not in (*cx, *bx)]
    fy = [a for a in range(y.ndim) if a not in (*cy, *by)]
    sizes = [tuple(v.shape[a] for a in axes) for v, axes in ((x, bx), (x, fx), (x, cx), (y, fy))]
    batch, rows, inner, cols = sizes
    b, k = math.prod(batch), math.prod(inner)
    left = np.transpose(x, (*bx, *fx, *cx)).reshape(b, math.prod(rows), k)
    right = np.transpose(y, (*by, *cy, *fy)).reshape(b, k, math.prod(cols))
    return [np.matmul(left, right).reshape(*batch, *rows, *cols)]


def _invert(x: Array) -> Array:
    return np.asarray(np.logical_not(x) if x.dtype.kind == "b" else np.invert(x))


RULES: dict[str, Rule] = {
    "add": _each(np.add, "fciu"),
    "add_any": _each(np.add, "fciu"),
    "sub": _each(np.subtract, "fciu"),
    "mul": _each(np.multiply, "fciu"),
    "div": _each(np.divide, "fc"),
    "max": _each(np.maximum, "fiu"),
    "min": _each(np.minimum, "fiu"),
    "pow": _each(np.power, "f"),
    "atan2": _each(np.arctan2, "f"),
    "neg": _each(np.negative, "fci"),
    "abs": _each(np.abs, "f"),
    "sign": _each(np.sign, "f"),
    "floor": _each(np.floor, "f"),
    "ceil": _each(np.ceil, "f"),
    "exp": _each(np.exp, "f"),
    "exp2": _each(np.exp2, "f"),
    "expm1": _each(np.expm1, "f"),
    "log": _each(np.log, "f"),
    "log1p": _each(np.log1p, "f"),
    "sin": _each(np.sin, "f"),
    "cos": _each(np.cos, "f"),
    "tan": _each(np.tan, "f"),
    "tanh": _each(np.tanh, "f"),
    "sqrt": _each(np.sqrt, "f"),
    "rsqrt": _each(lambda x: 1.0 / np.sqrt(x), "f"),
    "cbrt": _each(np.cbrt, "f"),
    "square": _each(np.square, "fc"),
    "one_minus_square": _each(lambda x: 1.0 - np.square(x), "f"),
    "logistic": _special("expit"),
    "erf": _special("erf"),
    "erfc": _special("erfc"),
    "lgamma": _special("gammaln"),
    "is_finite": _each(np.isfinite, "f"),
    "integer_pow": _integer_pow,
    "and": _each(np.bitwise_and, "biu"),
    "or": _each(np.bitwise_or, "biu"),
    "xor": _each(np.bitwise_xor, "biu"),
    "not": _each(_invert, "biu"),
    "eq": _each(np.equal),
    "ne": _each(np.not_equal),
    "lt": _each(np.less, "fiub"),
    "le": _each(np.less_equal, "fiub"),
    "gt": _each(np.greater, "fiub"),
    "ge": _each(np.greater_equal, "fiub"),
    "select_n": _select,
    "clamp": _clamp,
    "reshape": _reshape,
    "squeeze": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "slice": _slice,
    "concatenate": _concatenate,
    "split": _split,
    "rev": _rev,
    "iota": _iota,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "dot_general": _dot_general,
    "reduce_sum": _reduce(np.sum),
    "reduce_prod": _reduce(np.prod),
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    "reduce_and": _reduce(np.all),
    "reduce_or": _reduce(np.any),
}
