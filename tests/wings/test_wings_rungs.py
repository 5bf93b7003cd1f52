"""The five rungs: each proves what it is; all start alike and train alike, bit for bit."""

import os
import subprocess
import sys
from typing import Any

import helpers
import jax
import numpy as np
import pytest

from maxmig import backend as backends
from maxmig import bridge
from maxmig.config.flags import Stage
from maxmig.core import decoder
from maxmig.train.runtime import Runtime

TWO = "base_num_decoder_layers=2"

STATES = {
    Stage.LINEN: "maxmig.linen.state.State",
    Stage.BRIDGED_DECODER: "maxmig.linen.state.State",
    Stage.BRIDGED: "maxmig.linen.state.State",
    Stage.HYBRID: "maxmig.nnx.state.State",
    Stage.NNX: "maxmig.nnx.state.State",
}
# Frameworks of (model, token table, decoder, the decoder's own layers).
WHO = {
    Stage.LINEN: ("linen", "linen", "linen", "linen"),
    Stage.BRIDGED_DECODER: ("nnx", "nnx", "linen", "linen"),
    Stage.BRIDGED: ("nnx", "nnx", "nnx", "nnx"),
    Stage.HYBRID: ("nnx", "nnx", "linen", "linen"),
    Stage.NNX: ("nnx", "nnx", "nnx", "nnx"),
}


@pytest.mark.parametrize("scan", ["scan_layers=true", "scan_layers=false"])
def test_a_rung_proves_what_it_is(scan: str, stage: Stage) -> None:
    proof = helpers.runtime("tiny_llama2", TWO, scan, stage=stage).proof
    assert proof.stage is stage
    assert proof.state == STATES[stage]
    classes = zip(("Model", "Embed", "Decoder", "Norm"), WHO[stage], strict=True)
    assert {f"{framework}.{name}" for name, framework in classes} <= set(proof.modules)
    others = {f"{framework}.Dense" for framework in ("linen", "nnx")} & set(proof.modules)
    assert others == {f"{WHO[stage][3]}.Dense"}
    assert all(count > 0 for count in proof.modules.values())
    assert str(proof).startswith(f"{stage.value}: ")


