"""Greedy decoding on both sides; a token may differ only where the control itself was undecided."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from maxmig import infer
from maxmig.core.context import Context
from maxmig.parity.findings import distributions
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.rungs.request import Pair
from maxmig.parity.sides.inputs import REAL, Inputs
from maxmig.train.runtime import Runtime

_PROMPTS, _NEW, _TOP, _NOISES = 4, 32, 5, 4.0


@dataclasses.dataclass(frozen=True)
class Continuation:
    """One prompt, continued by both sides.

    Attributes:
        prompt: its length in tokens.
        tokens: how many were generated.
        agree: how many are equal, before the first that is not.
        gap: at that place, how much likelier the control finds its own token, nats.
        tie: whether that is a near-tie.
    """

    prompt: int
    tokens: int
    agree: int
    gap: float = 0.0
    tie: bool = False

    @property
    def good(self) -> bool:
        """Equal, or different by a near-tie."""
        return self.tie or self.agree == self.tokens


def check(
    pair: Pair, states: tuple[Mapping[str, Any], Mapping[str, Any]], given: Inputs, noise: float
) -> Check:
    """Continues a few prompts greedily; the last is as long as the model takes.

    Args:
        pair: both sides.
        states: their training states.
        given: the batches; prompts are the beginnings of the real one.
        noise: of the control's logits, nats. A difference is a near-tie if the control's gap
            between the two tokens is at most 4 times that and both are among its 5 likeliest;
            after it the prompt is not compared any more, since the texts are different ones.
    """
    title = "greedy decoding from a cache"
    prompts, new = _prompts(pair[0], given)
    if not prompts:
        told = "no prompt fits: max_prefill_predict_length or the positions are too few"
        return Check(
            "decode",
            title,
            level="behaviour",
            concluded=Verdict.INCONCLUSIVE,
            told=told,
        )
    tokens = [
        _generate(runtime, state, prompts, new) for runtime, state in zip(pair, states, strict=True)
    ]
    found = [
        hold(
            len(prompt),
            tokens[0][row],
            tokens[1][row],
            functools.partial(_scores, pair[0], states[0], prompt, tokens[0][row]),
            noise,
        )
        for row, prompt in enumerate(prompts)
    ]
    return judge(found, new, noise, title)


def judge(found: Sequence[Continuation], new: int, noise: float, title: str) -> Check:
    """The check of some prompts, each continued by `new` tokens; noise of the logits in nats."""
    bad = [c for c in found if not c.good]
    ties = sum(c.tie for c in found)
    lengths = [c.prompt for c in found]
    told = f"{len(found)} prompts of {min(lengths)} to {max(lengths)} tokens"
    if bad:
        worst = min(bad, key=lambda c: c.agree)
        told += (
            f": {len(bad)} differ, the first at token {worst.agree + 1}, where the control finds "
            f"its own {worst.gap:.2g} nats likelier (noise {noise:.1e})"
        )
    else:
        equal = f"{len(found) - ties} equal for {new} new tokens"
        told += f": {equal}" + (f", {ties} until a near-tie" if ties else "")
    return Check(
        "decode",
        title,
        level="behaviour",
        concluded=Verdict.FAIL if bad else Verdict.PASS,
        told=told,
        details=tuple(found),
    )


def _prompts(runtime: Runtime, given: Inputs) -> tuple[list[list[int]], int]:
    cfg, table = runtime.cfg, runtime.model.decoder.positions
    longest = cfg.generate.max_prefill_predict_length
    if table is not None:
        longest = min(longest, table.rows - 1)
    rows = given.batches[REAL]["inputs"]
    longest = min(longest, rows.shape[1])
    if longest < 1:
        return [], 0
    new = _NEW if table is None else min(_NEW, table.rows - longest)
    lengths = sorted({max(1, longest // 8), max(1, longest // 2), longest})
    prompts = [rows[i % rows.shape[0], :n].tolist() for i, n in enumerate(lengths)]
    return prompts[:_PROMPTS], new


def _generate(
    runtime: Runtime, state: Mapping[str, Any], prompts: list[list[int]], new: int
) -> np.ndarray:
    params = {p: state[f"params/{p}"] for p in runtime.param_paths}
    cfg = runtime.cfg.replace(decode_sampling_strategy="greedy")
    return np.asarray(infer.Generator(cfg, runtime.backend).generate(params, prompts, new))


def hold(
    prompt: int,
    control: np.ndarray,
    candidate: np.ndarray,
    scores: Callable[[int], np.ndarray],
    noise: float,
) -> Continuation:
    """One prompt's continuation by both sides.

    Args:
        prompt: its length.
        control, candidate: the tokens of both sides.
        scores: from a place to the control's log-probabilities [V] there.
        noise: of the control's logits, nats.
    """
    differs = np.flatnonzero(control != candidate)
    if not differs.size:
        return Continuation(prompt, len(control), len(control))
    at = int(differs[0])
    found = scores(at)
    ours, theirs = int(control[at]), int(candidate[at])
    gap = float(found[ours] - found[theirs])
    likeliest = set(np.argsort(-found)[:_TOP].tolist())
    tie = abs(gap) <= _NOISES * noise and {ours, theirs} <= likeliest
    return Continuation(prompt, len(control), at, gap, tie)


def _scores(
    runtime: Runtime, state: Mapping[str, Any], prompt: list[int], control: np.ndarray, at: int
) -> np.ndarray:
    params = {p: state[f"params/{p}"] for p in runtime.param_paths}
    tokens = jnp.asarray([[*prompt, *control[:at].tolist()]], jnp.int32)
    out = runtime.backend.apply(params, tokens, Context.of(tokens))
    return distributions.log_softmax(np.asarray(out.logits)[0, -1])
