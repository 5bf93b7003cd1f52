"""Differences that equal outputs hide: they must not pass, and rewrites must stay quiet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pairs_zoo as zoo
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

from maxmig import errors
from maxmig.parity import Pair, pairs
from maxmig.parity.findings.check import Verdict
from maxmig.parity.pairs import engine, later, recording
from maxmig.parity.recordings.recording import Recording
from maxmig.parity.reports.report import Report

Fn = Callable[[Any, Any, Any, Any], Any]
X = zoo.normal(3, 4)
L2 = ("L2",)


class Linen(nn.Module):
    body: Fn
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, mask=None):
        a, b = (nn.Dense(4, param_dtype=self.param_dtype, name=n) for n in "ab")
        return self.body(self, a, b, x if mask is None else x * mask)


class Nnx(nnx.Module):
    def __init__(self, body: Fn, param_dtype: Any = jnp.float32):
        rngs = nnx.Rngs(0)
        self.a, self.b = (nnx.Linear(4, 4, param_dtype=param_dtype, rngs=rngs) for _ in "ab")
        self.body = body

    def __call__(self, x, mask=None):
        return self.body(self, self.a, self.b, x if mask is None else x * mask)


def plain(module: Any, a: Any, b: Any, x: Any) -> Any:
    return b(nn.relu(a(x)))


def run(control: Fn, candidate: Fn, inputs: Any = (X,), levels: Any = L2, **more: Any) -> Report:
    return pairs.run(Pair(Linen(control), Nnx(candidate), inputs, **more), levels=levels)


# ------------------------------------------------------------------- gradients of the inputs


def test_a_gradient_that_stops_below_the_block_is_a_difference() -> None:
    found = run(plain, lambda s, a, b, x: b(nn.relu(a(lax.stop_gradient(x)))))
    assert found.verdict is Verdict.FAIL
    (failed,) = (c for c in found.checks if not c)
    assert failed.name == "input_gradients" and failed.worst and failed.worst.path == "x"


def test_a_proof_covers_the_gradients_of_the_inputs() -> None:
    found = run(plain, lambda s, a, b, x: b(nn.relu(a(lax.stop_gradient(x)))), levels=("L0",))
    proof = found.check("gradients (call)", "static").details
    assert proof.different == ("input_gradients/x",)


def test_a_loss_that_looks_at_the_inputs_gets_those_that_run() -> None:
    found = run(plain, plain, loss=lambda out, inputs: jnp.mean((out - inputs[0]) ** 2))
    assert found and found.check("input_gradients").exact
    losses = {m.values for m in found.check("loss").measurements}
    assert len(losses) == 2  # the given inputs and the random ones


# ------------------------------------------------------------------- types of the leaves


@pytest.mark.parametrize("side", [0, 1])
def test_another_type_of_parameters_fails(side: int) -> None:
    types = [jnp.float32, jnp.float32]
    types[side] = jnp.bfloat16
    found = pairs.run(Pair(Linen(plain, types[0]), Nnx(plain, types[1]), (X,)), levels=L2)
    assert found.verdict is Verdict.FAIL
    told = found.check("mapping").failures[0].problem
    names = [jnp.dtype(t).name for t in types]
    assert f"is {names[0]} in the control" in told and f"{names[1]} in the candidate" in told


# ------------------------------------------------------------------- inputs that hide it


@pytest.mark.parametrize("x", [np.ones((3, 4), "float32"), np.zeros((3, 4), "float32")])
def test_constant_inputs_are_not_the_only_ones(x: np.ndarray) -> None:
    squared = lambda s, a, b, x: plain(s, a, b, x + lax.stop_gradient(x**2 - x))  # noqa: E731
    found = run(plain, squared, (x,))
    assert found.verdict is Verdict.FAIL
    assert {m.item for c in found.checks for m in c.failures} == {"call random"}
    assert [i.name for i in found.inputs] == ["call", "random"]
    assert any("Pair(random_inputs=False)" in note for note in found.notes)


def test_constant_inputs_alone_prove_nothing(tmp_path: Path) -> None:
    squared = lambda s, a, b, x: plain(s, a, b, x + lax.stop_gradient(x**2 - x))  # noqa: E731
    x = np.ones((3, 4), "float32")
    found = run(plain, squared, (x,), random_inputs=False)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert any("one number throughout" in doubt for doubt in found.doubts)
    pair = Pair(Linen(plain), Nnx(squared), (x,))
    recording.record(pair, tmp_path)
    found = later.compare(Recording(tmp_path), pair)
    assert found.verdict is Verdict.INCONCLUSIVE and "one number throughout" in found.summary


def test_random_inputs_at_float64_where_there_are_no_real_arrays() -> None:
    twice = lambda s, a, b, x: b(nn.relu(a(x**2)))  # noqa: E731
    found = run(plain, twice, (np.ones((3, 4), "float32"),), levels=("L1",))
    assert found.verdict is Verdict.FAIL
    assert "outputs (call), random inputs" in {c.name for c in found.checks if not c}


def test_inputs_that_the_control_cannot_take_are_left_out_with_a_note() -> None:
    root = lambda s, a, b, x: b(a(jnp.sqrt(x - 2.0)))  # noqa: E731
    found = run(root, root, (3 + X * 0,))
    assert any("left out" in note for note in found.notes)
    assert "call random" not in {m.item for c in found.checks for m in c.measurements}


def test_masks_and_ranges_are_kept() -> None:
    tokens = np.array([[1, 7, 3, 3]], "int32")
    mask = np.array([[1, 1, 0, 1]], "float32")

    class Control(nn.Module):
        @nn.compact
        def __call__(self, tokens, mask, length, ones):
            table = nn.Embed(8, 4)(tokens) + nn.Embed(2, 4)(ones)
            return table * mask[..., None] * length

    class Candidate(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.table, self.kinds = (nnx.Embed(n, 4, rngs=rngs) for n in (8, 2))

        def __call__(self, tokens, mask, length, ones):
            return (self.table(tokens) + self.kinds(ones)) * mask[..., None] * length

    given = (tokens, mask, np.int32(3), np.ones((1, 4), "int32"))
    traced = engine.trace(Pair(Control(), Candidate(), given))
    (c,) = traced.computations
    draw = engine.drawn.of(c, ("outputs",))
    assert draw.why == "drawn at random: tokens, ones" and draw.inputs is not None
    drawn = np.asarray(draw.inputs["inputs/tokens"])
    assert drawn.min() >= 1 and drawn.max() <= 7 and drawn.dtype == tokens.dtype
    assert set(np.asarray(draw.inputs["inputs/ones"]).ravel()) <= {0, 1}


def test_a_negative_index_is_out_of_range() -> None:
    class Control(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            return nn.Embed(8, 4)(tokens)

    tokens = np.array([[1, -3]], "int32")
    with pytest.raises(errors.DataError, match=r"index -3 at \[0, 1\] is out of range"):
        pairs.run(Pair(Control(), nnx.Embed(8, 4, rngs=nnx.Rngs(0)), (tokens,)), levels=L2)


# ------------------------------------------------------------------- bounds of one side


@pytest.mark.parametrize(
    ("candidate", "told"),
    [
        (lambda s, a, b, x: b(jnp.clip(nn.relu(a(x)), -1e3, 1e3)), "bound -1000"),
        (lambda s, a, b, x: b(jnp.nan_to_num(nn.relu(a(x)))), "a choice: 0 nan"),
        (lambda s, a, b, x: b(jnp.where(a(x) > 50, 0.0, nn.relu(a(x)))), "a choice: 0 gt 50"),
        (
            lambda s, a, b, x: b(
                lax.scan(lambda c, _: (jnp.minimum(c, 90.0), None), nn.relu(a(x)), length=2)[0]
            ),
            "upper bound 90",
        ),
    ],
    ids=["clip", "nan_to_num", "where", "scan"],
)
def test_a_bound_of_one_side_that_no_input_reaches_is_no_pass(candidate: Fn, told: str) -> None:
    found = run(plain, candidate)
    assert found.check("outputs").exact and found.verdict is Verdict.INCONCLUSIVE
    (doubt,) = found.doubts
    assert told in doubt and "the candidate alone" in doubt
    assert "test_pairs_false_passes.py:" in doubt


@pytest.mark.parametrize(
    "candidate",
    [
        lambda s, a, b, x: b(jnp.maximum(a(x), 0)),
        lambda s, a, b, x: b(jnp.where(a(x) > 0, a(x), 0)),
        lambda s, a, b, x: b(jnp.clip(a(x), 0, None)),
    ],
)
def test_the_same_bound_in_other_words_is_quiet(candidate: Fn) -> None:
    assert run(plain, candidate)


def test_the_same_bound_that_no_input_reaches_is_quiet_too() -> None:
    bounded = lambda s, a, b, x: b(nn.relu6(a(x) / 64))  # noqa: E731
    assert run(bounded, lambda s, a, b, x: b(jnp.clip(a(x) * 2**-6, 0, 6)))


def test_a_library_s_own_guards_are_quiet() -> None:
    ours = lambda s, a, b, x: b(a(x)) - jax.nn.logsumexp(b(a(x)), -1, keepdims=True)  # noqa: E731

    def theirs(module: Any, a: Any, b: Any, x: Any) -> Any:
        y = b(a(x))
        top = lax.stop_gradient(y.max(-1, keepdims=True))
        return y - top - jnp.log(jnp.exp(y - top).sum(-1, keepdims=True))

    found = run(ours, theirs, levels=("L0", "L1", "L2"))
    assert found, found.summary


# ------------------------------------------------------------------- structure, and what is sown


def test_outputs_of_other_names_fail() -> None:
    found = run(
        lambda s, a, b, x: {"p": a(x), "q": b(x)}, lambda s, a, b, x: {"p": a(x), "r": b(x)}
    )
    assert found.verdict is Verdict.FAIL
    assert {m.path for m in found.check("outputs").failures} == {"q", "r"}
    both = run(lambda s, a, b, x: {"p": a(x), "q": b(x)}, lambda s, a, b, x: (a(x), b(x)))
    assert both, both.summary  # places have no names


def sowing(collection: str, factor: float = 1.0) -> Fn:
    def body(module: Any, a: Any, b: Any, x: Any) -> Any:
        h = a(x)
        kind = nnx.Intermediate if isinstance(module, nnx.Module) else collection
        module.sow(kind, "aux", factor * (h**2).mean())
        return b(nn.relu(h))

    return body


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")
@pytest.mark.parametrize("collection", ["losses", "intermediates"])
def test_what_is_sown_counts(collection: str) -> None:
    found = run(sowing(collection), plain)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert f"the control sows {collection}/aux/0" in found.summary


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")
def test_what_both_sides_sow_is_compared() -> None:
    collection = "losses"
    found = run(sowing(collection), sowing(collection))
    assert found and "sown/aux/scalar/0" in {m.path for m in found.check("outputs").measurements}
    found = run(sowing(collection), sowing(collection, 2.0))
    assert {m.path for m in found.check("outputs").failures} == {"sown/aux/scalar/0"}
    assert run(sowing(collection), plain, mutable=())  # the pair says that it does not count
    found = run(plain, sowing(collection))
    assert found and any("sows what the control does not" in note for note in found.notes)
