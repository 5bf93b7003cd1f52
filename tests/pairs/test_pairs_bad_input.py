"""Pairs that cannot be compared: typed errors and verdicts that name the cause, no traceback."""

import random
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pairs_zoo as zoo
import pytest
from flax import linen as nn
from flax import nnx

from maxmig import errors
from maxmig.cli import main as cli
from maxmig.parity import Pair, pairs
from maxmig.parity.findings.check import Verdict

FAST = ("L2",)
X = zoo.normal(4, 8)


def mlp(**options: Any) -> Pair:
    return Pair(zoo.LinenMLP(), zoo.MLP(rngs=nnx.Rngs(1)), (X,), **options)


def mlp_of(x: Any) -> Pair:
    return Pair(zoo.LinenMLP(), zoo.MLP(rngs=nnx.Rngs(1)), (x,))


class LinenScale(nn.Module):
    """One weight; what is done with it is the test's."""

    function: Any = staticmethod(lambda w, x: w * x)

    @nn.compact
    def __call__(self, x):
        return self.function(self.param("w", nn.initializers.normal(), (8,)), x)


class Scale(nnx.Module):
    def __init__(self, function: Any = lambda w, x: w * x, *, variable: Any = nnx.Param):
        self.w = variable(jnp.ones(8))
        self.function = function

    def __call__(self, x):
        return self.function(self.w[...], x)


def scales(linen: Any, candidate: Any = None, **options: Any) -> Pair:
    return Pair(LinenScale(linen), Scale(candidate or linen, **options), (X,))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda: 1 / 0, r"the function raised: .*test_pairs_bad_input\.py:\d+: ZeroDivisionError"),
        (lambda: (1, 2), r"expected \(linen_module, nnx_module, inputs\).*a tuple of 2"),
        (lambda: None, "got a NoneType"),
        (lambda: (None, None, ()), "expected a module, got None twice"),
        (lambda: (zoo.LinenMLP(), None, (X,)), "nnx: expected a module, got None.*record"),
        (lambda: mlp(variables=[1]), "variables: expected .*got a list of 1"),
        (lambda: mlp_of(np.array([object()])), "inputs/x: expected numbers, got dtype object"),
        (lambda: (zoo.MLP(rngs=nnx.Rngs(0)), zoo.LinenMLP(), ()), "linen: expected an instance"),
        (lambda: (zoo.LinenMLP, zoo.MLP(rngs=nnx.Rngs(0)), ()), r"got the class LinenMLP; call it"),
        (lambda: (zoo.LinenMLP(), zoo.MLP(rngs=nnx.Rngs(0)), (X, X)), "cannot be called with"),
        (lambda: (zoo.LinenMLP(), zoo.MLP(rngs=nnx.Rngs(0)), (zoo.normal(4, 7),)), "raised"),
    ],
)
def test_what_a_function_returns(function: Any, told: str) -> None:
    with pytest.raises(errors.ConfigError, match=told):
        pairs.run(function)


def test_names_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_pair.py").write_text("import does_not_exist\n")
    (tmp_path / "raising_pair.py").write_text("x = 1\nraise RuntimeError('not today')\n")
    (tmp_path / "syntax_pair.py").write_text("def f(:\n")
    for spec, told in (
        ("nothing", "expected pkg.module:function"),
        ("no_such_module_here:f", "no module 'no_such_module_here'"),
        ("broken_pair:f", "broken_pair.py:1: No module named 'does_not_exist'"),
        ("raising_pair:f", "raising_pair.py:2: RuntimeError: not today"),
        ("pairs_zoo:nope", "no 'nope' in it; functions there: normal, mlp, cnn"),
        ("./pairs_zoo.py:mlp", "a module, got the file ./pairs_zoo.py.*: pairs_zoo:mlp"),
        ("syntax_pair:f", "its import raised: SyntaxError"),
        ("pairs_zoo:jnp", "expected a function"),
    ):
        with pytest.raises(errors.ConfigError, match=told):
            pairs.load(spec)


def test_a_module_that_raises_is_named_with_its_line() -> None:
    def raising(w: Any, x: Any) -> Any:
        raise ValueError("not this way")

    with pytest.raises(errors.ConfigError, match=r"Linen module raised.*\.py:\d+: ValueError: not"):
        pairs.run(scales(raising))
    with pytest.raises(errors.ConfigError, match=r"the NNX module raised: .*\.py:\d+: ValueError"):
        pairs.run(scales(lambda w, x: w * x, raising))


@pytest.mark.parametrize(
    ("candidate", "told"),
    [
        (lambda w, x: (w * x, x), "outputs"),
        (lambda w, x: (w * x)[:2], r"float32 \[4, 8\] in the control, float32 \[2, 8\]"),
        (lambda w, x: (w * x).astype(jnp.bfloat16), "bfloat16"),
        (lambda w, x: w * x + jnp.nan, "nan in the candidate"),
        (lambda w, x: w * x / 0, "inf in the candidate"),
    ],
)
def test_other_outputs_fail(candidate: Any, told: str) -> None:
    report = pairs.run(scales(lambda w, x: w * x, candidate), levels=FAST)
    assert report.verdict is Verdict.FAIL
    assert told in report.summary or any(re.search(told, r) for r in report.reasons)


def test_nan_on_both_sides_proves_nothing() -> None:
    report = pairs.run(scales(lambda w, x: w * x * jnp.nan), levels=FAST)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "NaN or infinite" in report.summary


def test_inputs_that_say_nothing() -> None:
    for x, told in (
        (np.full((4, 8), np.inf, "float32"), "NaN or infinite"),
        (np.zeros((0, 8), "float32"), "has no numbers on either side"),
    ):
        report = pairs.run(mlp_of(x), levels=FAST)
        assert report.verdict is Verdict.INCONCLUSIVE and told in report.summary


