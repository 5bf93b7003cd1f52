"""Meshes, rules and specs; and that eight devices compute what one does, on both wings."""

import functools
from typing import Any

import helpers
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from maxmig import sharding
from maxmig.config.flags import Stage
from maxmig.errors import ConfigError
from maxmig.sharding import Rules

MESHES = {
    "fsdp 8": (),
    "tensor 2, fsdp 4": ("ici_tensor_parallelism=2",),
    "data 2, fsdp 2, tensor 2": ("ici_data_parallelism=2", "ici_tensor_parallelism=2"),
    "fsdp 2, tensor 2, expert 2": ("ici_tensor_parallelism=2", "ici_expert_parallelism=2"),
}
DENSE, EXPERTS = list(MESHES)[:3], list(MESHES)[3]
# The batch has 8 rows however many devices share them.
ROWS = {1: "per_device_batch_size=8", 8: "per_device_batch_size=1"}
TRAINING = ("warmup_steps_fraction=0", "learning_rate=0.01", "base_num_decoder_layers=2")


def mesh(*options: str) -> Any:
    return sharding.mesh_from_config(helpers.config("tiny_llama2", *options))


def rules(*table: tuple[str, tuple[str, ...]], on: str = "data 2, fsdp 2, tensor 2") -> Rules:
    return Rules(table, mesh(*MESHES[on]))


@pytest.mark.parametrize("name", list(MESHES))
def test_a_mesh_has_the_sizes_asked_for(name: str) -> None:
    sizes = {axis: size for axis, size in mesh(*MESHES[name]).shape.items() if size > 1}
    words = name.replace(",", "").split()
    assert sizes == dict(zip(words[::2], map(int, words[1::2]), strict=True))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ("ici_fsdp_parallelism=3",),
            r"ici_fsdp_parallelism=3, but there are 8 device\(s\) in a slice. The sizes must "
            r"multiply to 8",
        ),
        (("ici_tensor_parallelism=16",), r"ici_tensor_parallelism=16"),
        (("ici_fsdp_parallelism=1",), r"all ici sizes are 1, but there are 8 device"),
        (
            ("dcn_data_parallelism=2",),
            r"dcn_data_parallelism=2, but there are 1 slice\(s\)",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(options: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        mesh(*options)
    assert caught.value.exit_code == 2


def test_the_first_rule_wins_and_later_ones_are_fallbacks() -> None:
    r = rules(("a", ("fsdp", "data")), ("b", ("tensor",)), ("c", ("data",)), ("c", ("tensor",)))
    assert r.spec(("a", "b")) == P(("fsdp", "data"), "tensor")
    assert r.spec(("c", "b")) == P("data", "tensor")
    assert r.spec(("a", "c")) == P(("fsdp", "data"), "tensor")  # data is taken: the fallback
    assert r.spec(("a", "b", "c")) == P(("fsdp", "data"), "tensor")  # both are taken: whole
    assert r.spec(("c", "a")) == P("data")  # a has no fallback
    assert r.spec(("unknown", None, "b")) == P(None, None, "tensor")
    assert r.spec((None, "b", None)) == P(None, "tensor")


def test_axes_of_size_one_or_that_do_not_divide_are_left_out() -> None:
    r = rules(("a", ("stage", "fsdp", "data")), ("b", ("nowhere", "tensor")))
    assert r.spec(("a", "b")) == P(("fsdp", "data"), "tensor")
    assert r.spec(("a",), (8,)) == P(("fsdp", "data"))
    assert r.spec(("a",), (6,)) == P("fsdp")
    assert r.spec(("a", "b"), (3, 4)) == P(None, "tensor")
    assert r.spec(("a",), (3,)) == P()


GOLDEN = {
    "token_embedder/embedding": P("tensor", "fsdp"),
    "decoder/decoder_norm/scale": P("tensor"),
    "decoder/logits_dense/kernel": P("fsdp", "tensor"),
    "decoder/layers/pre_self_attention_layer_norm/scale": P("tensor"),
    "decoder/layers/post_self_attention_layer_norm/scale": P("tensor"),
    "decoder/layers/self_attention/query/kernel": P("fsdp", None, "tensor"),
    "decoder/layers/self_attention/key/kernel": P("fsdp", None, "tensor"),
    "decoder/layers/self_attention/value/kernel": P("fsdp", None, "tensor"),
    "decoder/layers/self_attention/out/kernel": P("tensor", None, None, "fsdp"),
    "decoder/layers/mlp/wi_0/kernel": P("fsdp", None, "tensor"),
    "decoder/layers/mlp/wi_1/kernel": P("fsdp", None, "tensor"),
    "decoder/layers/mlp/wo/kernel": P("tensor", None, "fsdp"),
}


def test_partition_specs_are_the_golden_table(stage: Stage) -> None:
    """If a rule of configs/base.yml was changed on purpose, change the table with it."""
    options = (*MESHES["data 2, fsdp 2, tensor 2"], *TRAINING, ROWS[8])
    rt = helpers.runtime("tiny_llama2", *options, stage=stage, devices=8)
    assert rt.rules is not None and rt.shardings is not None
    specs = sharding.partition_specs(rt.abstract, rt.backend.spec, rt.rules)
    wanted = {f"params/{path}": spec for path, spec in GOLDEN.items()}
    for moment in ("mu", "nu"):
        wanted |= {f"opt_state/0/{moment}/{path}": spec for path, spec in GOLDEN.items()}
    wanted |= dict.fromkeys(("opt_state/0/count", "opt_state/2/count", "step"), P())
    assert specs == wanted
    assert {path: s.spec for path, s in rt.shardings.items()} == wanted
    abstract = sharding.abstract_state(rt.backend, rt.tx, rt.rules)
    assert {path: leaf.sharding.spec for path, leaf in abstract.items()} == wanted
    assert all(
        leaf.sharding is None for leaf in sharding.abstract_state(rt.backend, rt.tx).values()
    )


def run(name: str, stage: Stage, devices: int, *options: str) -> tuple[Any, Any, Any]:
    """(metrics of three steps, last state, how its leaves lie on the devices)."""
    rt = helpers.runtime(name, *options, ROWS[devices], *TRAINING, stage=stage, devices=devices)
    params = helpers.weights(name, *TRAINING)
    leaves = helpers.fresh(rt, params)
    metrics = []
    for i in range(3):
        leaves, scalars = rt.train(leaves, helpers.batch(rows=8, seed=i))
        metrics.append({key: float(value) for key, value in scalars.items()})
    layout = {path: leaf.sharding.spec for path, leaf in rt.state(leaves).items() if devices > 1}
    return metrics, helpers.numpy(rt.state(leaves)), layout


single = functools.cache(run)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        *((shape, "tiny_llama2") for shape in DENSE),
        (DENSE[-1], "tiny_gpt3"),
        (EXPERTS, "tiny_mixtral"),
    ],
)
def test_eight_devices_compute_what_one_does(shape: str, name: str, wing: Stage) -> None:
    wanted, state, _ = single(name, wing, 1)
    metrics, found, layout = run(name, wing, 8, *MESHES[shape])
    for got, want in zip(metrics, wanted, strict=True):
        # Relative: at these losses (6 and 13) a float32 has steps of 5e-7 and 1e-6.
        assert got["loss"] == pytest.approx(want["loss"], rel=1e-6)
        assert got["raw_grad_norm"] == pytest.approx(want["raw_grad_norm"], rel=1e-5)
        assert got["total_weights"] == want["total_weights"]
    assert len({m["loss"] for m in metrics}) == 3
    assert set(found) == set(state)
    # The state stays split as it was, over more than one device.
    rt = helpers.runtime(name, *MESHES[shape], ROWS[8], *TRAINING, stage=wing, devices=8)
    assert layout == {path: s.spec for path, s in rt.shardings.items()}
    split = {path for path, spec in layout.items() if spec != P()}
    assert {p for p in split if p.startswith("params/") and p.endswith("/kernel")} == {
        p for p in layout if p.startswith("params/") and p.endswith("/kernel")
    }
    axes = {part for spec in layout.values() for part in jax.tree.leaves(tuple(spec)) if part}
    assert "fsdp" in axes and ("tensor" in axes) == ("tensor" in shape)


