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
from maxmig.parity.findings.check import Verdict
from maxmig.parity.reports.report import Report

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


# ------------------------------------------------------------------- branches and weights


class LinenExpert(nn.Module):
    """A second layer that only inputs with a large sum reach."""

    factor: float = 2.0

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(), (8,))
        rare = self.param("rare", nn.initializers.normal(), (8,))
        return x * w + lax.cond(x.sum() > 1e6, lambda: self.factor * x * rare, lambda: x)


class Expert(nnx.Module):
    def __init__(self, branch: Any, scale: Fn = lambda x: x):
        self.w, self.rare = nnx.Param(jnp.ones(8)), nnx.Param(jnp.ones(8))
        self.branch, self.scale = branch, scale

    def __call__(self, x):
        taken = lambda: self.branch(x, self.rare[...])  # noqa: E731
        y = x * self.w[...] + lax.cond(x.sum() > 1e6, taken, lambda: x)
        return self.scale(y)


def expert(branch: Any, x: Any = None, levels: Any = ("L0", "L1", "L2"), **more: Any) -> Report:
    given = zoo.normal(4, 8) if x is None else x
    return pairs.run(pairs.Pair(LinenExpert(), Expert(branch, **more), (given,)), levels=levels)


def test_a_branch_that_is_not_taken_but_proved_passes_and_says_so() -> None:
    found = expert(lambda x, w: 2.0 * x * w)
    assert found, found.summary
    told = found.check("outputs (call)", "semantic").told
    assert "not reached, but proved by L0" in told
    assert found.check("outputs (call)", "semantic").verdict is Verdict.PASS


def test_a_branch_that_is_not_taken_and_not_proved_is_no_pass() -> None:
    found = expert(lambda x, w: jnp.sin(3.0 * x * w))  # another thing altogether
    assert found.check("outputs").exact and found.verdict is Verdict.INCONCLUSIVE
    doubts = " ".join(found.doubts)
    assert "do not reach" in doubts and "not proved" in doubts and "params/rare" in doubts
    # Inputs that take it tell.
    found = expert(lambda x, w: jnp.sin(3.0 * x * w), x=1e6 + abs(zoo.normal(4, 8)))
    assert found.verdict is Verdict.FAIL


def test_a_weight_that_no_input_reaches_needs_the_proof() -> None:
    found = expert(lambda x, w: 2.0 * x * w, levels=("L2",))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert any("params/rare: moving it moves nothing" in doubt for doubt in found.doubts)