def test_infinity_in_the_same_places_is_equal() -> None:
    function = lambda w, x: jnp.where(x > 0, w * x, -jnp.inf)  # noqa: E731
    pair = scales(function)
    report = pairs.run(
        Pair(pair.linen, pair.nnx, (X,), loss=lambda out: jnp.where(out > -1e9, out, 0).sum()),
        levels=FAST,
    )
    assert report.check("outputs").verdict is Verdict.PASS


def test_a_restless_control_is_inconclusive_with_its_source() -> None:
    report = pairs.run(scales(lambda w, x: w * x * random.random(), lambda w, x: w * x))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "the control is not deterministic" in report.summary
    assert "test_pairs_bad_input.py" in report.summary


def test_integers_out_of_range() -> None:
    tokens = zoo.tokens().copy()
    tokens[1, 2] = 99
    pair = Pair(zoo.LinenTransformer(), zoo.Transformer(rngs=nnx.Rngs(0)), (tokens,))
    with pytest.raises(errors.DataError, match=r"tokens: the index 99 at \[1, 2\].*Embed_0 has 16"):
        pairs.run(pair)


def test_a_weight_that_is_not_there() -> None:
    class Bare(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.a = nnx.Linear(8, 8, use_bias=False, rngs=rngs)
            self.b = nnx.Linear(8, 8, rngs=rngs)
            self.c = nnx.Linear(8, 8, rngs=rngs)

        def __call__(self, x):
            return self.c(jnp.tanh(self.b(nnx.relu(self.a(x)))))

    report = pairs.run(Pair(zoo.LinenMLP(), Bare(nnx.Rngs(0)), (X,)), levels=FAST)
    assert report.verdict is Verdict.FAIL
    assert "the candidate has no leaf like it" in report.summary


def test_a_weight_that_is_not_trained() -> None:
    report = pairs.run(scales(lambda w, x: w * x, variable=nnx.Variable), levels=FAST)
    assert report.verdict is Verdict.FAIL
    assert "w" in report.check("mapping").failures[0].path


class LinenShared(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(8)
        return dense(nn.tanh(dense(x)))


class Two(nnx.Module):
    def __init__(self, *, shared: bool):
        self.a = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
        self.b = self.a if shared else nnx.Linear(8, 8, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.b(jnp.tanh(self.a(x)))


def test_a_layer_that_is_used_twice() -> None:
    assert pairs.run(Pair(LinenShared(), Two(shared=True), (X,)), levels=FAST)
    report = pairs.run(Pair(LinenShared(), Two(shared=False), (X,)), levels=FAST)
    assert report.verdict is Verdict.FAIL and "untied" in report.summary
    assert report.check("outputs").exact
    assert not report.check("gradients")


def test_another_method_and_no_weights() -> None:
    class Double(nn.Module):
        def __call__(self, x):
            return x * 2

    class Sum(nnx.Module):
        def __init__(self):
            self.unused = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

        def twice(self, x):
            return x + x

    report = pairs.run(Pair(Double(), Sum(), (X,), nnx_method="twice"), levels=FAST)
    assert report.verdict is Verdict.FAIL  # a weight that the control does not have

    class Bare(nnx.Module):
        def __call__(self, x):
            return x + x

    report = pairs.run(Pair(Double(), Bare(), (X,)), levels=FAST)
    assert report, report.summary


def test_text_comes_out() -> None:
    with pytest.raises(errors.ConfigError, match="expected an array, got str"):
        pairs.run(scales(lambda w, x: w * x, lambda w, x: "no"), levels=FAST)


def test_only_integers_come_out() -> None:
    report = pairs.run(scales(lambda w, x: jnp.argmax(w * x, -1)), levels=FAST)
    assert report, report.summary
    assert "gradients: no output is a float" in report.coverage.skipped


def test_another_epsilon_fails() -> None:
    def norm(epsilon: float) -> Any:
        return lambda w, x: w * x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + epsilon)

    report = pairs.run(scales(norm(1e-6), norm(1e-5)))
    assert report.verdict is Verdict.FAIL
    assert any("1e-06 against 1e-05" in c.told for c in report.checks if c.level == "semantic")


def test_a_callback_is_not_proved_but_compared() -> None:
    def called(w: Any, x: Any) -> Any:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return w * jax.pure_callback(lambda a: np.asarray(a) * 2, shape, jax.lax.stop_gradient(x))

    report = pairs.run(scales(called))
    levels = {c.level: c.verdict for c in report.checks if c.name.startswith("outputs")}
    assert levels["static"] is Verdict.INCONCLUSIVE
    assert levels["semantic"] is Verdict.INCONCLUSIVE
    assert levels["native"] is Verdict.PASS
    assert report.verdict is not Verdict.FAIL


def test_the_command_prints_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_pair.py").write_text("def pair():\n    raise RuntimeError('no')\n")
    assert cli.main(["parity", "run", "--pair", "my_pair:pair"]) == 2
    err = capsys.readouterr().err
    assert "my_pair.py:2: RuntimeError: no" in err and "Traceback" not in err
    assert cli.main(["parity", "run", "demo", "--pair", "my_pair:pair"]) == 2
    assert cli.main(["parity", "run"]) == 2
    assert cli.main(["parity", "run", "demo", "--mapping", "x.yml"]) == 2
    for option in (("--dtype", "bfloat16"), ("--steps", "9"), ("--policy", "bitwise")):
        assert cli.main(["parity", "run", "--pair", "my_pair:pair", *option]) == 2
        assert f"{option[0]} goes with CONFIG" in capsys.readouterr().err