@pytest.mark.parametrize("really", list(Stage))
def test_the_proof_looks_at_the_objects_and_not_at_the_flags(
    really: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the flags say one rung, the wiring builds another."""
    flags = Stage.LINEN if really is Stage.NNX else Stage.NNX
    monkeypatch.setattr(backends, "select", lambda cfg, model: backends.at(really, model))
    cfg = helpers.config("tiny_llama2", TWO, stage=flags)
    rt = Runtime(cfg, devices=jax.devices()[:1])
    assert cfg.flags.stage is flags
    assert rt.proof.stage is really


def test_a_bridge_that_forgets_the_linen_decoder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "nnx_over_linen", dict)
    for flags, really in ((Stage.HYBRID, Stage.NNX), (Stage.BRIDGED_DECODER, Stage.BRIDGED)):
        cfg = helpers.config("tiny_llama2", TWO, stage=flags)
        assert Runtime(cfg, devices=jax.devices()[:1]).proof.stage is really


def test_a_model_of_no_framework_proves_nothing() -> None:
    rt = helpers.runtime("tiny_llama2", TWO, stage=Stage.LINEN)

    class Nothing:
        module = object()
        spec = rt.backend.spec

        def apply(self, params: Any, tokens: Any, context: Any) -> decoder.Output:
            return decoder.Output(tokens, None, {})

    with pytest.raises(RuntimeError, match="no rung has a state of none"):
        backends.prove(Nothing())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_all_rungs_start_from_the_same_numbers(name: str, stage: Stage) -> None:
    wanted = helpers.runtime(name, TWO)
    rt = helpers.runtime(name, TWO, stage=stage)
    helpers.same(helpers.numpy(rt.state(rt.init())), helpers.numpy(wanted.state(wanted.init())))
    assert {p: (a.shape, a.dtype) for p, a in rt.abstract.items()} == {
        p: (a.shape, a.dtype) for p, a in wanted.abstract.items()
    }
    assert rt.view.paths == wanted.view.paths
    assert rt.skeleton == wanted.skeleton


def test_scanned_or_not_a_run_starts_from_the_same_numbers(wing: Stage) -> None:
    stacked = helpers.runtime("tiny_llama2", TWO, stage=wing)
    apart = helpers.runtime("tiny_llama2", TWO, "scan_layers=false", stage=wing)
    one, other = (
        {path: value for path, value in rt.state(rt.init()).items() if path.startswith("params/")}
        for rt in (stacked, apart)
    )
    helpers.same(helpers.numpy(one), helpers.restack(helpers.numpy(other), 1))


MASKS = ("adamw_mask=['norm/scale$']", "trainable_parameters_mask=['mlp','norm']")

RUNS = {
    "adamw": ("tiny_llama2",),
    "adamw, dropout, accumulation": (
        "tiny_llama2",
        "dropout_rate=0.2",
        "gradient_accumulation_steps=4",
    ),
    "adam_pax, dropout": ("tiny_gpt3", "dropout_rate=0.2"),
    "adam_pax, accumulation, unscanned": (
        "tiny_gpt3",
        "gradient_accumulation_steps=4",
        "scan_layers=false",
    ),
    "sgd, dropout, unscanned": (
        "tiny_llama2",
        "opt_type=sgd",
        "dropout_rate=0.2",
        "scan_layers=false",
    ),
    "muon": ("tiny_llama2", "opt_type=muon"),
    "adamw, masks, spikes, accumulation": (
        "tiny_llama2",
        "skip_step_on_spikes=true",
        "gradient_accumulation_steps=4",
        *MASKS,
    ),
}


@pytest.mark.parametrize("run", list(RUNS))
def test_all_rungs_train_bit_for_bit_alike(run: str) -> None:
    name, *options = RUNS[run]
    options += [TWO, "warmup_steps_fraction=0", "learning_rate=0.01"]
    batches = [helpers.batch(rows=4, length=8, seed=i) for i in range(3)]
    params = helpers.weights(name, *options)
    results = {}
    for stage in Stage:
        rt = helpers.runtime(name, *options, stage=stage)
        results[stage] = helpers.train(rt, helpers.fresh(rt, params), batches)
    metrics, state = results[Stage.LINEN]
    assert len({m["loss"] for m in metrics}) == 3
    assert all(np.isfinite(list(m.values())).all() for m in metrics)
    assert int(state["step"]) == 3
    trained = {p for p in params if (state[f"params/{p}"] != params[p]).any()}
    frozen = {p for p in params if run.startswith("adamw, masks") and not masked(p)}
    assert trained == set(params) - frozen and trained
    for stage in Stage:
        assert results[stage][0] == metrics, stage
        helpers.same(results[stage][1], state)


def test_exactness_does_not_hang_on_how_the_tests_compile() -> None:
    """The same with XLA's own settings, which users have; conftest.py makes faster ones."""
    env = os.environ | {"XLA_FLAGS": "", "MAXMIG_XLA_DEFAULTS": "1"}
    run = f"{__file__}::test_all_rungs_train_bit_for_bit_alike[adamw]"
    words = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", run]
    done = subprocess.run(words, cwd=helpers.ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def masked(path: str) -> bool:
    return "mlp" in path or "norm" in path


def test_without_dropout_the_same_run_is_another(wing: Stage) -> None:
    """Negative control of bitwise equality: any one changed setting is seen in it."""
    params = helpers.weights("tiny_llama2", TWO)
    batches = [helpers.batch(rows=4, length=8)] * 2
    losses = set()
    for options in ((), ("dropout_rate=0.2",), ("learning_rate=0.02",)):
        rt = helpers.runtime("tiny_llama2", TWO, "warmup_steps_fraction=0", *options, stage=wing)
        losses.add(helpers.train(rt, helpers.fresh(rt, params), batches)[0][-1]["loss"])
    assert len(losses) == 3
