"""A proof must never be wrong: change any equation, and it must break.

Every equation of a program, at any depth, is changed in every way that the program has room for:
its primitive, each parameter, its literals, its operands, its effects. Dead equations are removed
first, so each change matters.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core
from jax.interpreters import partial_eval

from maxmig import config
from maxmig.parity import programs, static
from maxmig.parity.programs import Program

Path = tuple[tuple[int, str, int], ...]  # (equation, parameter, which of its jaxprs) downwards

# Parameters that say what the types of the operands and results say too, or only hint.
REDUNDANT = {
    "reshape": {"new_sizes"},
    "squeeze": {"dimensions"},
    "broadcast_in_dim": {"shape"},
    "iota": {"shape", "dtype"},
    "convert_element_type": {"new_dtype", "weak_type"},
    "slice": {"limit_indices"},
    "random_bits": {"shape"},
    "tile": {"reps"},
    "scan": {"unroll", "num_consts", "num_carry", "linear", "_split_transpose"},
    "while": {"cond_nconsts", "body_nconsts"},
    "cond": set(),
    "name": {"name"},
}
CALLS = {
    "jit",
    "checkpoint",
    "remat2",
    "remat",
    "closed_call",
    "custom_jvp_call",
    "custom_vjp_call",
}
OTHER = {
    "add": lax.sub_p,
    "add_any": lax.sub_p,
    "sub": lax.add_p,
    "mul": lax.add_p,
    "div": lax.mul_p,
    "max": lax.min_p,
    "min": lax.max_p,
    "exp": lax.log_p,
    "log": lax.exp_p,
    "sin": lax.cos_p,
    "cos": lax.sin_p,
    "tanh": lax.exp_p,
    "rsqrt": lax.sqrt_p,
    "lt": lax.le_p,
    "le": lax.lt_p,
    "gt": lax.ge_p,
    "ge": lax.gt_p,
    "eq": lax.ne_p,
    "and": lax.or_p,
    "or": lax.and_p,
    "neg": lax.abs_p,
    "logistic": lax.tanh_p,
    "reduce_sum": lax.reduce_max_p,
    "reduce_max": lax.reduce_sum_p,
    "cumsum": lax.cummax_p,
}
COMMUTATIVE = {"add", "mul", "and", "or", "eq", "ne", "add_any"}


class Disturbing(jax._src.effects.Effect):  # type: ignore[name-defined,misc]
    """An effect that nobody knows."""


def everything(flat: dict[str, Any]) -> dict[str, Any]:
    """A bit of all: loops, branches, calls, gathers, random numbers, integers."""
    x, y, i, key = flat["x"], flat["y"], flat["i"], flat["key"]

    @jax.checkpoint
    def step(carry: Any, item: Any) -> Any:
        a, b, n = carry
        a = jnp.tanh(a @ item) + 0.5 * b
        b = jnp.where(a > b, a, b - 1.5)
        return (b, a * 2.0, n + i), (jnp.sum(a, axis=0), n)

    (a, b, n), (sums, counts) = lax.scan(step, (x, y, i), jnp.stack([x, y, x * y]))
    c = lax.cond(n > 3, lambda: jnp.sort(a, axis=1), lambda: jnp.cumsum(b, axis=1))
    d = lax.while_loop(lambda s: s[1] < n, lambda s: (s[0] * 0.5 + c, s[1] + 2), (a, i))
    e = jax.nn.silu(jnp.take(b, counts % 4, axis=0)) + jax.random.normal(key, (3, 4))
    f = jax.nn.relu(lax.dynamic_slice(d[0], (i, 0), (2, 4)))
    g = jnp.einsum("ab,cb->ac", sums, f.T.reshape(2, 4)[::-1])
    h = jax.nn.softmax(c.at[counts, 1].add(2.0), axis=-1).astype(jnp.bfloat16)
    return {"e": jnp.exp(e), "g": g, "h": h, "n": n - d[1]}


@functools.cache
def program(name: str) -> Program:
    """A program without dead equations."""
    if name == "everything":
        square = jax.ShapeDtypeStruct((4, 4), jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        shapes = {"x": square, "y": square, "i": jax.ShapeDtypeStruct((), jnp.int32), "key": key}
        return live(programs.trace(name, everything, shapes))
    if name == "gradient":
        square = jax.ShapeDtypeStruct((4, 4), jnp.float32)

        def loss(x: Any, y: Any) -> Any:
            out = everything({"x": x, "y": y, "i": 1, "key": jax.random.key(1)})
            return sum(jnp.sum(v.astype(jnp.float32)) for v in out.values())

        def gradient(flat: dict[str, Any]) -> dict[str, Any]:
            # A while loop has no reverse derivative: forward mode goes through all of it.
            return {"d": jax.jvp(loss, (flat["x"], flat["y"]), (flat["y"], flat["x"]))[1]}

        return live(programs.trace(name, gradient, {"x": square, "y": square}))
    cfg = config.load("tiny_llama2", []).replace(max_target_length=8, remat_policy="minimal")
    return live(programs.of_rung(cfg, "nnx", only=["train_step"])["train_step"])


def live(given: Program) -> Program:
    """The program without equations that nothing uses."""
    inner, consts = opened(given.jaxpr)
    kept, _ = partial_eval.dce_jaxpr(inner, [True] * len(inner.outvars), instantiate=True)
    return dataclasses.replace(given, jaxpr=core.ClosedJaxpr(kept, consts))


def opened(jaxpr: Any) -> tuple[Any, list[Any]]:
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


def equations(jaxpr: Any, path: Path = ()) -> Iterator[tuple[Path, int, Any]]:
    """Every equation at any depth: the way to its jaxpr, its index, itself."""
    inner, _ = opened(jaxpr)
    for index, eqn in enumerate(inner.eqns):
        yield path, index, eqn
        for name, which, sub in subjaxprs(eqn):
            yield from equations(sub, (*path, (index, name, which)))


def subjaxprs(eqn: Any) -> Iterator[tuple[str, int, Any]]:
    for name, value in eqn.params.items():
        if name in ("update_jaxpr", "jvp_jaxpr_fun"):
            continue
        for which, sub in enumerate(value if isinstance(value, tuple) else (value,)):
            if hasattr(sub, "eqns") or hasattr(sub, "jaxpr"):
                yield name, which, sub


def rebuilt(jaxpr: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """The jaxpr with the open jaxpr at the end of the path changed."""
    inner, consts = opened(jaxpr)
    if path:
        (index, name, which), *rest = path
        eqn = inner.eqns[index]
        value = eqn.params[name]
        if isinstance(value, tuple):
            changed: Any = tuple(
                rebuilt(sub, tuple(rest), change) if k == which else sub
                for k, sub in enumerate(value)
            )
        else:
            changed = rebuilt(value, tuple(rest), change)
        eqns = list(inner.eqns)
        eqns[index] = eqn.replace(params={**eqn.params, name: changed})
        inner = inner.replace(eqns=eqns)
    else:
        inner = change(inner)
    return core.ClosedJaxpr(inner, consts) if hasattr(jaxpr, "jaxpr") else inner


def mutations(jaxpr: Any, index: int, eqn: Any) -> Iterator[tuple[str, Any]]:
    """(what is changed, the equation with it changed)."""
    name = eqn.primitive.name
    yield "effect", eqn.replace(effects={Disturbing()})
    if name in OTHER:
        yield "primitive", eqn.replace(primitive=OTHER[name])
    for k, atom in enumerate(eqn.invars):
        if isinstance(atom, core.Literal) and name not in CALLS:
            value = atom.val + 1 if np.isfinite(atom.val) else 0
            other = core.Literal(np.asarray(value, atom.aval.dtype), atom.aval)
            yield f"literal {k}", eqn.replace(invars=swapped_in(eqn.invars, k, other))
    for k, m in ((0, 1), (1, 2)):
        if name in CALLS or name in COMMUTATIVE or len(eqn.invars) <= m:
            continue
        one, two = eqn.invars[k], eqn.invars[m]
        if one is not two and alike(one, two) and not same_literal(one, two):
            invars = swapped_in(swapped_in(eqn.invars, k, two), m, one)
            yield f"operands {k} and {m}", eqn.replace(invars=invars)
    if name in CALLS:
        return
    redundant = REDUNDANT.get(name, set())
    for key, value in eqn.params.items():
        if key in redundant or any(key == n for n, _, _ in subjaxprs(eqn)):
            continue
        if name == "broadcast_in_dim" and eqn.invars[0].aval.size in (1, eqn.outvars[0].aval.size):
            continue
        for other in others(value):
            yield f"{key} {value} to {other}", eqn.replace(params={**eqn.params, key: other})


def swapped_in(atoms: Any, index: int, other: Any) -> list[Any]:
    return [other if k == index else atom for k, atom in enumerate(atoms)]


def alike(one: Any, two: Any) -> bool:
    return (one.aval.shape, one.aval.dtype) == (two.aval.shape, two.aval.dtype)


def same_literal(one: Any, two: Any) -> bool:
    both = isinstance(one, core.Literal) and isinstance(two, core.Literal)
    return both and np.array_equal(one.val, two.val)


def others(value: Any) -> Iterator[Any]:
    """Other values of a parameter's kind."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, enum.Enum):
        yield next(v for v in type(value) if v is not value)
    elif isinstance(value, int | float | np.integer):
        yield value + 1 if np.isfinite(value) else 0.0
    elif isinstance(value, str):
        yield value + "x"
    elif isinstance(value, np.dtype):
        yield np.dtype("float64" if value != np.dtype("float64") else "float32")
    elif isinstance(value, tuple) and len(set(value)) > 1 and all(type(v) is int for v in value):
        k = next(k for k in range(len(value)) if value[k] != value[0])
        changed = list(value)
        changed[0], changed[k] = changed[k], changed[0]  # +1 could leave the range
        yield tuple(changed)
    elif isinstance(value, tuple) and value:
        for k, item in enumerate(value):
            for other in others(item):
                changed = [*value[:k], other, *value[k + 1 :]]
                yield type(value)(*changed) if hasattr(value, "_fields") else tuple(changed)
                break
            else:
                continue
            break
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            for other in others(getattr(value, field.name)):
                yield dataclasses.replace(value, **{field.name: other})
                break


