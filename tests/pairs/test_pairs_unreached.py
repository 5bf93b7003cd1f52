"""Equal numbers of programs that are not the same: what the inputs do not reach."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pairs_zoo as zoo
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

from maxmig.parity import pairs
from maxmig.parity.report import Report
from maxmig.parity.results import Verdict

Fn = Callable[[Any], Any]


class LinenLayer(nn.Module):
    after: Fn

    @nn.compact
    def __call__(self, x):
        return self.after(nn.Dense(8)(x))


class Layer(nnx.Module):
    def __init__(self, after: Fn, *, rngs: nnx.Rngs):
        self.dense, self.after = nnx.Linear(8, 8, rngs=rngs), after

    def __call__(self, x):
        return self.after(self.dense(x))


def report(control: Fn, candidate: Fn) -> Report:
    def pair():
        return LinenLayer(control), Layer(candidate, rngs=nnx.Rngs(0)), (zoo.normal(4, 8),)

    return pairs.run(pair)


def clip(bound: float) -> Fn:
    return lambda x: jnp.clip(x, -bound, bound)


def masked(value: float) -> Fn:
    return lambda x: jax.nn.softmax(jnp.where(jnp.arange(8) < 5, x, value))


def ordered(stable: bool) -> Fn:
    return lambda x: x[jnp.argsort(x[:, 0], stable=stable)]


def repeated(bound: int) -> Fn:
    def going(carry: Any) -> Any:
        return (carry[1] < bound) & (jnp.abs(carry[0]).max() < 1e2)

    return lambda x: (
        x + lax.while_loop(going, lambda c: (c[0] * 4, c[1] + 1), (lax.stop_gradient(x), 0))[0]
    )


@pytest.mark.parametrize(
    ("control", "candidate", "told"),
    [
        (clip(20), clip(30), "20 against 30"),
        (masked(-1e9), masked(-1e30), "-1000000000.0 against -1e+30"),
        (ordered(True), ordered(False), "is_stable True against False"),
        (repeated(10), repeated(20), "constant 10 against 20"),
    ],
    ids=["clip", "mask", "stable", "bound"],
)
def test_another_number_that_no_input_reaches_is_no_pass(
    control: Fn, candidate: Fn, told: str
) -> None:
    found = report(control, candidate)
    assert found.verdict is Verdict.INCONCLUSIVE
    (doubt,) = found.doubts
    assert told in doubt and "test_pairs_unreached.py:" in doubt and "inputs" in doubt


def test_the_same_numbers_pass() -> None:
    found = report(clip(20), clip(20))
    assert found and not found.doubts and not found.notes


def test_the_same_in_other_words_passes_with_a_note() -> None:
    found = report(lambda x: x / 2, lambda x: x * 0.5)
    assert found and not found.doubts
    assert any("not proved for all" in note for note in found.notes)
