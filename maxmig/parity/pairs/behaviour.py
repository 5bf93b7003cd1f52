"""L3 of a pair: next-token distributions of outputs that are logits, and greedy decoding."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxmig import errors
from maxmig.parity import shadow
from maxmig.parity.findings import distributions
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.findings.distributions import Distribution
from maxmig.parity.findings.policy import Policy
from maxmig.parity.pairs import arguments, compute
from maxmig.parity.pairs.compute import OUTPUTS, Computation
from maxmig.parity.pairs.pair import Pair, told
from maxmig.parity.pairs.tracing import Unit
from maxmig.parity.rungs import behaviour, decode

NEW = 8  # tokens to generate
_ADD = (
    "say which output is logits over a vocabulary, Pair(logits='outputs/0'), or how to get them, "
    "Pair(logits=lambda outputs: ...)"
)


def compare(
    computations: Sequence[Computation], units: Sequence[Unit], policy: Policy
) -> tuple[list[Check], list[str]]:
    """The checks of L3, and what was left out, with the reason.

    Args:
        computations: mode by mode.
        units: layers of the control, among which an embedding tells the vocabulary.
        policy: for the rounding of the control's logits.

    Raises:
        ConfigError: what the pair says of its logits does not fit, or a function of it raises.
    """
    # What a model says is said in evaluation, where nothing is dropped.
    c = next((c for c in computations if c.mode == "eval"), computations[-1])
    pick, where = _logits(c, units)
    if pick is None:
        return [
            behaviour.concluded(
                "distribution", Verdict.INCONCLUSIVE, f"nothing to compare: {where}"
            )
        ], []
    sides = tuple(c.compiled(OUTPUTS, side)() for side in (0, 1))
    ours, theirs = (_batch(pick(outputs)) for outputs in sides)
    try:
        true = _batch(pick(shadow.evaluate(c.program(OUTPUTS, 0), c.inputs)))
    except errors.InconclusiveError:
        true = None
    found = [_distribution(c.mode, where, ours, theirs, true)]
    if c.pair.next_logits is None:
        return found, ["greedy decoding: the pair has no step; give Pair(next_logits=...)"]
    noise = policy.floor(policy.coarsest, ours.size) * float(np.sqrt(np.mean(_finite(ours) ** 2)))
    if true is not None and true.shape == ours.shape:
        noise = float(np.sqrt(np.mean(_finite(ours - true) ** 2)))
    return [*found, _decode(c, noise)], []


def _logits(
    c: Computation, units: Sequence[Unit]
) -> tuple[Callable[[Mapping[str, Any]], Any] | None, str]:
    """How to take the logits out of a side's outputs, and what was taken; or why nothing is."""
    given, names = c.pair.logits, c.output_names
    if callable(given):
        return _called(c, given), "logits as the pair says"
    if isinstance(given, str):
        name = given if given in names else f"{OUTPUTS}/{given}"
        if name not in names:
            raise errors.ConfigError(
                f"pair {c.pair.title}: logits: no output {given!r}; there are {', '.join(names)}"
            )
        return operator.itemgetter(name), name
    if given is False:
        return None, "the pair says that no output is logits"
    if given is True:
        if len(names) != 1:
            raise errors.ConfigError(
                f"pair {c.pair.title}: logits: expected the name of one of {', '.join(names)}"
            )
        only = next(iter(names))
        return operator.itemgetter(only), only
    rows = {
        leaf.shape[0]: unit.path
        for unit in units
        if unit.kind == "Embed"
        for leaf in unit.leaves.values()
        if len(leaf.shape) == 2
    }
    for name, shape in names.items():
        if len(shape) > 1 and shape[-1] in rows:
            path = rows[shape[-1]]
            text = f"{name}, whose last axis is as long as the vocabulary of {path}"
            return operator.itemgetter(name), text
    return None, f"no output is known to be logits; {_ADD}"


def _called(c: Computation, given: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Any]:
    tree: list[Any] = []

    def keep(flat: Any) -> Any:
        out = c.linen.run(flat, *c.given[0].put(flat), c.mode)[0]
        tree.append(jax.tree.structure(out))
        return out

    jax.eval_shape(compute.shared(keep), c.inputs)
    names = list(c.output_names)

    def pick(outputs: Mapping[str, Any]) -> Any:
        with told(f"pair {c.pair.title}: logits raised"):
            return given(jax.tree.unflatten(tree[0], [outputs[name] for name in names]))

    return pick


def _batch(logits: Any) -> np.ndarray:
    """As [B, L, V], in a type that NumPy knows."""
    array = np.asarray(logits)
    if array.ndim < 2 or not jnp.issubdtype(array.dtype, jnp.floating):
        raise errors.ConfigError(
            f"logits: expected floats of shape [..., vocabulary], got {array.dtype} "
            f"{list(array.shape)}"
        )
    wide = array.astype(np.float64)
    length = 1 if wide.ndim == 2 else wide.shape[-2]
    return wide.reshape(-1, length, wide.shape[-1])


def _finite(array: np.ndarray) -> np.ndarray:
    return array[np.isfinite(array)] if np.isfinite(array).any() else np.zeros(1)