def mutants(given: Program) -> Iterator[tuple[str, Program]]:
    """Every program that differs from `given` in one place."""
    for path, index, eqn in equations(given.jaxpr):
        for what, changed in mutations(given.jaxpr, index, eqn):

            def change(inner: Any, index: int = index, changed: Any = changed) -> Any:
                eqns = list(inner.eqns)
                eqns[index] = changed
                return inner.replace(eqns=eqns)

            jaxpr = rebuilt(given.jaxpr, path, change)
            where = f"{'/'.join(n for _, n, _ in path)}[{index}] {eqn.primitive.name}: {what}"
            yield where, dataclasses.replace(given, jaxpr=jaxpr)


@pytest.mark.parametrize(("name", "least"), [("everything", 200), ("gradient", 300)])
def test_every_change_breaks_the_proof(name: str, least: int) -> None:
    given = program(name)
    assert static.prove(given, given), "the unchanged program must be proved"
    survived, count = [], 0
    prints = static.fingerprints(given)
    for where, mutant in mutants(given):
        count += 1
        if static.fingerprints(mutant) == prints:
            survived.append(where)
    assert not survived, f"{len(survived)} of {count} changes were not seen: {survived[:10]}"
    assert count >= least


def test_changes_of_a_train_step_break_the_proof() -> None:
    given = program("train_step")
    prints = static.fingerprints(given)
    everything = list(mutants(given))
    assert len(everything) > 1500
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(everything), 120, replace=False)
    survived = [everything[k][0] for k in chosen if static.fingerprints(everything[k][1]) == prints]
    assert not survived
