"""L3 of a pair: distributions where an output is logits, decoding where the pair has a step."""

from typing import Any

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

VOCAB = 16


class LinenLM(nn.Module):
    masked: bool = False

    @nn.compact
    def __call__(self, tokens):
        x = nn.LayerNorm()(nn.Embed(VOCAB, 8)(tokens))
        logits = nn.Dense(VOCAB)(jnp.cumsum(x, 1))
        if self.masked:  # a token that is never said
            logits = jnp.where(jnp.arange(VOCAB) == 3, -jnp.inf, logits)
        return {"logits": logits, "hidden": x}


class LM(nnx.Module):
    def __init__(self, epsilon: float = 1e-6, scale: float = 1.0, masked: bool = False):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(VOCAB, 8, rngs=rngs)
        self.norm = nnx.LayerNorm(8, epsilon=epsilon, rngs=rngs)
        self.head = nnx.Linear(8, VOCAB, rngs=rngs)
        self.scale, self.masked = scale, masked

    def __call__(self, tokens):
        x = self.norm(self.embed(tokens))
        logits = self.head(jnp.cumsum(x * self.scale, 1))
        if self.masked:
            logits = jnp.where(jnp.arange(VOCAB) == 3, -jnp.inf, logits)
        return {"logits": logits, "hidden": x}


def step(call: Any, tokens: Any) -> Any:
    return call(tokens)["logits"][:, -1]


def pair(candidate: LM | None = None, **options: Any) -> Pair:
    return Pair(LinenLM(), candidate or LM(), (zoo.tokens(),), **options)


def language():
    return pair(next_logits=step)


def found(spec: Any) -> Any:
    return pairs.run(spec, levels=("L3",))


def test_the_vocabulary_is_found_and_decoded() -> None:
    report = found(language)
    assert report, report.summary
    check = report.check("distribution")
    assert "outputs/logits, whose last axis is as long as the vocabulary of Embed_0" in check.told
    assert "KL 0" in check.told and check.details[0].kl.count == 12
    assert [c.agree for c in report.check("decode").details] == [8, 8]


def test_another_scale_fails_with_its_numbers() -> None:
    report = found(pair(LM(scale=-1), next_logits=step))
    assert report.verdict is Verdict.FAIL
    check = report.check("distribution")
    assert "KL too large" in check.told and "p99.9" in check.told and "top-1" in check.told
    (d,) = check.details
    assert d.kl.mean > 1e-4 and d.by_position[0][0] == 0
    assert report.check("decode").verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("logits", "told"),
    [
        ("logits", "outputs/logits"),
        ("outputs/hidden", "outputs/hidden"),
        (lambda out: out["logits"][:, :, :5], "as the pair says"),
    ],
)
def test_the_pair_says_which(logits: Any, told: str) -> None:
    report = found(pair(logits=logits))
    assert report and told in report.check("distribution").told
    assert any("next_logits" in text for text in report.coverage.skipped)


def test_nothing_to_compare_says_what_to_add() -> None:
    report = found(zoo.mlp)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "Pair(logits=" in report.summary and "nothing to compare" in report.summary
    assert found(pair(logits=False)).verdict is Verdict.INCONCLUSIVE


def test_a_token_that_is_never_said() -> None:
    masked = Pair(LinenLM(masked=True), LM(masked=True), (zoo.tokens(),))
    assert found(masked).check("distribution").verdict is Verdict.PASS
    half = Pair(LinenLM(masked=True), LM(), (zoo.tokens(),))
    assert found(half).check("distribution").verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"logits": "nothing"}, "no output 'nothing'; there are outputs/hidden, outputs/logits"),
        ({"logits": True}, "expected the name of one of"),
        ({"logits": lambda out: 1 / 0}, "logits raised: .*ZeroDivisionError"),
        ({"logits": lambda out: jnp.zeros(3)}, "expected floats of shape"),
        ({"next_logits": lambda call: 1}, r"expected a function of \(call, tokens\)"),
        ({"next_logits": lambda call, tokens: call(tokens)["hidden"]}, r"expected logits \[2, voc"),
        ({"next_logits": lambda call, tokens: 1 / 0}, "next_logits raised: .*ZeroDivision"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], told: str) -> None:
    with pytest.raises(errors.ConfigError, match=told):
        found(pair(**options))


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    words = ["parity", "run", "--pair", "test_pairs_behaviour:language", "--level", "behaviour"]
    assert cli.main([*words, "--run-dir", str(tmp_path / "run")]) == 0
    assert "2 prompts of 3 to 3 tokens: 2 equal for 8 new tokens" in capsys.readouterr().out
    assert "KL" in (tmp_path / "run" / "report.html").read_text()


def test_divergence_of_what_is_excluded() -> None:
    from maxmig.parity.findings import distributions

    a, b = np.log([[0.5, 0.5, 1e-300]]), np.log([[0.25, 0.75, 1e-300]])
    a[0, 2] = -np.inf
    told = distributions.divergence(a, b)[0]
    assert np.isclose(told, 0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75))
