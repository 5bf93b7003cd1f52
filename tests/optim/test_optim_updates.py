"""Optimizers against float64 NumPy: adamw, adam_pax, sgd, muon, clipping, spikes and masks."""

import math
from typing import Any

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxmig import optim, trees
from maxmig.config.flags import Stage
from maxmig.core import part
from maxmig.optim.adam_pax import adam_pax
from maxmig.optim.build import matrices
from maxmig.optim.spikes import skip_on_spikes
from maxmig.train import step as steps

FLAT = (  # a constant learning rate, so that the closed forms stay short
    "learning_rate=0.01",
    "warmup_steps_fraction=0",
    "learning_rate_final_fraction=1.0",
)


def draw(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def optimizer(*options: str) -> optax.GradientTransformation:
    cfg = helpers.config("tiny_llama2", *FLAT, *options)
    shape = (4, 4)
    spec = {
        f"decoder/{name}/kernel": part.Param(shape, (None, None), None, jnp.float32, (0,))  # type: ignore[arg-type]
        for name in ("one", "two")
    }
    return optim.build(cfg, spec)


def trajectory(tx: optax.GradientTransformation, count: int = 4) -> tuple[Any, list[Any]]:
    """(weights after each update, gradients) of two 4 x 4 matrices."""
    params = {"decoder": {n: {"kernel": draw(4, 4, seed=i)} for i, n in enumerate(("one", "two"))}}
    state, seen, grads = tx.init(params), [params], []
    for i in range(count):
        g = jax.tree.map(lambda p, i=i: draw(*p.shape, seed=int(abs(p[0, 0]) * 1e6) + i), params)
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
        grads.append(g)
    flat = [{p.split("/")[1]: np.float64(v) for p, v in trees.flatten(t).items()} for t in seen]
    return flat, [
        {p.split("/")[1]: np.float64(v) for p, v in trees.flatten(t).items()} for t in grads
    ]


def adam(kind: str, w: np.ndarray, grads: list[np.ndarray], decay: float) -> list[np.ndarray]:
    """Loshchilov and Hutter's AdamW, or PaxML's Adam as MaxText has it."""
    b1, b2, m, v, out = 0.9, 0.95, np.zeros_like(w), np.zeros_like(w), []
    for c, g in enumerate(grads):
        if kind == "adamw":
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            hat_m, hat_v = m / (1 - b1 ** (c + 1)), v / (1 - b2 ** (c + 1))
        else:
            d1, d2 = (b * (1 - b**c) / (1 - b ** (c + 1)) for b in (b1, b2))
            m, v = d1 * m + (1 - d1) * g, d2 * v + (1 - d2) * g**2
            hat_m, hat_v = m, v
        w = w - 0.01 * (hat_m / (np.sqrt(hat_v) + 1e-8) + decay * w)
        out.append(w)
    return out


@pytest.mark.parametrize("kind", ["adamw", "adam_pax"])
@pytest.mark.parametrize("masked", [False, True])
def test_adam_is_the_definition(kind: str, masked: bool) -> None:
    options = ("adamw_mask=['^decoder/two/']",) if masked else ()
    seen, grads = trajectory(optimizer(f"opt_type={kind}", *options))
    for name in ("one", "two"):
        decay = 0.0 if masked and name == "two" else 0.1
        wanted = adam(kind, seen[0][name], [g[name] for g in grads], decay)
        for got, want in zip(seen[1:], wanted, strict=True):
            np.testing.assert_allclose(got[name], want, rtol=0, atol=2e-6)
        undecayed = adam(kind, seen[0][name], [g[name] for g in grads], 0.1 - decay)
        assert np.abs(seen[-1][name] - undecayed[-1]).max() > 1e-3  # the comparison can tell


def test_adam_pax_folds_the_bias_correction_into_the_decays() -> None:
    """Without eps, PaxML's Adam and Adam with bias correction are the same in exact arithmetic."""
    tx = adam_pax(lambda count: 0.01, 0.9, 0.95, 0.0, 0.0, 0.1)
    pax, grads = trajectory(tx, 6)
    wanted = adam("adamw", pax[0]["one"], [g["one"] for g in grads], 0.1)
    np.testing.assert_allclose(pax[-1]["one"], wanted[-1], atol=2e-6)


def test_sgd_is_the_definition() -> None:
    seen, grads = trajectory(optimizer("opt_type=sgd"))
    for before, after, g in zip(seen, seen[1:], grads, strict=False):
        np.testing.assert_allclose(after["one"], before["one"] - 0.01 * g["one"], atol=1e-7)


def test_muon_is_the_definition() -> None:
    seen, grads = trajectory(optimizer("opt_type=muon", "muon_consistent_rms=0.2"))
    w, m = seen[0]["one"], np.zeros((4, 4))
    for c, g in enumerate(grads):
        g = g["one"]
        m = 0.95 * m + 0.05 * g
        u = 0.95 * m / (1 - 0.95 ** (c + 2)) + 0.05 * g / (1 - 0.95 ** (c + 1))
        x = u / np.linalg.norm(u)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        w = w - 0.01 * 0.2 * math.sqrt(4) * x
        np.testing.assert_allclose(seen[c + 1]["one"], w, rtol=0, atol=1e-5)


def test_muons_matrices_of_llama2() -> None:
    """MaxText's table: rows are what is contracted, layers are a batch, the rest is Adam's."""
    spec = helpers.runtime("tiny_llama2", "opt_type=muon").backend.spec
    table = trees.flatten(matrices(spec))
    assert set(table) == set(spec)
    at = "decoder/layers"
    got = {p: (tuple(n.reduction_axis), tuple(n.output_axis)) for p, n in table.items() if n}
    assert got == {
        f"{at}/self_attention/query/kernel": ((0,), (2, 3)),
        f"{at}/self_attention/key/kernel": ((0,), (2, 3)),
        f"{at}/self_attention/value/kernel": ((0,), (2, 3)),
        f"{at}/self_attention/out/kernel": ((0, 2), (3,)),
        f"{at}/mlp/wi_0/kernel": ((0,), (2,)),
        f"{at}/mlp/wi_1/kernel": ((0,), (2,)),
        f"{at}/mlp/wo/kernel": ((0,), (2,)),
    }
    unscanned = helpers.runtime("tiny_llama2", "opt_type=muon", "scan_layers=false").backend.spec
    out = trees.flatten(matrices(unscanned))["decoder/layers_3/self_attention/out/kernel"]
    assert (tuple(out.reduction_axis), tuple(out.output_axis)) == ((0, 1), (2,))


def test_muons_matrices_of_experts() -> None:
    """Each expert's kernels are matrices of their own, beside one another like layers."""
    spec = helpers.runtime("tiny_mixtral").backend.spec
    moe = "decoder/layers/MoeBlock_0"
    assert spec[f"{moe}/wi_0"].shape == (4, 3, 32, 48)
    table = trees.flatten(matrices(spec))
    for name in ("wi_0", "wi_1", "wo"):
        found = table[f"{moe}/{name}"]
        assert (found.reduction_axis, found.output_axis) == ((2,), (3,)), name
    router = table[f"{moe}/gate/kernel"]
    assert (router.reduction_axis, router.output_axis) == ((0,), (2,))


@pytest.mark.parametrize("limit", [0.0, 0.5, 1e6])
def test_clipping_is_by_the_global_norm(limit: float) -> None:
    grads = {"a": jnp.asarray(draw(3, 2, seed=0)), "b": jnp.asarray(draw(5, seed=1))}
    norm = math.sqrt(sum(float(np.sum(np.float64(g) ** 2)) for g in grads.values()))
    assert 0.5 < norm < 1e6
    measured = steps.global_norm(grads)
    assert float(measured) == pytest.approx(norm, rel=1e-6)
    got = steps.clip(grads, measured, limit)
    factor = 0.5 / norm if limit == 0.5 else 1.0
    for path, g in grads.items():
        np.testing.assert_allclose(got[path], np.float64(g) * factor, rtol=1e-6)


def calm(past: list[float], value: float, factor: float) -> bool:
    known = np.float64(past)
    return bool(value - known.mean() <= factor * known.std(ddof=1))


def test_spikes_are_skipped_by_maxtexts_rule() -> None:
    tx = skip_on_spikes(optax.sgd(1.0), 6, 2.0)
    params = {"w": jnp.zeros(())}
    state = tx.init(params)
    losses = [5.0, 4.0, 4.5, 4.4, 9.0, 4.1, 4.2, 4.0, 30.0, 4.1]
    norms = [1.0, 1.1, 0.9, 1.0, 1.0, 8.0, 1.1, 1.0, 1.0, 1.05]
    skipped = []
    for i, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        before = params
        updates, state = tx.update(
            {"w": jnp.ones(())}, state, params, loss=jnp.asarray(loss), grad_norm=jnp.asarray(norm)
        )
        params = optax.apply_updates(params, updates)
        early = i + 1 < 3
        wanted = early or (
            calm(losses[max(0, i - 6) : i], loss, 2.0) and calm(norms[max(0, i - 6) : i], norm, 2.0)
        )
        assert bool(state["is_skipped"]) != wanted, i
        assert float(params["w"]) == float(before["w"]) - wanted
        skipped.append(not wanted)
    assert [i for i, s in enumerate(skipped) if s] == [4, 5, 8]
    # A skipped step's values enter the record all the same, in a ring of six.
    assert sorted(np.asarray(state["losses"]).tolist()) == pytest.approx(sorted(losses[-6:]))
    assert int(state["count"]) == 10


def test_a_skipped_step_leaves_the_inner_state_alone() -> None:
    tx = skip_on_spikes(optax.adam(1.0), 4, 1.0)
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    for loss in (1.1, 1.0, 1.0, 50.0):
        before = state["inner_state"]
        _, state = tx.update(params, state, params, loss=jnp.asarray(loss), grad_norm=jnp.ones(()))
    assert bool(state["is_skipped"])
    jax.tree.map(np.testing.assert_array_equal, state["inner_state"], before)
    assert int(before[0].count) == 3


def test_masks_choose_by_canonical_path_on_both_wings(wing: Stage) -> None:
    """With zero gradients only weight decay moves a weight, so what moved is what decays."""
    options = (
        *FLAT,
        "scan_layers=false",
        "base_num_decoder_layers=2",
        "adamw_mask=['norm/scale$', '^token_embedder/', 'layers_1/mlp/wo']",
    )
    rt = helpers.runtime("tiny_llama2", *options, stage=wing)
    params = helpers.weights("tiny_llama2", *options)
    assert moved(rt, params) == {
        path
        for path in params
        if not path.endswith("norm/scale")
        and not path.startswith("token_embedder/")
        and path != "decoder/layers_1/mlp/wo/kernel"
    }


def test_frozen_parameters_neither_decay_nor_have_moments(wing: Stage) -> None:
    options = (*FLAT, "base_num_decoder_layers=2", "trainable_parameters_mask=['/mlp/']")
    rt = helpers.runtime("tiny_llama2", *options, stage=wing)
    params = helpers.weights("tiny_llama2", *options)
    assert moved(rt, params) == {path for path in params if "/mlp/" in path}
    moments = {path for path in rt.view.paths if "/mu/" in path}
    assert len(moments) == 3
    assert all("/mlp/" in path for path in moments)


def moved(rt: Any, params: dict[str, Any]) -> set[str]:
    native = rt.view.native(rt.state(helpers.fresh(rt, params)))
    zeros = {path: jnp.zeros(value.shape) for path, value in params.items()}
    one = jnp.ones(())
    after = rt.backend.params(rt.backend.update(native, zeros, loss=one, grad_norm=one))
    return {path for path in params if (np.asarray(after[path]) != params[path]).any()}


def test_the_skeleton_names_the_containers_of_the_state() -> None:
    rt = helpers.runtime("tiny_llama2", "opt_type=adamw")
    assert rt.skeleton == {
        "tuple": [
            {"dict": {"count": "array", "mu": {"params": []}, "nu": {"params": []}}},
            None,
            {"dict": {"count": "array"}},
        ]
    }
    pax = helpers.runtime("tiny_gpt3").skeleton
    assert pax == {"dict": {"count": "array", "mu": {"params": []}, "nu": {"params": []}}}
    muon = helpers.runtime("tiny_llama2", "opt_type=muon")
    inner = muon.skeleton["dict"]["inner_states"]["dict"]["muon"]["dict"]["inner_state"]["tuple"]
    left_out = set(inner[0]["dict"]["mu"]["params"])
    table = trees.flatten(matrices(muon.backend.spec))
    assert left_out == {path for path, numbers in table.items() if numbers is None}
    assert "token_embedder/embedding" in left_out
