"""Casts and constants: what float64 and real arrays cannot judge is told by name, and no PASS."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from maxmig.parity import Pair, Report, Verdict, pairs
from maxmig.parity.findings import casts, constants
from maxmig.parity.findings.check import Check
from maxmig.parity.findings.measurement import Measurement, Ratio
from maxmig.parity.shadow.results import Error, First, Shadow
from maxmig.parity.static.results import Cast, Divergence, Equation, Proof

BF16 = jnp.bfloat16


class LinenNet(nn.Module):
    kind: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, dtype=BF16, name="a")(x)
        return nn.softmax(x.astype(self.kind)).astype(BF16)


class Net(nnx.Module):
    def __init__(self, kind: Any = jnp.float32):
        self.kind = kind
        self.a = nnx.Linear(4, 4, dtype=BF16, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return nnx.softmax(self.a(x).astype(self.kind)).astype(BF16)


def compare(control: Any, candidate: Any) -> Report:
    inputs = (np.random.default_rng(0).standard_normal((3, 4)).astype("float32"),)
    return pairs.run(Pair(LinenNet(control), Net(candidate), inputs))


@pytest.mark.parametrize("kinds", [(jnp.float32, BF16), (BF16, jnp.float32)])
def test_a_cast_of_one_side_is_no_pass(kinds: tuple[Any, Any]) -> None:
    report = compare(*kinds)
    assert report.verdict is not Verdict.PASS
    if report.verdict is Verdict.INCONCLUSIVE:
        assert "cast: " in report.summary and "test_parity_rounding.py" in report.summary
        assert report.codes[0] == "cast"


def test_the_same_casts_pass() -> None:
    assert compare(jnp.float32, jnp.float32)


def proof(*found: Cast, exact: bool = False) -> list[Check]:
    details = Proof("forward", (), different=("logits",), casts=found)
    m = Measurement("real", "logits", "bfloat16", (9,), 9, differing=0 if exact else 3)
    static = Check("forward", "", level="static", concluded=Verdict.INCONCLUSIVE, details=details)
    return [static, Check("logits", "", (m,), limit=1.0)]


def test_which_casts_leave_a_doubt() -> None:
    lines = ("candidate b.py:3",)
    down = Cast("float32", "bfloat16", (2, 8), 0, 2, lines, unknown=(0, 2))
    assert casts.uneven(proof(down)).startswith(
        "forward: cast: float32 becomes bfloat16[2, 8] 2 times in the candidate and never in the "
        "control (candidate b.py:3)"
    )
    assert not casts.uneven(proof(down, exact=True))  # equal bits
    known = dataclasses.replace(down, unknown=(0, 0))  # Flax's own norms
    back = Cast("float32", "bfloat16", (4, 4), 2, 0, ("control a.py:1",), unknown=(2, 0))
    fine = dataclasses.replace(down, source_dtype="float64", target_dtype="float32")
    assert not casts.uneven(proof(known)) and not casts.uneven(proof(fine))
    assert not casts.uneven(proof(down, back))  # the same numbers in another layout


def gelu(control: str, candidate: str) -> Divergence:
    one = Equation("mul", (2, 8), "bfloat16", "flax.py:1", constants=(control,))
    two = dataclasses.replace(one, dtype="float32", constants=(candidate,), source="own.py:2")
    return Divergence(one, two, "", (f"constant {control} against {candidate}",))


@pytest.mark.parametrize(
    ("pair", "found"),
    [(("0.796875", "0.7978846"), True), (("0.796875", "0.79"), False), (("0.5", "0.5"), False)],
)
def test_a_constant_that_one_side_rounds(pair: tuple[str, str], found: bool) -> None:
    told, unit = constants.rounded(gelu(*pair))
    assert bool(told) is bool(unit) is found
    if found:
        assert (
            told == "only the control rounds a constant: 0.796875 is 0.7978846 in bfloat16 "
            "(flax.py:1)"
        )


@pytest.mark.parametrize(("error", "failed"), [(1e-3, False), (0.1, True)])
def test_the_nearer_side_does_not_fail_for_a_rounded_constant(error: float, failed: bool) -> None:
    first = First(gelu("0.796875", "0.7978846"), error, 1.0, 1.0)
    shadow = Shadow("outputs", (Error("outputs", error, 1e-9, 16),), first=first)
    semantic = Check("outputs", "", level="semantic", concluded=Verdict.FAIL, details=shadow)
    truth = Ratio(2e-3, 1e-3, 2.0)
    m = Measurement("call", "outputs", "bfloat16", (16,), 16, 9, rel_l2=error, truth=truth)
    native = Check("outputs", "", (m,), limit=0.05)
    settled = constants.settled([semantic, native])[0]
    assert settled.verdict is (Verdict.FAIL if failed else Verdict.INCONCLUSIVE)
    if not failed:
        assert "only the control rounds a constant" in settled.reason
    assert constants.settled([semantic])[0].verdict is Verdict.FAIL  # no real arrays
    worse = dataclasses.replace(m, truth=Ratio(1e-3, 9e-3, 2.0))
    broken = dataclasses.replace(native, measurements=(worse,))
    assert constants.settled([semantic, broken])[0].verdict is Verdict.FAIL