def _distribution(
    mode: str, where: str, ours: np.ndarray, theirs: np.ndarray, true: np.ndarray | None
) -> Check:
    if ours.shape != theirs.shape:
        text = f"logits {list(ours.shape)} in the control, {list(theirs.shape)} in the candidate"
        return behaviour.concluded("distribution", Verdict.FAIL, text)
    # A row with NaN, or with nothing but -inf, is no distribution.
    usable = [np.isfinite(x).any(-1) & (x < np.inf).all(-1) for x in (ours, theirs)]
    if (usable[0] != usable[1]).any():
        text = "logits that are no numbers on one side alone"
        return behaviour.concluded("distribution", Verdict.FAIL, text)
    counted = usable[0].astype(np.int32)
    positions = np.broadcast_to(np.arange(ours.shape[1]), ours.shape[:2])
    # The next token is not known here: what the control finds likeliest takes its place.
    targets = np.nan_to_num(ours).argmax(-1)
    d = distributions.compare(mode, ours, theirs, targets, positions, counted)
    if d is None:
        return behaviour.concluded(
            "distribution", Verdict.INCONCLUSIVE, "nothing to compare: no logits are numbers"
        )
    return _judged(d, where, ours, theirs, true, counted)


def _judged(
    d: Distribution,
    where: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    true: np.ndarray | None,
    counted: np.ndarray,
) -> Check:
    text = f"{where}: {distributions.summary([d])}"
    if not d.kl.most:
        text = f"{where}: equal for {d.kl.count:,} positions: KL 0"
        return behaviour.concluded("distribution", Verdict.PASS, text, (d,))
    if true is None or true.shape != ours.shape:
        text = f"{text}; no float64 to judge it by"
        return behaviour.concluded("distribution", Verdict.INCONCLUSIVE, text, (d,))
    own, other = (distributions.mean_kl(true, x, counted) for x in (ours, theirs))
    if other > behaviour.FACTOR * max(own, 1e-14):
        text = f"KL too large: {other:.1e} from float64, the control {own:.1e} ({text})"
        return behaviour.concluded("distribution", Verdict.FAIL, text, (d,))
    return behaviour.concluded("distribution", Verdict.PASS, text, (d,))


def _decode(c: Computation, noise: float) -> Check:
    """Greedy decoding by the pair's own step; a token may differ where the control is undecided."""
    prompt = _prompt(c)
    if prompt is None:
        text = "no prompt: no input is whole numbers of shape [B, L] with L of 2 or more"
        return behaviour.concluded("decode", Verdict.INCONCLUSIVE, text)
    steps = [_step(c, side) for side in (0, 1)]
    made = [_generate(c.pair, step, prompt) for step in steps]
    found = [
        decode.hold(
            prompt.shape[1],
            ours,
            theirs,
            functools.partial(_scores, steps[0], prompt, made[0], row),
            noise,
        )
        for row, (ours, theirs) in enumerate(zip(*made, strict=True))
    ]
    return decode.judge(found, NEW, noise, "greedy decoding by the pair's next_logits")


def _prompt(c: Computation) -> np.ndarray | None:
    for array in c.given[0].values.values():
        if array.ndim == 2 and jnp.issubdtype(array.dtype, jnp.integer) and array.shape[1] > 1:
            return np.asarray(array[:, : max(1, array.shape[1] // 2)])
    return None


def _step(c: Computation, side: int) -> Callable[[jax.Array], Any]:
    """From tokens [B, n] to the logits [B, V] of the next one, on one side."""
    own = (c.linen, c.nnx)[side]

    def run(flat: Any, tokens: jax.Array) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            at = arguments.Call(args, kwargs, own.call.names, own.call.open).at(c.mode)
            if side == 0:
                return c.linen.run(flat, *at, c.mode)[0]
            return c.nnx.run(c.nnx_leaves(flat), *at, c.mode)[0]

        with told(f"pair {c.pair.title}: next_logits raised"):
            assert c.pair.next_logits is not None
            return c.pair.next_logits(call, tokens)

    jitted = jax.jit(run)
    return lambda tokens: jitted(c.inputs, tokens)


def _generate(pair: Pair, step: Callable[[jax.Array], Any], prompt: np.ndarray) -> np.ndarray:
    """[B, NEW] tokens."""
    tokens = jnp.asarray(prompt)
    for _ in range(NEW):
        scores = step(tokens)
        if jnp.ndim(scores) != 2 or scores.shape[0] != tokens.shape[0]:
            raise errors.ConfigError(
                f"pair {pair.title}: next_logits: expected logits [{tokens.shape[0]}, vocabulary], "
                f"got {list(jnp.shape(scores))}"
            )
        tokens = jnp.concatenate([tokens, scores.argmax(-1)[:, None].astype(tokens.dtype)], 1)
    return np.asarray(tokens[:, prompt.shape[1] :])


def _scores(
    step: Callable[[jax.Array], Any], prompt: np.ndarray, made: np.ndarray, row: int, at: int
) -> np.ndarray:
    """The control's log-probabilities of the token at which the sides part."""
    tokens = np.concatenate([prompt, made[:, :at]], 1)
    return distributions.log_softmax(np.asarray(step(jnp.asarray(tokens))[row], np.float64))
