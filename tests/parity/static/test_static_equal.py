"""Pairs of functions that are proved equal, and pairs that are not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from static_cases import Fn, prove


def scanned(swap: bool, order: bool = False, reverse: bool = False) -> Fn:
    """A scan of two carries; `swap` exchanges their updates, `order` their places."""

    def fn(x: Any, y: Any) -> Any:
        def body(carry: Any, item: Any) -> Any:
            a, b = carry[::-1] if order else carry
            a, b = jnp.sin(a) + item, jnp.cos(b) * a
            if swap:
                a, b = b, a
            return ((b, a) if order else (a, b)), a

        first = (y, x) if order else (x, y)
        (a, b), rows = lax.scan(body, first, jnp.stack([x, y]), reverse=reverse)
        return {"a": b if order else a, "rows": rows}

    return fn


def accumulated(first: int) -> Fn:
    """Carries that start alike and are told apart by their updates alone."""

    def fn(x: Any, y: Any) -> Any:
        def body(carry: Any, item: Any) -> Any:
            a, b, c = carry
            new = (a + item, b + jnp.sin(item), c + a * b)
            return tuple(new[(k + first) % 3] for k in range(3)), None

        def rotated(carry: Any, item: Any) -> Any:
            back = tuple(carry[(k - first) % 3] for k in range(3))
            return body(back, item)

        zero = jnp.zeros_like(x)
        out, _ = lax.scan(rotated, (zero, zero, zero), jnp.stack([x, y, x]))
        return out[(0 - first) % 3] + 2 * out[(2 - first) % 3]

    return fn


@jax.custom_vjp
def plain(x: Any) -> Any:
    return jnp.sin(x)


@jax.custom_vjp
def clipped(x: Any) -> Any:
    return jnp.sin(x)


plain.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))


clipped.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.clip(g, -1, 1) * jnp.cos(x),))


def loop(limit: int, step: float = 1.0) -> Fn:
    def fn(x: Any, y: Any) -> Any:
        return lax.while_loop(
            lambda s: s[0] < limit, lambda s: (s[0] + 1, s[1] * y + step), (0, x)
        )[1]

    return fn


EQUAL: dict[str, tuple[Fn, Fn]] = {
    "calls are inlined": (lambda x, y: x @ y, jax.jit(lambda x, y: jax.jit(jnp.matmul)(x, y))),
    "sums in any order": (lambda x, y: x + y, lambda x, y: y + x),
    "comparisons turned round": (lambda x, y: x > y, lambda x, y: y < x),
    "no-ops": (
        lambda x, y: x * y,
        lambda x, y: (x.reshape(16).reshape(4, 4) * y.T.T).astype(jnp.float32)[None][0],
    ),
    "broadcast scalars": (lambda x, y: x + 1.0, lambda x, y: x + jnp.ones_like(x)),
    "squares": (lambda x, y: x**2, lambda x, y: x * x),
    "remat": (jax.checkpoint(lambda x, y: jnp.sin(x @ y)), lambda x, y: jnp.sin(x @ y)),
    "order of carries": (scanned(False), scanned(False, order=True)),
    "carries that start alike": (accumulated(0), accumulated(1)),
    "carries that start alike, further": (accumulated(0), accumulated(2)),
    "a carry that never changes": (
        lambda x, y: lax.scan(lambda c, _: (jnp.sin(c) * y, None), x, length=3)[0],
        lambda x, y: lax.scan(lambda c, _: ((jnp.sin(c[0]) * c[1], c[1]), None), (x, y), length=3)[
            0
        ][0],
    ),
    "signed and unsigned counters": (
        lambda x, y: x.astype(jnp.int32) + 1,
        lambda x, y: (x.astype(jnp.int32).astype(jnp.uint32) + 1).astype(jnp.int32),
    ),
    "branches that agree": (
        lambda x, y: jnp.sin(x),
        lambda x, y: lax.cond(y[0, 0] > 0, lambda: jnp.sin(x), lambda: jnp.sin(x)),
    ),
    "while loops": (loop(3), loop(3)),
    "values of other custom rules": (lambda x, y: plain(x), lambda x, y: clipped(x)),
}


DIFFERENT: dict[str, tuple[Fn, Fn]] = {
    "another literal": (lambda x, y: x + 1.0, lambda x, y: x + 1.5),
    "minus zero": (lambda x, y: x * 0.0, lambda x, y: x * -0.0),
    "the larger of 0 and -0": (lambda x, y: jnp.maximum(x, y), lambda x, y: jnp.maximum(y, x)),
    "order of a difference": (lambda x, y: x - y, lambda x, y: y - x),
    "order of a product of matrices": (lambda x, y: x @ y, lambda x, y: y @ x),
    "transposed": (lambda x, y: x @ y, lambda x, y: x @ y.T),
    "broadcast along the other axis": (
        lambda x, y: x + y[0][None, :],
        lambda x, y: x + y[0][:, None],
    ),
    "a cast": (lambda x, y: x + y, lambda x, y: (x.astype(jnp.bfloat16) + y).astype(jnp.float32)),
    "there and back": (
        lambda x, y: x,
        lambda x, y: x.astype(jnp.bfloat16).astype(jnp.float32),
    ),
    "swapped carries": (scanned(False), scanned(True)),
    "reversed scan": (scanned(False), scanned(False, reverse=True)),
    "swapped branches": (
        lambda x, y: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, y),
        lambda x, y: lax.cond(x[0, 0] > 0, jnp.cos, jnp.sin, y),
    ),
    "the other condition": (
        lambda x, y: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, y),
        lambda x, y: lax.cond(y[0, 0] > 0, jnp.sin, jnp.cos, y),
    ),
    "the end of a while loop": (loop(3), loop(4)),
    "the step of a while loop": (loop(3), loop(3, 2.0)),
    "axis of a sum": (lambda x, y: x.sum(0), lambda x, y: x.sum(1)),
    "precision": (
        lambda x, y: jnp.matmul(x, y),
        lambda x, y: jnp.matmul(x, y, precision="highest"),
    ),
    "signed and unsigned comparison": (
        lambda x, y: x.astype(jnp.int32) < y.astype(jnp.int32),
        lambda x, y: (
            x.astype(jnp.int32).astype(jnp.uint32) < y.astype(jnp.int32).astype(jnp.uint32)
        ),
    ),
    "signed and unsigned division": (
        lambda x, y: x.astype(jnp.int32) // 3,
        lambda x, y: (x.astype(jnp.int32).astype(jnp.uint32) // 3).astype(jnp.int32),
    ),
    "slices of the wrong operand": (
        lambda x, y: lax.scan(lambda c, r: (c + r, None), x[0], y)[0],
        lambda x, y: lax.scan(lambda c, r: (c + r, None), y[0], x)[0],
    ),
    "stale carry": (
        lambda x, y: lax.scan(lambda c, r: (c + r, c + r), x[0], y)[1],
        lambda x, y: lax.scan(lambda c, r: (c + r, c), x[0], y)[1],
    ),
    "constants of an array": (
        lambda x, y: x + np.arange(16.0, dtype=np.float32).reshape(4, 4),
        lambda x, y: x + np.arange(16.0, dtype=np.float32).reshape(4, 4).T,
    ),
    "gradients of other custom rules": (
        jax.grad(lambda x, y: plain(x).sum()),
        jax.grad(lambda x, y: clipped(x).sum()),
    ),
    "a stopped gradient": (
        jax.grad(lambda x, y: (x * jnp.sin(x)).sum()),
        jax.grad(lambda x, y: (x * jnp.sin(lax.stop_gradient(x))).sum()),
    ),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal(name: str) -> None:
    proof = prove(*EQUAL[name])
    assert proof, proof.summary


@pytest.mark.parametrize("name", DIFFERENT)
def test_different(name: str) -> None:
    control, candidate = DIFFERENT[name]
    assert not prove(control, candidate)
    assert not prove(candidate, control)
    assert prove(control, control), "the negative control: each is itself"
    assert prove(candidate, candidate)
