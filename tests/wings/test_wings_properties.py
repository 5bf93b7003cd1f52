"""What must hold for any decoder-only model, on both wings: causality, isolation, the cache."""

import dataclasses
import functools
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from maxmig.config.flags import Stage
from maxmig.core.context import Context
from maxmig.core.kv_cache import Cache

# The table whose row i is read by position i alone (tokens are distinct; gpt3's token table is
# tied, so that all of its rows take part in every logit).
BY_POSITION = {
    "tiny_llama2": "token_embedder/embedding",
    "tiny_gpt3": "decoder/position_embedder/embedding",
    "tiny_mixtral": "token_embedder/embedding",
}


def reach(name: str, stage: Stage, *overrides: str) -> np.ndarray:
    """[L, L]: how much the logits at i depend on the input at j."""
    if name == "tiny_mixtral":  # JAX does not batch the products of sorted tokens, as jacrev asks
        overrides = (*overrides, "sparse_matmul=false")
    rt = helpers.runtime(name, *overrides, stage=stage)
    params = dict(helpers.weights(name, *overrides))
    tokens = jnp.arange(12, dtype=jnp.int32)[None]

    @jax.jit
    def jacobian(table: Any) -> Any:
        def logits(table: Any) -> Any:
            given = params | {BY_POSITION[name]: table}
            return jnp.sum(jnp.abs(rt.backend.apply(given, tokens, Context.of(tokens)).logits), -1)

        return jax.jacrev(logits)(table)

    return np.abs(jacobian(params[BY_POSITION[name]]))[0, :, :12].sum(-1)


@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_a_logit_depends_on_what_came_before_and_on_nothing_after(name: str, wing: Stage) -> None:
    found = reach(name, wing)
    above = np.triu_indices(12, 1)
    assert np.all(found[above] == 0)
    assert np.all(found[np.tril_indices(12)] > 0)


@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_a_window_reaches_as_far_as_its_layers_together(name: str, wing: Stage) -> None:
    found = reach(name, wing, "sliding_window_size=2", "base_num_decoder_layers=3")
    back = np.subtract.outer(np.arange(12), np.arange(12))
    assert np.all(found[back > 3] == 0)
    assert np.all(found[(back >= 0) & (back <= 3)] > 0)


@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_the_whole_model_is_the_float64_reference(name: str, wing: Stage) -> None:
    options = ("scan_layers=false",)
    rt = helpers.runtime(name, *options, stage=wing)
    params, one = helpers.weights(name, *options), helpers.batch()
    model, layers = reference.MODELS[name]
    wanted = model(params, one, layers)
    got = rt.logits(helpers.only(rt, params), one)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-5)
    cross, _ = reference.losses(wanted, one["targets"], one["targets_segmentation"])
    loss, _ = rt.gradients(helpers.only(rt, params), one)
    tokens = np.count_nonzero(one["targets_segmentation"])
    assert float(loss.total) == pytest.approx(cross / tokens, rel=2e-6)


@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_packed_documents_are_as_if_alone(name: str, wing: Stage) -> None:
    rt = helpers.runtime(name, stage=wing)
    params = helpers.only(rt, helpers.weights(name))
    one = helpers.batch()
    packed = np.asarray(rt.logits(params, one))
    for row, segment in ((0, 1), (0, 2), (1, 1), (1, 2)):
        here = np.flatnonzero(one["inputs_segmentation"][row] == segment)
        assert 1 < len(here) < 16
        alone = {key: value[row : row + 1, here] for key, value in one.items()}
        alone["inputs_segmentation"] = np.ones_like(alone["inputs_segmentation"])
        got = np.asarray(rt.logits(params, alone))[0]
        np.testing.assert_allclose(got, packed[row, here], rtol=0, atol=1e-5)
    # Negative control: as one document the second one sees the first.
    merged = one | {"inputs_segmentation": np.ones_like(one["inputs_segmentation"])}
    second = one["inputs_segmentation"] == 2
    assert np.abs(np.asarray(rt.logits(params, merged)) - packed)[second].max() > 1e-2


