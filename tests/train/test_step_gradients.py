"""The loss that is differentiated is the loss that is reported, in micro-batches too."""

import dataclasses
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxmig.config.flags import Stage
from maxmig.core import decoder
from maxmig.train import step as steps

SMALL = "base_num_decoder_layers=2"


def uneven() -> dict[str, np.ndarray]:
    """Rows with 16, 4, 9, 1, 0, ... counted targets: micro-batches of very different weight."""
    one = helpers.batch(rows=8, packed=False)
    counted = np.zeros((8, 16), np.int32)
    for row, n in enumerate((16, 4, 9, 1, 0, 13, 2, 7)):
        counted[row, :n] = 1
    return one | {"targets_segmentation": counted}


@dataclasses.dataclass
class WithAuxiliary:
    """A backend whose model reports an auxiliary loss that depends on its weights and its batch."""

    inner: Any

    def apply(self, params: Any, tokens: Any, context: Any, cache: Any = None) -> decoder.Output:
        out = self.inner.apply(params, tokens, context, cache)
        table = params["token_embedder/embedding"]
        losses = jnp.mean(jnp.square(table[tokens]), axis=(1, 2))
        aux = {
            "layers/balance_loss": jnp.stack([jnp.mean(losses), 3 * jnp.mean(losses)]),
            "layers/fraction": jnp.full((2,), 1e6),  # a statistic, no loss
        }
        return dataclasses.replace(out, aux=aux)


def gradients(backend: Any, params: Any, one: Any, accumulation: int, z: float = 0.0) -> Any:
    @jax.jit
    def program(params: Any, one: Any) -> Any:
        return steps.loss_and_gradients(
            backend, params, one, None, z_loss=z, accumulation=accumulation
        )

    loss, grads = program(dict(params), one)
    return {name: float(value) for name, value in loss.named().items()}, helpers.numpy(grads)


@pytest.mark.parametrize("accumulation", [2, 4, 8])
def test_micro_batches_give_the_loss_and_gradient_of_the_batch(
    accumulation: int, wing: Stage
) -> None:
    backend = helpers.runtime("tiny_llama2", SMALL, stage=wing).backend
    params, one = helpers.weights("tiny_llama2", SMALL), uneven()
    whole, wanted = gradients(backend, params, one, 1, z=1e-3)
    parts, grads = gradients(backend, params, one, accumulation, z=1e-3)
    assert whole["tokens"] == parts["tokens"] == np.count_nonzero(one["targets_segmentation"])
    assert whole["z_loss"] > 1e-3
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-6), name
    helpers.same(grads, wanted, atol=1e-6)
    # Negative control: the mean of the micro-batches' means is something else.
    split = jax.tree.map(lambda x: x.reshape(-1, accumulation, 16).swapaxes(0, 1), one)
    means = []
    for i in range(accumulation):
        micro = {key: value[i] for key, value in split.items()}
        means.append(gradients(backend, params, micro, 1, z=1e-3)[0]["total"])
    assert abs(np.mean(means) - whole["total"]) > 1e-3


@pytest.mark.parametrize("accumulation", [1, 4])
def test_an_auxiliary_loss_counts_once_and_with_its_gradient(accumulation: int) -> None:
    inner = helpers.runtime("tiny_llama2", SMALL).backend
    params, one = helpers.weights("tiny_llama2", SMALL), uneven()
    plain, base = gradients(inner, params, one, accumulation)
    with_it, grads = gradients(WithAuxiliary(inner), params, one, accumulation)
    table, tokens = params["token_embedder/embedding"], one["inputs"]
    # The mean over layers of (x, 3x) is 2x; micro-batches are equally large: means of means agree.
    auxiliary = 2 * np.mean(np.square(np.float64(table[tokens])))
    assert with_it["balance_loss"] == pytest.approx(auxiliary, rel=1e-6)
    assert "fraction" not in with_it
    assert with_it["total"] == pytest.approx(plain["total"] + auxiliary, rel=1e-6)
    assert with_it["cross_entropy"] == pytest.approx(plain["cross_entropy"], rel=1e-6)
    counts = np.bincount(tokens.ravel(), minlength=len(table))[:, None]
    extra = 2 * 2 * table * counts / (tokens.size * table.shape[1])
    changed = base | {"token_embedder/embedding": base["token_embedder/embedding"] + extra}
    assert np.abs(extra).max() > 1e-3
    helpers.same(grads, changed, atol=2e-6)


