"""Inside of while loops and branches, and how long values live."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from maxmig.parity import programs, shadow
from maxmig.parity.findings.check import Verdict
from maxmig.parity.programs import Program
from maxmig.parity.rungs import localize
from maxmig.parity.shadow import loops, rules, walk

Fn = Callable[[Any, Any], Any]
NUMBERS = {
    f"params/{name}/kernel": np.random.default_rng(n).standard_normal((4, 4)).astype("f4")
    for n, name in enumerate("ab")
}


def traced(fn: Fn, size: int = 4) -> Program:
    def flat(values: dict[str, Any]) -> dict[str, Any]:
        return {"out": fn(values["params/a/kernel"], values["params/b/kernel"])}

    shape = jax.ShapeDtypeStruct((size, size), jnp.float32)
    return programs.trace("outputs", flat, dict.fromkeys(NUMBERS, shape))


def loop(end: int = 5, *, third: float = 1.0, act: Fn = lambda c, y: jnp.tanh(c @ y)) -> Program:
    """Turns of a while loop, in the third of which there may be another factor."""

    def fn(x: Any, y: Any) -> Any:
        def body(state: Any) -> Any:
            turn, c = state
            return turn + 1, act(c, y) * jnp.where(turn == 2, third, 1.0)

        return lax.while_loop(lambda state: state[0] < end, body, (0, x))[1]

    return traced(fn)


def until(bound: float) -> Program:
    """A loop whose length depends on the values."""
    shrink = lambda x, y: lax.while_loop(lambda s: jnp.sum(s * s) > bound, lambda s: s * 0.9, x)  # noqa: E731
    return traced(lambda x, y: shrink(x, y) @ y)


def choice(factor: float = 1.0, bound: float = -9.0, other: Any = jnp.cos) -> Program:
    """A branch that is taken, and one that is not, inside of a loop."""

    def body(turn: Any, c: Any, y: Any) -> Any:
        return lax.cond(c[0, 0] > bound, lambda: jnp.sin(c @ y) * factor, lambda: other(c))

    def fn(x: Any, y: Any) -> Any:
        step = lambda state: (state[0] + 1, body(*state, y))  # noqa: E731
        return lax.while_loop(lambda state: state[0] < 3, step, (0, x))[1]

    return traced(fn)


@pytest.mark.parametrize(
    ("control", "candidate", "primitive", "told"),
    [
        (loop(), loop(third=1.01), "select_n", "constant 1.0, 1.0 against 1.0, 1.01, in turn 3 of"),
        (loop(act=lambda c, y: jnp.sin(c @ y)), loop(), "sin", "sin against tanh, in turn 1 of"),
        (loop(3), loop(4), "lt", "constant 3 against 4, in the condition before turn 4 of"),
        (until(0.5), until(0.2), "gt", "constant 0.5 against 0.2, in the condition before turn"),
        (choice(), choice(1.5), "mul", "constant 1.0 against 1.5, in branch 1 of the choice at"),
        (choice(), choice(bound=9.0), "gt", "constant -9.0 against 9.0, in turn 1 of the loop"),
    ],
    ids=["turn", "activation", "length", "data", "branch", "which branch"],
)
def test_first_difference_inside(
    control: Program, candidate: Program, primitive: str, told: str
) -> None:
    for sides in ((control, candidate), (candidate, control)):
        found = localize.between(*sides, NUMBERS)
        assert found.verdict is Verdict.FAIL and found.first is not None
        one, two = found.first.control, found.first.candidate
        assert one is not None and two is not None
        for equation in (one, two):
            assert equation.source.startswith("tests/parity/shadow/test_shadow_inside.py:")
    assert primitive in (one.primitive, two.primitive)
    found = localize.between(control, candidate, NUMBERS)
    assert told in ", ".join(found.first.differences), found.first


def test_equal_loops_are_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "inside", None)
    assert shadow.compare(loop(), loop(act=lambda c, y: jnp.tanh((y.T @ c.T).T)), NUMBERS)


def test_only_so_many_turns_are_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "TURNS", 3)
    first = shadow.compare(loop(9), loop(10), NUMBERS).first
    assert first is not None and first.divergence.control is not None
    assert first.divergence.control.primitive == "while"
    assert first.divergence.differences == ("after turn 3 of the loop",)


def test_a_branch_that_is_never_taken_is_no_pass() -> None:
    """Equal numbers say nothing of it; a proof does."""
    same, other = choice(), choice(other=jnp.tanh)
    result = shadow.compare(same, other, NUMBERS)
    assert result.verdict is Verdict.INCONCLUSIVE and not result.failures
    assert result.untaken[0].startswith("control: branch 0 of the choice at tests/parity/shadow")
    assert localize.between(same, other, NUMBERS).verdict is Verdict.INCONCLUSIVE
    assert localize.between(same, choice(), NUMBERS).verdict is Verdict.PASS


# ---------------------------------------------------------------------------- how long values live

SIZE, EQUATIONS = 128, 40
ONE = SIZE * SIZE * 8  # bytes of a value in float64


def straight(x: Any, y: Any) -> Any:
    for _ in range(EQUATIONS):
        x = jnp.sin(x) + y
    return x


def called(x: Any, y: Any) -> Any:
    """What is handed to a call is dropped inside of it."""
    return jax.checkpoint(lambda a: straight(jnp.tanh(a), y))(jnp.cos(x))


def scanned(x: Any, y: Any) -> Any:
    return lax.scan(lambda c, _: (straight(c, y), None), x, None, length=3)[0]


def turned(x: Any, y: Any) -> Any:
    step = lambda s: (s[0] + 1, straight(s[1], y))  # noqa: E731
    return lax.while_loop(lambda s: s[0] < 3, step, (0, x))[1]


def peak(fn: Fn, inside: bool = False) -> float:
    """The most memory that one walk takes, in values beyond the two that go in."""
    program = traced(fn, SIZE)
    given = {name: np.ones((SIZE, SIZE)) for name in program.inputs}
    side = walk.Walk(program, inside=inside)
    with rules.float64():
        tracemalloc.start()
        try:
            for _ in side.run(given):
                pass
            return tracemalloc.get_traced_memory()[1] / ONE
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("fn", [straight, called, scanned, turned])
def test_values_are_dropped_after_their_last_use(fn: Fn) -> None:
    assert peak(fn, inside=True) < 5


def test_it_would_be_seen_if_they_were_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_drop", lambda env, dead: None)
    assert peak(straight) > EQUATIONS
