"""Random inputs beside those that a pair has: ones, zeros or one sample hide what they share."""

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxmig import errors
from maxmig.parity.findings.check import Check
from maxmig.parity.findings.subject import Input
from maxmig.parity.pairs.compute import STEP, Computation

Flat = dict[str, Any]
SUFFIX = "random"

OFF = "Pair(random_inputs=False)"


@dataclasses.dataclass(frozen=True)
class Draw:
    """Random inputs for one mode.

    Attributes:
        inputs: all inputs, with those that were drawn in place of the given ones; None if none
            could be.
        why: what they are, or why there are none.
    """

    inputs: Flat | None
    why: str


def of(c: Computation, names: Sequence[str]) -> Draw:
    """Inputs of the given shapes and types for which the control gives numbers.

    Floats are drawn anew, whole numbers within the range of the given ones. Masks stay: booleans,
    arrays of two values, and what has `mask` in its name; so do random keys and single integers.

    Args:
        c: the computation.
        names: of its programs, all of which must give numbers.
    """
    if not c.pair.random_inputs:
        return Draw(None, f"no random inputs: {OFF}")
    if c.own_inputs:
        return Draw(None, "no random inputs: the NNX module has inputs of its own")
    given = c.given[0].values
    changed: dict[str, None] = {}
    for drawn in _attempts(given, c.pair.seed):
        changed |= dict.fromkeys(drawn)
        if drawn and _usable(c, names, flat := c.inputs | drawn):
            told = ", ".join(p.removeprefix("inputs/") for p in drawn)
            return Draw(flat, f"drawn at random: {told}")
    if not changed:
        return Draw(None, "")
    told = ", ".join(path.removeprefix("inputs/") for path in changed)
    return Draw(
        None,
        f"random inputs ({told}) are left out: the control gives NaN or infinity for them, or "
        "raises; what was compared holds for the given inputs",
    )


def constant(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The given inputs, if each is one number throughout."""
    arrays = {p: _host(x) for p, x in given.items() if _is_number(x) and x.size > 1}
    flat = [path for path, x in arrays.items() if bool((x == x.flat[0]).all())]
    return tuple(flat) if len(flat) == len(arrays) else ()


def described(
    draws: Mapping[str, Draw], given: Sequence[Input], checks: Sequence[Check]
) -> tuple[Input, ...]:
    """The random inputs as a report tells them, if any of what was compared ran on them."""
    items = {m.item for check in checks for m in check.measurements}
    ran = any(item.endswith(f" {SUFFIX}") for item in items)
    if not ran and not any(check.name.endswith(f" {SUFFIX} inputs") for check in checks):
        return ()
    found = (draw.why for draw in draws.values() if draw.inputs is not None)
    return tuple(
        dataclasses.replace(given[0], name=SUFFIX, source=why) for why in dict.fromkeys(found)
    )


def notes(draws: Mapping[str, Draw], checks: Sequence[Check]) -> tuple[str, ...]:
    """Why there are no random inputs; or that nothing else shows a difference."""
    told = [draw.why for draw in draws.values() if draw.inputs is None]
    failed = [m for c in checks if c.level == "native" for m in c.failures]
    if failed and all(m.item.endswith(f" {SUFFIX}") for m in failed):
        told.append(
            f"only random inputs show the difference; if none but the given are valid, say {OFF}"
        )
    return tuple(dict.fromkeys(text for text in told if text))


def _attempts(given: Mapping[str, jax.Array], seed: int) -> Iterator[Flat]:
    """All numbers anew; then floats from 0 to 1 alone, for controls that take no others."""
    yield _all(given, seed, lambda path, x, rng: _floats(x, rng))
    yield _all(
        {path: x for path, x in given.items() if jnp.issubdtype(x.dtype, jnp.floating)},
        seed,
        lambda path, x, rng: rng.uniform(0.0, 1.0, x.shape),
    )


def _all(
    given: Mapping[str, jax.Array],
    seed: int,
    floats: Callable[[str, np.ndarray, np.random.Generator], np.ndarray],
) -> Flat:
    found: Flat = {}
    for path, leaf in given.items():
        if not _is_number(leaf) or not leaf.size or "mask" in path.lower():
            continue
        x = _host(leaf)
        rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
        whole = not jnp.issubdtype(leaf.dtype, jnp.floating)
        if whole and leaf.size == 1:
            continue  # a length, a step
        low, high = x.min(), x.max()
        two = low != high and leaf.size > 2 and bool(((x == low) | (x == high)).all())
        if two and (not whole or (low, high) == (0, 1)):
            continue  # a mask
        if whole:
            top = int(high) if low != high else max(int(high), 1)
            drawn = rng.integers(min(int(low), 0) if low == high else int(low), top + 1, x.shape)
        else:
            drawn = floats(path, x, rng)
        found[path] = jnp.asarray(drawn, leaf.dtype)
    return found


def _floats(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of the given numbers' size; none below zero where none of them, in all their variety, is."""
    if not np.isfinite(x).all() or bool((x == x.flat[0]).all()):
        return rng.standard_normal(x.shape)
    if x.min() >= 0:
        return rng.uniform(float(x.min()), float(x.max()), x.shape)
    return float(x.mean()) + float(x.std()) * rng.standard_normal(x.shape)


def _usable(c: Computation, names: Sequence[str], flat: Flat) -> bool:
    """Whether the control gives numbers wherever it does so for the given inputs."""
    for name in (n for n in names if n != STEP):
        run = c.compiled(name, 0)
        try:
            before, after = run(), run(flat)
        except (errors.MaxmigError, jax.errors.JaxRuntimeError):
            return False
        for path, leaf in after.items():
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                bad = not np.isfinite(_host(leaf)).all()
                if bad and np.isfinite(_host(before[path])).all():
                    return False
    return True


def _is_number(leaf: Any) -> bool:
    kinds = (jnp.floating, jnp.integer)
    return any(jnp.issubdtype(leaf.dtype, kind) for kind in kinds)


def _host(leaf: Any) -> np.ndarray:
    x = np.asarray(leaf)
    return x.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else x