def test_the_z_loss_is_in_the_gradient(wing: Stage) -> None:
    backend = helpers.runtime("tiny_llama2", SMALL, stage=wing).backend
    params, one = dict(helpers.weights("tiny_llama2", SMALL)), helpers.batch()
    _, without = gradients(backend, params, one, 1)
    loss, grads = gradients(backend, params, one, 1, z=0.05)
    assert loss["total"] == pytest.approx(loss["cross_entropy"] + loss["z_loss"], rel=1e-6)
    helpers.same(without, gradients(backend, params, one, 1, z=0.0)[1])
    # By finite difference in a direction: the gradient is that of the total that is reported.
    rng = np.random.default_rng(0)
    at = "decoder/logits_dense/kernel"
    direction = rng.standard_normal(params[at].shape).astype(np.float32)
    up, down = (
        gradients(backend, params | {at: params[at] + e * direction}, one, 1, z=0.05)[0]["total"]
        for e in (1e-2, -1e-2)
    )
    slope = float(np.sum(grads[at] * direction))
    assert (up - down) / 2e-2 == pytest.approx(slope, rel=5e-3, abs=2e-3)
    assert abs(float(np.sum(without[at] * direction)) - slope) > 2e-2


def test_a_batch_without_targets_has_no_loss_and_no_gradient(wing: Stage) -> None:
    backend = helpers.runtime("tiny_llama2", SMALL, stage=wing).backend
    one = helpers.batch()
    one["targets_segmentation"] = np.zeros_like(one["targets_segmentation"])
    params = helpers.weights("tiny_llama2", SMALL)
    for accumulation in (1, 2):
        loss, grads = gradients(backend, params, one, accumulation, z=1e-3)
        assert loss == dict.fromkeys(loss, 0.0)
        helpers.same(grads, {path: np.zeros_like(v) for path, v in params.items()})


def test_rows_go_to_micro_batches_in_turn() -> None:
    x = jnp.arange(12).reshape(6, 2)
    got = steps._split(x, 3)
    assert np.asarray(got)[:, :, 0].tolist() == [[0, 6], [2, 8], [4, 10]]


def test_metrics_tell_what_happened(wing: Stage) -> None:
    rt = helpers.runtime(
        "tiny_llama2",
        SMALL,
        "gradient_clipping_threshold=0.25",
        "z_loss_multiplier=0.001",
        "learning_rate=0.5",
        "steps=10",
        "warmup_steps_fraction=0.5",
        stage=wing,
    )
    params, one = helpers.weights("tiny_llama2", SMALL), helpers.batch()
    metrics, state = helpers.train(rt, helpers.fresh(rt, params), [one] * 2)
    loss, grads = rt.gradients(helpers.only(rt, params), one)
    norm = float(np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in grads.values())))
    first, second = metrics
    assert first["loss"] == pytest.approx(float(loss.total), rel=1e-6)
    assert first["loss"] == pytest.approx(first["lm_loss"] + first["z_loss"], rel=1e-6)
    assert first["raw_grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert norm > 0.25
    assert first["grad_norm"] == pytest.approx(0.25, rel=1e-5)
    assert [m["learning_rate"] for m in metrics] == pytest.approx([0.0, 0.1])
    assert first["total_weights"] == np.count_nonzero(one["targets_segmentation"])
    # At rate 0 the first step changed nothing, so the second has the same loss.
    assert second["loss"] == first["loss"]
    weights = [np.float64(v) for p, v in state.items() if p.startswith("params/")]
    assert second["param_norm"] == pytest.approx(
        float(np.sqrt(sum(np.sum(w**2) for w in weights))), rel=1e-6
    )
