"""Stacked or apart, rematerialised or not: the same loss and gradients; and what each one costs."""

import re
from collections.abc import Iterator
from typing import Any

import helpers
import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import pytest

from maxmig.config.flags import Stage
from maxmig.core import remat
from maxmig.core.context import Context

LAYERS = "base_num_decoder_layers=3"
UNSCANNED = ("scan_layers=false", "remat_policy=none", LAYERS)
POLICIES = ("none", *remat.SAVED)


def gradients(name: str, stage: Stage, params: dict[str, Any], *options: str) -> Any:
    rt = helpers.runtime(name, *options, stage=stage)
    loss, grads = rt.gradients(helpers.only(rt, params), helpers.batch())
    return float(loss.total), helpers.numpy(grads)


@pytest.fixture(scope="module", params=helpers.FAMILIES)
def unscanned(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any, float, Any]]:
    """(family, its unscanned weights, their loss and gradients without remat)."""
    name = request.param
    params = helpers.weights(name, *UNSCANNED)
    yield (name, params, *gradients(name, Stage.LINEN, params, *UNSCANNED))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_scanned_stack_is_its_layers(unscanned: Any, axis: int, wing: Stage) -> None:
    name, params, loss, grads = unscanned
    stacked = helpers.restack(params, axis)
    options = (f"param_scan_axis={axis}", "remat_policy=none", LAYERS)
    kernel = "decoder/layers/self_attention/out/kernel"
    assert stacked[kernel].shape.index(3) == axis
    got, found = gradients(name, wing, stacked, *options)
    assert got == pytest.approx(loss, abs=1e-6)
    helpers.same(found, helpers.restack(grads, axis), atol=1e-6)


def test_layers_in_another_order_are_another_model(unscanned: Any) -> None:
    """Negative control: stacking the layers in the wrong order is seen."""
    name, params, loss, _ = unscanned
    swapped = {path.replace("layers_0/", "layers_9/"): v for path, v in params.items()}
    swapped = {path.replace("layers_2/", "layers_0/"): v for path, v in swapped.items()}
    swapped = {path.replace("layers_9/", "layers_2/"): v for path, v in swapped.items()}
    got, _ = gradients(name, Stage.NNX, helpers.restack(swapped, 1), "remat_policy=none", LAYERS)
    assert abs(got - loss) > 1e-4


@pytest.mark.parametrize(
    ("scan", "policy"),
    [
        *(("true", policy) for policy in POLICIES),
        ("false", "full"),
        ("false", "save_dot_except_mlp"),
    ],
)
def test_each_policy_gives_the_same_gradients(policy: str, scan: str, wing: Stage) -> None:
    name = helpers.FAMILIES[POLICIES.index(policy) % len(helpers.FAMILIES)]
    params = helpers.weights(name, *UNSCANNED)
    loss, grads = gradients(name, Stage.LINEN, params, *UNSCANNED)
    if scan == "true":
        params, grads = helpers.restack(params, 1), helpers.restack(grads, 1)
    got, found = gradients(
        name, wing, params, f"scan_layers={scan}", f"remat_policy={policy}", LAYERS
    )
    assert got == pytest.approx(loss, abs=1e-6)
    helpers.same(found, grads, atol=1e-6)


def program(name: str, stage: Stage, *options: str) -> Any:
    """(loss of a batch as a function of the parameters, abstract parameters)."""
    rt = helpers.runtime(name, *options, stage=stage)
    tokens = jnp.asarray(helpers.batch()["inputs"])

    def loss(params: Any) -> Any:
        return jnp.sum(rt.backend.apply(params, tokens, Context.of(tokens)).logits ** 2)

    return loss, {path: param.abstract for path, param in rt.backend.spec.items()}


@pytest.mark.parametrize("scan", ["true", "false"])
def test_none_is_really_none(scan: str, wing: Stage) -> None:
    found = {}
    for policy in ("none", "full"):
        options = (f"scan_layers={scan}", f"remat_policy={policy}", LAYERS)
        loss, params = program("tiny_llama2", wing, *options)
        names = helpers.primitives(loss, params)
        found[policy] = sum(name in ("checkpoint", "remat", "remat2") for name in names)
    assert found == {"none": 0, "full": 1 if scan == "true" else 3}


# Names of what a backward pass can use. The product of mlpwo is only added to the stream, and that
# of gpt3's fused qkv_proj is cut into query_proj, ...: keeping those alone saves nothing more.
_ATTENTION = {"query_proj", "key_proj", "value_proj", "context", "out_proj"}
USED = {
    "tiny_llama2": {*_ATTENTION, "mlpwi_0", "mlpwi_1"},
    "tiny_gpt3": {*_ATTENTION, "mlpwi"},
    # Each expert's output is multiplied by its weight, whose gradient wants it.
    "tiny_mixtral": {*_ATTENTION, "mlpwi_0", "mlpwi_1", "mlpwo"},
}


@pytest.mark.parametrize("name", helpers.FAMILIES)
@pytest.mark.parametrize("policy", list(remat.SAVED))
def test_a_policy_keeps_what_its_names_say(
    policy: str, name: str, wing: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("scan_layers=false", "base_num_decoder_layers=1", f"remat_policy={policy}")
    loss, abstract = program(name, wing, *options)
    params = {path: jnp.zeros(leaf.shape, leaf.dtype) for path, leaf in abstract.items()}
    jax.ad_checkpoint.print_saved_residuals(loss, params)
    kept = re.findall(r"named '(\w+)'", capsys.readouterr().out)
    assert len(kept) == len(set(kept))
    assert set(kept) == USED[name] & set(remat.SAVED[policy])


@pytest.mark.parametrize("name", helpers.FAMILIES)
def test_the_size_of_a_scanned_step_does_not_grow_with_its_layers(name: str, wing: Stage) -> None:
    def size(layers: int, scan: str) -> int:
        options = (f"base_num_decoder_layers={layers}", f"scan_layers={scan}")
        rt = helpers.runtime(name, *options, stage=wing)
        leaves = tuple(rt.abstract[path] for path in rt.view.paths)
        return len(helpers.primitives(rt.train, leaves, helpers.batch()))

    assert size(2, "true") == size(8, "true")
    assert size(4, "false") > size(2, "false") + 100  # the control


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'minimall' is not one of none, full, minimal"):
        remat.policy("minimall")
    assert remat.policy("none") is None
