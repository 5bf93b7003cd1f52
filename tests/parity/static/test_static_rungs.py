"""Whole training steps of the framework: all rungs are proved, and a bug in one is found."""

import functools
import resource
from typing import Any

import numpy as np
import pytest

from maxmig import config
from maxmig.parity import programs, static
from maxmig.parity.faults import bugs, specimen
from maxmig.parity.faults.specimen import Side
from maxmig.parity.programs import Program


@functools.cache
def rung(family: str, scan: bool, stage: str) -> dict[str, Program]:
    """All programs of a rung of a small model."""
    remat = "full" if family == "llama2" else "minimal"
    changes = {"scan_layers": scan, "remat_policy": remat, "base_num_decoder_layers": 2}
    if family == "mixtral":
        changes |= {"load_balance_loss_weight": 0.01, "sparse_matmul": scan}
    cfg = config.load(f"tiny_{family}", []).replace(**changes)
    return programs.of_rung(cfg, stage, rows=2, length=16)


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("family", ["llama2", "gpt3", "mixtral"])
def test_whole_framework_is_proved(family: str, scan: bool) -> None:
    control, candidate = (rung(family, scan, stage) for stage in ("linen", "nnx"))
    assert set(control) == set(programs.NAMES)
    for name in control:
        proof = static.prove(control[name], candidate[name])
        assert proof, proof.summary


@pytest.mark.parametrize("stage", ["bridged-decoder", "bridged", "hybrid"])
def test_mixed_rungs_are_proved(stage: str) -> None:
    cfg = config.load("tiny_llama2", []).replace(remat_policy="full", base_num_decoder_layers=2)
    only = ("train_step", "decode")
    candidate = programs.of_rung(cfg, stage, only=only, rows=2, length=16)
    control = rung("llama2", True, "linen")
    for name in only:
        proof = static.prove(control[name], candidate[name])
        assert proof, proof.summary


@pytest.mark.parametrize(
    "changes",
    [
        {"enable_dropout": True, "dropout_rate": 0.1},
        {"gradient_accumulation_steps": 2, "dtype": "bfloat16"},
        {"logits_via_embedding": True, "z_loss_multiplier": 1e-4},
    ],
)
def test_features_are_proved(changes: dict[str, Any]) -> None:
    cfg = config.load("tiny_llama2", []).replace(base_num_decoder_layers=2, **changes)
    control, candidate = (
        programs.of_rung(cfg, stage, only=["train_step"])["train_step"]
        for stage in ("linen", "nnx")
    )
    proof = static.prove(control, candidate)
    assert proof, proof.summary


def test_seventy_billion_parameters_without_a_weight() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cfg = config.load("models/llama2-70b", [])
    assert cfg.model.num_decoder_layers == 80
    control, candidate = (
        programs.of_rung(cfg, stage, only=["train_step"])["train_step"]
        for stage in ("linen", "nnx")
    )
    size = sum(
        int(np.prod(aval.shape))
        for name, aval in zip(control.inputs, control.jaxpr.in_avals, strict=True)
        if name.startswith("params/")
    )
    assert size > 60e9
    assert static.prove(control, candidate)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 600, f"{grown:.0f} MiB"


@pytest.mark.parametrize(
    "bug", [b for b in bugs.BUGS if b.name != "swapped-layers"], ids=lambda bug: bug.name
)
def test_bug_in_all_layers_of_a_scan_is_found(bug: bugs.Bug) -> None:
    cfg = specimen.small(scan_layers=True, base_num_decoder_layers=3)
    control = Side(cfg, "linen").programs([bug.program])[bug.program]  # type: ignore[arg-type]
    candidate = Side(cfg, "nnx", bug).programs([bug.program])[bug.program]  # type: ignore[arg-type]
    proof = static.prove(control, candidate)
    assert not proof and proof.first and proof.first.candidate
    assert proof.first.candidate.source.rsplit(":", 1)[0] in bug.files
    module = bug.module.replace("layers_1", "layers")
    assert proof.first.path.startswith(module)
