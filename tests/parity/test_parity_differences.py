"""What two sides of a migration got differently in practice: each is found, and named, both ways.

No case may be proved equal (L0) or be equal in float64 (L1); the first difference that is told must
be the place where it was put in.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import pytest

from maxmig.config import Stage
from maxmig.core import attention
from maxmig.parity import shadow, static
from maxmig.parity.faults import bugs, specimen
from maxmig.parity.faults.bugs import Bug
from maxmig.parity.faults.specimen import Side
from maxmig.parity.findings.check import Verdict
from maxmig.parity.programs import Program
from maxmig.parity.sides import probes

LAYER = "decoder/layers_0"


def _unsegmented() -> Any:
    """Packed documents see one another."""
    original = attention.mask

    def mask(cfg: Any, context: Any, keys: int) -> Any:
        whole = dataclasses.replace(context, segment_ids=jax.numpy.ones_like(context.segment_ids))
        return original(cfg, whole, keys)

    return bugs.replaced(attention, mask=mask)


def _stopped(params: Mapping[str, Any]) -> dict[str, Any]:
    path = f"{LAYER}/mlp/wi_0/kernel"
    return {**params, path: jax.lax.stop_gradient(params[path])}


def _swapped(params: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of queries and keys, which have one shape."""
    query, key = (f"{LAYER}/self_attention/{name}/kernel" for name in ("query", "key"))
    return {**params, query: params[key], key: params[query]}


def bug(name: str, program: str, module: str, file: str, **how: Any) -> Any:
    return pytest.param(Bug(name, name, module, (file,), program=program, **how), id=name)


def setting(program: str, module: str, file: str, **settings: Any) -> Any:
    return bug(next(iter(settings)), program, module, file, settings=settings)


CASES = [
    setting("forward", f"{LAYER}/", "maxmig/core/norms.py", normalization_layer_epsilon=2e-6),
    setting("forward", f"{LAYER}/self_attention", "maxmig/core/rope.py", rope_max_timescale=9999),
    setting("forward", "", "maxmig/core/decoder.py", final_logits_soft_cap=1000.0),
    setting("train_step", "decoder", "maxmig/core/dropout.py", dropout_rate=0.2),
    setting("train_step", "", "maxmig/train/step.py", init_weights_seed=1),
    setting("train_step", "", "maxmig/train/step.py", gradient_clipping_threshold=0.5),
    setting("train_step", "", "optax/", adam_b2=0.99),
    setting("train_step", "", "optax/", adamw_mask=["decoder_norm"]),
    setting("train_step", "", "optax/", warmup_steps_fraction=0.3),
    setting("gradients", "", "maxmig/core/losses.py", z_loss_multiplier=1e-5),
    bug("packing mask", "forward", LAYER, "maxmig/core/attention.py", patch=_unsegmented),
    bug("stopped gradient", "gradients", LAYER, "maxmig/core/dense.py", params=_stopped),
    bug("swapped query and key", "forward", LAYER, "maxmig/core/", params=_swapped),
]


@pytest.fixture(scope="module")
def cfg() -> Any:
    return specimen.small(
        base_num_decoder_layers=1,
        max_target_length=16,
        dropout_rate=0.1,
        base_num_kv_heads=2,
        base_num_query_heads=2,
        steps=20,
    )


@pytest.fixture(scope="module")
def clean(cfg: Any) -> Any:
    @functools.cache
    def traced(stage: Stage, name: str) -> Program:
        return Side(cfg, stage, length=16).programs([name])[name]

    return traced


@pytest.fixture(scope="module")
def given(cfg: Any) -> dict[str, Any]:
    side = Side(cfg, Stage.LINEN, length=16)
    return probes.amid(side.runtime(), side.inputs(), moments=True)


@pytest.mark.parametrize("wrong", CASES)
def test_it_is_found_and_named(cfg: Any, clean: Any, given: Any, wrong: Bug) -> None:
    broken = Side(cfg, Stage.NNX, wrong, length=16).programs([wrong.program])[wrong.program]
    right = clean(Stage.LINEN, wrong.program)
    for control, candidate in ((right, broken), (broken, right)):
        assert not static.prove(control, candidate)
        if control is broken and wrong.program == "train_step":
            break  # the larger program is evaluated once
        found = shadow.compare(control, candidate, given)
        assert found.verdict is Verdict.FAIL
        assert found.first is not None
        first = found.first.divergence
        lines = [e.source for e in (first.control, first.candidate) if e is not None]
        assert any(line.startswith(wrong.files[0]) for line in lines), first
        assert first.path.startswith(wrong.module), first


@pytest.mark.parametrize("name", ["forward", "train_step"])
def test_nothing_is_found_where_nothing_is(clean: Any, given: Any, name: str) -> None:
    control, candidate = clean(Stage.LINEN, name), clean(Stage.NNX, name)
    assert static.prove(control, candidate)
    assert shadow.compare(control, candidate, given)


@pytest.mark.parametrize(
    ("name", "told", "settings"),
    [
        ("forward", "decoder/logits_dense/kernel", {"logits_via_embedding": True}),
        ("train_step", "opt_state/", {"trainable_parameters_mask": ["mlp"]}),
    ],
)
def test_leaves_that_one_side_alone_has(
    cfg: Any, clean: Any, name: str, told: str, settings: dict[str, Any]
) -> None:
    """Tied against untied weights; some are frozen."""
    other = Side(cfg.replace(**settings), Stage.NNX, length=16).programs([name])[name]
    pair = clean(Stage.LINEN, name), other
    for control, candidate in (pair, pair[::-1]):
        proof = static.prove(control, candidate)
        assert not proof and any(told in text for text in proof.inputs)
