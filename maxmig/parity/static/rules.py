"""Numbers of single equations: what is no operation at all, and what stands for the others."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maxmig.parity.static import encode, primitives, source
from maxmig.parity.static.encode import Number, Opaque, digest

if TYPE_CHECKING:
    from maxmig.parity.static.number import Numbering


def numbered(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> list[Number]:
    """Numbers by primitive, parameters, and the numbers and types of the operands."""
    name = eqn.primitive.name
    place, _ = source.line(eqn)
    if not primitives.is_known(eqn.primitive):
        return _opaque(n, eqn, ins, f"the primitive {name!r} at {place}")
    try:
        params = parameters(n, eqn)
    except Opaque as opaque:
        return _opaque(n, eqn, ins, f"{opaque} in {name} at {place}")
    name, ins, avals = _normal(n, name, eqn, ins)
    types = [n.type(a) for a in avals]
    results = [n.type(v.aval) for v in eqn.outvars]
    dtypes = {a.dtype for a in avals} | {v.aval.dtype for v in eqn.outvars}
    if name in primitives.MODULAR and len(dtypes) == 1:  # a wider product would keep the sign
        types, results = ([_unsigned(t) for t in ts] for ts in (types, results))
    fed = [digest(i, t) for i, t in zip(ins, types, strict=True)]
    if name in primitives.COMMUTATIVE:
        fed.sort()
    number = n.inherit(digest(name.encode(), params, *fed, b"->", *results), ins)
    if len(ins) == 1 and name in ("convert_element_type", "slice") and ins[0] in n.names:
        n.named(number, n.names[ins[0]])
    if len(results) == 1:
        return [number]
    return [n.inherit(digest(number, b"%d" % i), (number,)) for i in range(len(results))]


def parameters(n: "Numbering", eqn: Any) -> bytes:
    """The parameters that change the result.

    Raises:
        Opaque: one cannot be told by its content.
    """
    neutral = primitives.NEUTRAL.get(eqn.primitive.name, ())
    items = []
    for key in sorted(eqn.params):
        if key in neutral:
            continue
        try:
            items += [key.encode(), encode.encode(eqn.params[key], n.function)]
        except Opaque as opaque:
            raise Opaque(f"{opaque} as the parameter {key!r}") from None
    if eqn.primitive.name.startswith(primitives.RANDOM):
        items.append(b"partitionable %d" % bool(eqn.ctx.threefry_partitionable))
    return digest(*items)


def simplified(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> list[Number] | None:
    """The results, where they are operands or simple rearrangements of them; None elsewhere."""
    name = eqn.primitive.name
    if name in primitives.IDENTITIES and primitives.is_jaxs(eqn.primitive):
        return list(ins)
    rule = _RULES.get(name)
    if rule is None or not primitives.is_known(eqn.primitive):
        return None
    found = rule(n, eqn, ins)
    return None if found is None else [found]


def _opaque(n: "Numbering", eqn: Any, ins: Sequence[Number], reason: str) -> list[Number]:
    return [n.opaque(reason, ins) for _ in eqn.outvars]


def _normal(
    n: "Numbering", name: str, eqn: Any, ins: Sequence[Number]
) -> tuple[str, list[Number], list[Any]]:
    """One form for equations that mean the same."""
    name = primitives.RENAMED.get(name, name)
    ins, avals = list(ins), [v.aval for v in eqn.invars]
    if name in primitives.SWAPPED:
        name, ins, avals = primitives.SWAPPED[name], ins[::-1], avals[::-1]
    if name in primitives.ELEMENTWISE:
        shape = eqn.outvars[0].aval.shape
        for i, aval in enumerate(avals):
            if aval.shape == () and shape != ():
                count = int(np.prod(shape))
                ins[i] = n.splat(ins[i], count, aval)
                avals[i] = aval.update(shape=shape)
    return name, ins, avals


def _unsigned(kind: bytes) -> bytes:
    return kind[1:] if kind.startswith(b"uint") else kind


def _reshape(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> Number | None:
    return ins[0] if eqn.params.get("dimensions") is None and _placed_anywhere(eqn) else None


def _squeeze(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> Number | None:
    return ins[0]


def _convert(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> Number | None:
    """Conversions to the same type, or between signed and unsigned integers of one width."""
    old, new = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
    if not _placed_anywhere(eqn):
        return None
    if old == new:
        return ins[0]
    plain = isinstance(old, np.dtype) and isinstance(new, np.dtype)
    kept = plain and old.kind in "iu" and new.kind in "iu" and old.itemsize == new.itemsize
    return ins[0] if kept and old.itemsize >= 1 and "int4" not in f"{old}{new}" else None


def _broadcast(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> Number | None:
    operand, result = eqn.invars[0].aval, eqn.outvars[0].aval
    if len(eqn.invars) != 1 or not _placed_anywhere(eqn):
        return None
    count, before = int(np.prod(result.shape)), int(np.prod(operand.shape))
    if count == before:
        # Unit axes are added, or moved: the order of the elements stays if the others' order does.
        dims = [
            d
            for d, size in zip(eqn.params["broadcast_dimensions"], operand.shape, strict=True)
            if size > 1
        ]
        return ins[0] if dims == sorted(dims) else None
    if before == 1:
        return n.splat(ins[0], count, operand)
    if ins[0] in n.splats:
        return n.splat(n.splats[ins[0]], count, operand)
    pairs = zip(eqn.params["broadcast_dimensions"], operand.shape, strict=True)
    kept = [(d, size) for d, size in pairs if size > 1]
    text = f"{operand.dtype} {kept} {result.shape}"
    return n.inherit(digest(b"broadcast", ins[0], text.encode()), ins)


def _transpose(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> Number | None:
    """Permutations in one form: two in a row are one, and axes of length 1 do not count."""
    aval, order = eqn.invars[0].aval, tuple(eqn.params["permutation"])
    number, shape = ins[0], tuple(aval.shape)
    if number in n.moved and n.moved[number][2] == shape:
        number, first, _ = n.moved[number]
        shape = tuple(shape[first.index(i)] for i in range(len(first)))
        order = tuple(first[i] for i in order)
    kept = [axis for axis in order if shape[axis] != 1]
    if kept == sorted(kept) or number in n.splats:
        return number
    sizes = [size for size in shape if size != 1]
    rank = {axis: i for i, axis in enumerate(sorted(kept))}
    text = f"{aval.dtype} {sizes} {[rank[axis] for axis in kept]}"
    result = n.inherit(digest(b"transpose", number, text.encode()), (number,))
    if number in n.names:
        n.named(result, n.names[number])
    n.moved[result] = (number, order, tuple(shape[axis] for axis in order))
    return result


def _select(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> Number | None:
    same = len(set(ins[1:])) == 1 and len({n.type(v.aval) for v in eqn.invars[1:]}) == 1
    return ins[1] if same else None


def _slice(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> Number | None:
    """All of it; a dynamic slice of all of it starts at 0 wherever it is told to start."""
    return ins[0] if eqn.invars[0].aval.shape == eqn.outvars[0].aval.shape else None


def _concatenate(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> Number | None:
    return ins[0] if len(ins) == 1 else None


def _square(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> Number | None:
    """x squared is x * x: that is how JAX lowers it."""
    if eqn.params.get("y", 2) != 2 or any(k != "y" for k in eqn.params):
        return None
    kind = n.type(eqn.invars[0].aval)
    fed = digest(ins[0], kind)
    return n.inherit(digest(b"squared", fed), ins)


def _multiply(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> Number | None:
    plain = all(value is None for value in eqn.params.values())
    same = ins[0] == ins[1] and len({n.type(v.aval) for v in eqn.invars}) == 1
    return _square_of(n, eqn, ins) if plain and same else None


def _square_of(n: "Numbering", eqn: Any, ins: Sequence[Number]) -> Number:
    return n.inherit(digest(b"squared", digest(ins[0], n.type(eqn.invars[0].aval))), ins)


def _placed_anywhere(eqn: Any) -> bool:
    return eqn.params.get("sharding") is None


_RULES = {
    "reshape": _reshape,
    "squeeze": _squeeze,
    "convert_element_type": _convert,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "select_n": _select,
    "slice": _slice,
    "dynamic_slice": _slice,
    "concatenate": _concatenate,
    "square": _square,
    "integer_pow": _square,
    "mul": _multiply,
}