@pytest.mark.parametrize("sparse", ["true", "false"])
def test_experts_lie_on_devices_of_their_own(sparse: str) -> None:
    """And the loss that spreads the load is that of the whole batch."""
    options = (f"sparse_matmul={sparse}", "load_balance_loss_weight=0.1")
    wanted, state, _ = single("tiny_mixtral", Stage.NNX, 1, *options)
    metrics, found, layout = run("tiny_mixtral", Stage.NNX, 8, *MESHES[EXPERTS], *options)
    moe = "params/decoder/layers/MoeBlock_0"
    assert layout[f"{moe}/wi_0"] == P("expert", None, "fsdp", "tensor")
    assert layout[f"{moe}/wo"] == P("expert", None, "tensor", "fsdp")
    assert layout[f"{moe}/gate/kernel"] == P("fsdp")
    for got, want in zip(metrics, wanted, strict=True):
        assert got["moe_lb_loss"] == pytest.approx(want["moe_lb_loss"], rel=1e-6)
        assert want["moe_lb_loss"] > 0.19  # weight times choices, where the load is even
        assert got["loss"] == pytest.approx(want["loss"], rel=1e-6)
    far = {path: float(np.abs(found[path] - state[path]).max()) for path in state}
    assert max(far.values()) < 1e-4, far


def test_accumulation_and_dropout_are_the_same_on_eight_devices(wing: Stage) -> None:
    options = ("gradient_accumulation_steps=2", "dropout_rate=0.1")
    wanted, _, _ = single("tiny_llama2", wing, 1, *options)
    metrics, _, _ = run("tiny_llama2", wing, 8, *options)
    for got, want in zip(metrics, wanted, strict=True):
        assert got["loss"] == pytest.approx(want["loss"], rel=1e-6)


def test_a_state_is_made_where_it_belongs(wing: Stage) -> None:
    options = (*MESHES["tensor 2, fsdp 4"], *TRAINING, ROWS[8])
    rt = helpers.runtime("tiny_llama2", *options, stage=wing, devices=8)
    state = rt.state(rt.init())
    assert {path: leaf.sharding.spec for path, leaf in state.items()} == {
        path: s.spec for path, s in rt.shardings.items()
    }
    kernel = state["params/decoder/layers/mlp/wo/kernel"]
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size
    one = helpers.runtime("tiny_llama2", *TRAINING, ROWS[1], stage=wing)
    helpers.same(helpers.numpy(state), helpers.numpy(one.state(one.init())))
    assert np.isfinite(np.asarray(kernel)).all()
