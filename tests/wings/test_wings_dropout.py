"""Dropout's masks: other ones in each layer, site, step and micro-batch; the same on every rung.

A mask is a function of its key, so the tests record the keys that reach `core.dropout`, out of
scans, rematerialised layers and micro-batches alike.
"""

import dataclasses
import functools
from collections import Counter
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxmig.config.flags import Stage
from maxmig.core import decoder, dropout
from maxmig.core.context import Context
from maxmig.train import step as steps
from maxmig.train.runtime import Runtime

OPTIONS = ("dropout_rate=0.2", "base_num_decoder_layers=3", "gradient_accumulation_steps=2")
SITES = {"embeddings": 1, "mlp": 3, "layer": 3}  # how often each is passed in a forward pass
STEPS = MICRO = 2

Key = tuple[str, tuple[int, ...]]


class Recorder:
    """A backend that counts the (site, key) of every mask that is drawn while programs run.

    The keys come out of the layers as auxiliary values; a callback inside a layer would be simpler,
    but Linen's scan takes one for a dependency on the carry.
    """

    def __init__(self, inner: Any, seen: Counter[Key]):
        self.inner, self.seen = inner, seen

    def apply(self, *args: Any) -> Any:
        out = self.inner.apply(*args)
        jax.debug.callback(self._record, {k: v for k, v in out.aux.items() if "key of " in k})
        return out

    def _record(self, found: dict[str, Any]) -> None:
        for name, keys in found.items():
            site = name.rsplit("key of ", 1)[1]
            self.seen.update((site, tuple(key.tolist())) for key in np.asarray(keys).reshape(-1, 2))


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Counter[Key]:
    """What recorders count into; the core is patched so that there is something to record."""
    inside: dict[str, Any] = {}  # keys noted in the layer, or in the decoder before it
    drop, layer, whole = dropout.forward, decoder.layer_forward, decoder.decoder_forward

    def noted(x: Any, rate: float, context: Context, site: str) -> Any:
        key = context.at(site).key
        if key is not None:
            inside[f"key of {site}"] = jax.random.key_data(key)
        return drop(x, rate, context, site)

    def layer_forward(*args: Any) -> Any:
        outside = dict(inside)
        inside.clear()
        x, caches, aux = layer(*args)
        aux = aux | inside
        inside.clear()
        inside.update(outside)
        return x, caches, aux

    def decoder_forward(*args: Any) -> Any:
        inside.clear()
        x, cache, aux = whole(*args)
        return x, cache, aux | inside

    monkeypatch.setattr(dropout, "forward", noted)
    monkeypatch.setattr(decoder, "layer_forward", layer_forward)
    monkeypatch.setattr(decoder, "decoder_forward", decoder_forward)
    return Counter()


def run(keys: Counter[Key], stage: Stage, *options: str, forward: bool = False) -> Counter[Key]:
    """The keys of the first training steps, with the backward pass or without."""
    cfg = helpers.config("tiny_llama2", *OPTIONS, *options, stage=stage)
    rt = Runtime(cfg, devices=jax.devices()[:1])
    backend: Any = Recorder(rt.backend, keys)
    params = helpers.weights("tiny_llama2", *OPTIONS, *options[:1])
    one = jax.tree.map(jnp.asarray, helpers.batch(rows=4, length=8))

    @jax.jit
    def program(params: Any, step: Any) -> Any:
        key = steps.step_key(rt.settings, step)
        if forward:
            return steps.loss(backend, params, one, key, z_loss=0.0)
        return steps.loss_and_gradients(backend, params, one, key, z_loss=0.0, accumulation=MICRO)

    keys.clear()
    for step in range(STEPS):
        jax.block_until_ready(program(params, jnp.asarray(step, jnp.int32)))
    jax.effects_barrier()
    return Counter(keys)


def distinct(found: Counter[Key]) -> Counter[str]:
    """How many masks each site has."""
    return Counter(site for site, _ in found)


ALL = {site: n * STEPS * MICRO for site, n in SITES.items()}


@pytest.mark.parametrize(
    ("scan", "wing"),
    [
        ("scan_layers=true", Stage.LINEN),
        ("scan_layers=true", Stage.NNX),
        ("scan_layers=false", Stage.NNX),
    ],
)
def test_every_layer_site_step_and_micro_batch_has_its_own_mask(
    keys: Counter[Key], scan: str, wing: Stage
) -> None:
    found = run(keys, wing, scan, "remat_policy=none")
    assert distinct(found) == ALL
    assert set(found.values()) == {1}, "a key was used twice"
    assert run(keys, wing, scan, "remat_policy=full") == found


_control: dict[str, set[Key]] = {}


def test_the_masks_are_those_of_every_rung_scanned_or_not(keys: Counter[Key], stage: Stage) -> None:
    if not _control:
        _control["keys"] = set(run(keys, Stage.LINEN, "scan_layers=false", forward=True))
    wanted = _control["keys"]
    assert len(wanted) == STEPS * sum(SITES.values())
    for scan in ("scan_layers=true", "scan_layers=false"):
        assert set(run(keys, stage, scan, forward=True)) == wanted