@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_padding_has_no_say(name: str, wing: Stage) -> None:
    rt = helpers.runtime(name, stage=wing)
    params = helpers.only(rt, helpers.weights(name))
    one = helpers.batch()
    pad = one["inputs_segmentation"] == 0
    assert pad.any()
    other = one | {
        "inputs": np.where(pad, 77, one["inputs"]),
        "targets": np.where(pad, 78, one["targets"]),
        "inputs_position": np.where(pad, 5, one["inputs_position"]),
    }
    np.testing.assert_array_equal(
        np.asarray(rt.logits(params, one))[~pad], np.asarray(rt.logits(params, other))[~pad]
    )
    (loss, grads), (changed, others) = rt.gradients(params, one), rt.gradients(params, other)
    assert float(loss.total) == float(changed.total)
    assert float(loss.tokens) == np.count_nonzero(~pad)
    helpers.same(grads, others)


@pytest.mark.parametrize("options", [(), ("scan_layers=false",), ("sliding_window_size=3",)])
@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_prefill_and_decoding_with_a_cache_are_the_full_forward(
    name: str, options: tuple[str, ...], wing: Stage
) -> None:
    rt = helpers.runtime(name, *options, stage=wing)
    params = helpers.weights(name, *options)
    tokens = jnp.asarray(helpers.batch(packed=False)["inputs"][:, :12])
    positions = jnp.asarray(np.tile(np.arange(12, dtype=np.int32), (2, 1)))

    @jax.jit
    def run(tokens: Any, positions: Any, cache: Cache | None) -> tuple[Any, Cache | None]:
        context = Context(positions, jnp.ones_like(tokens))
        out = rt.backend.apply(params, tokens, context, cache)
        return out.logits, out.cache

    full, none = run(tokens, positions, None)
    assert none is None
    empty = rt.model.empty_cache(2, 14)
    logits, cache = run(tokens[:, :7], positions[:, :7], empty)
    np.testing.assert_allclose(logits, full[:, :7], rtol=0, atol=1e-5)
    for i in range(7, 12):
        logits, after = run(tokens[:, i : i + 1], positions[:, i : i + 1], cache)
        np.testing.assert_allclose(logits[:, 0], full[:, i], rtol=0, atol=1e-5)
        cache = after
    assert int(cache.length) == 12
    np.testing.assert_array_equal(cache.segment_ids, [[1] * 12 + [0] * 2] * 2)
    # Negative control: a cache that has forgotten the prompt gives other logits.
    forgot = dataclasses.replace(empty, length=jnp.asarray(11, jnp.int32))
    logits, _ = run(tokens[:, 11:], positions[:, 11:], forgot)
    assert float(jnp.abs(logits[:, 0] - full[:, 11]).max()) > 1e-2


@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_a_cache_keeps_rows_of_other_lengths_apart(name: str, wing: Stage) -> None:
    """Row 1's prompt is padded on the right; its padding is never seen by what follows."""
    rt = helpers.runtime(name, stage=wing)
    params = helpers.weights(name)
    apply = jax.jit(functools.partial(rt.backend.apply, params))
    tokens = jnp.asarray(helpers.batch(packed=False)["inputs"][:, :6])
    positions = jnp.asarray([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 0, 0]], jnp.int32)
    segments = jnp.asarray([[1] * 6, [1] * 4 + [0] * 2], jnp.int32)
    cache = rt.model.empty_cache(2, 8)
    cache = apply(tokens, Context(positions, segments), cache).cache
    step = Context(jnp.asarray([[6], [4]], jnp.int32), jnp.ones((2, 1), jnp.int32))
    new = jnp.asarray([[9], [10]], jnp.int32)
    got = apply(new, step, cache).logits
    for row, prompt in ((0, 6), (1, 4)):
        alone = jnp.concatenate([tokens[row : row + 1, :prompt], new[row : row + 1]], axis=1)
        wanted = apply(alone, Context.of(alone)).logits[0, -1]
        np.testing.assert_allclose(got[row, 0], wanted, rtol=0, atol=1e-5)