def test_another_seed_gives_other_masks(keys: Counter[Key]) -> None:
    one = run(keys, Stage.NNX, "scan_layers=true", forward=True)
    other = run(keys, Stage.NNX, "scan_layers=true", "init_weights_seed=1", forward=True)
    assert len(one) == len(other) == STEPS * sum(SITES.values())
    assert not set(one) & set(other)


def test_a_stack_that_does_not_advance_its_stream_is_seen(
    keys: Counter[Key], monkeypatch: pytest.MonkeyPatch, wing: Stage
) -> None:
    """Negative control: the commonest bug of scanned dropout, one mask for all layers."""
    monkeypatch.setattr(Context, "layer", lambda self, index: self)
    found = run(keys, wing, "scan_layers=true", forward=True)
    assert distinct(found) == dict.fromkeys(SITES, STEPS)


def test_what_is_rematerialised_draws_the_same_masks_again(wing: Stage) -> None:
    """With other masks in the backward pass the gradients would differ from those of no remat."""
    one, found = helpers.batch(rows=4, length=8), []
    params = helpers.weights("tiny_llama2", *OPTIONS)
    for seed, policy in ((0, "none"), (0, "full"), (1, "full")):
        options = (f"remat_policy={policy}", f"init_weights_seed={seed}")
        rt = helpers.runtime("tiny_llama2", *OPTIONS, *options, stage=wing)
        key = steps.step_key(rt.settings, jnp.zeros((), jnp.int32))
        program = functools.partial(
            steps.loss_and_gradients, rt.backend, z_loss=0.0, accumulation=2
        )
        found.append(helpers.numpy(jax.jit(program)(dict(params), one, key)[1]))
    helpers.same(found[1], found[0], atol=1e-6)
    kernel = "decoder/layers/mlp/wo/kernel"
    assert np.abs(found[2][kernel] - found[0][kernel]).max() > 1e-3  # the control


@pytest.mark.parametrize("cut", [1, 2])
def test_a_resumed_run_draws_the_masks_that_would_have_followed(cut: int, wing: Stage) -> None:
    options = ("dropout_rate=0.2", "base_num_decoder_layers=2")
    rt = helpers.runtime("tiny_llama2", *options, stage=wing)
    batches = [helpers.batch(rows=4, seed=i) for i in range(4)]
    whole, last = helpers.train(rt, rt.init(), batches)
    first, half = helpers.train(rt, rt.init(), batches[:cut])
    again = Runtime(helpers.config("tiny_llama2", *options, stage=wing), jax.devices()[:1])
    second, end = helpers.train(again, again.leaves(half), batches[cut:])
    assert first + second == whole
    helpers.same(end, last)
    # Negative control: with the step number lost, other masks are drawn.
    lost = half | {"step": np.zeros((), np.int32)}
    other, _ = helpers.train(again, again.leaves(lost), batches[cut:])
    assert other[0]["loss"] != whole[cut]["loss"]


def test_evaluation_and_logits_drop_nothing(wing: Stage) -> None:
    rt = helpers.runtime("tiny_llama2", "dropout_rate=0.5", stage=wing)
    plain = helpers.runtime("tiny_llama2", stage=wing)
    params, one = helpers.only(rt, helpers.weights("tiny_llama2")), helpers.batch()
    np.testing.assert_array_equal(rt.logits(params, one), plain.logits(params, one))
    dropping, still = rt.evaluate(params, one), plain.evaluate(params, one)
    assert float(dropping.cross_entropy) == float(still.cross_entropy)
    helpers.same(rt.gradients(params, one)[1], plain.gradients(params, one)[1])
    # The control: in training the rate is in force.
    losses = [
        float(r.train(helpers.fresh(r, helpers.weights("tiny_llama2")), one)[1]["loss"])
        for r in (rt, plain)
    ]
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_rate_is_respected_and_the_mean_kept(rate: float) -> None:
    rows, features = 64, 512
    context = helpers.context(rows, 3, key=jax.random.key(0))
    got = np.asarray(dropout.forward(jnp.ones((rows, 3, features)), rate, context, "here"))
    dropped = got == 0
    n = rows * features
    assert abs(dropped[:, 0].mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / n)
    np.testing.assert_allclose(got[~dropped], 1 / (1 - rate), rtol=1e-6)
    # One mask for all tokens of a row, as in MaxText; another for each row.
    assert (dropped == dropped[:, :1]).all()
    assert (dropped[0] != dropped[1]).any()


def test_without_a_key_or_a_rate_nothing_is_dropped() -> None:
    x = jnp.ones((2, 3, 8))
    context = helpers.context(2, 3, key=jax.random.key(0))
    assert dropout.forward(x, 0.0, context, "here") is x
    assert dropout.forward(x, 0.5, dataclasses.replace(context, key=None), "here") is x
