"""Ports as strangers write them: attention by hand, joined or wrapped layers, inputs of its own."""

import json
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pairs_zoo as zoo
import pytest
from flax import linen as nn
from flax import nnx

from maxmig.cli import main as cli
from maxmig.parity import Pair, pairs
from maxmig.parity.findings.check import Verdict
from maxmig.parity.pairs import engine

X = zoo.normal(2, 5, 8)
FLAX = tuple(map(int, flax.__version__.split(".")[:3]))


def attend(q: Any, k: Any, v: Any) -> Any:
    q, k, v = (x.reshape(*x.shape[:2], 2, 4) for x in (q, k, v))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q / 2.0, k))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


class LinenStock(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(2, qkv_features=8)(x, x)


class LinenParts(nn.Module):
    """The layer after attention has the shape of those before it."""

    @nn.compact
    def __call__(self, x):
        q, k, v = (nn.Dense(8, name=name)(x) for name in ("query", "key", "value"))
        return nn.Dense(8, name="out")(attend(q, k, v).reshape(x.shape))


class LinenJoined(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = attend(*jnp.split(nn.Dense(24)(x), 3, -1))
        return nn.Dense(8)(y.reshape(x.shape))


class Stock(nnx.Module):
    def __init__(self):
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.attention(x)


class Parts(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.q, self.k, self.v, self.o = (nnx.Linear(8, 8, rngs=rngs) for _ in range(4))

    def __call__(self, x):
        return self.o(attend(self.q(x), self.k(x), self.v(x)).reshape(x.shape))


class Joined(nnx.Module):
    def __init__(self, order: tuple[int, ...] = (0, 1, 2)):
        rngs = nnx.Rngs(0)
        self.qkv, self.out = nnx.Linear(8, 24, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)
        self.order = order

    def __call__(self, x):
        three = jnp.split(self.qkv(x), 3, -1)
        return self.out(attend(*(three[i] for i in self.order)).reshape(x.shape))


class Stacked(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.qkv = nnx.LinearGeneral(8, (3, 8), rngs=rngs)
        self.out = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        return self.out(attend(*jnp.moveaxis(self.qkv(x), -2, 0)).reshape(x.shape))


@pytest.mark.parametrize(
    ("linen", "candidate", "how"),
    [
        (LinenStock, Parts, "MultiHeadDotProductAttention_0/query -> q"),
        (LinenParts, Stock, "query -> attention/query"),
        (LinenParts, Joined, "qkv/kernel <- params/query/kernel + params/key/kernel + params"),
        (LinenParts, Stacked, "stacked along axis 1"),
        (LinenJoined, Parts, "params/k/kernel <- params/Dense_0/kernel [8:16] of axis 1"),
    ],
)
def test_attention_in_other_pieces(linen: Any, candidate: Any, how: str) -> None:
    pair = Pair(linen(), candidate(), (X,))
    report = pairs.run(pair, levels=("L2",))
    assert report, report.summary
    found = engine.trace(pair).mapping
    assert how in "\n".join(map(str, (*found.entries, *found.ambiguous)))


def test_projections_joined_in_another_order_are_no_pass() -> None:
    report = pairs.run(Pair(LinenParts(), Joined(order=(1, 0, 2)), (X,)), levels=("L2",))
    assert report.verdict is Verdict.FAIL
    assert report.check("mapping").verdict is not Verdict.PASS


class LinenChannels(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(4, (3, 3))(x)


class Channels(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.conv(jnp.moveaxis(x, 1, -1))


@pytest.mark.parametrize("size", [3, 5])  # 3: the shapes alone do not tell the layouts apart
def test_inputs_of_its_own_for_the_nnx_side(size: int) -> None:
    x = zoo.normal(2, size, size, 3)
    pair = Pair(LinenChannels(), Channels(), {"x": x}, nnx_inputs={"x": np.moveaxis(x, -1, 1)})
    report = pairs.run(pair, levels=("L2",))
    assert report.exact, report.summary


class LinenHeads(nn.Module):
    def setup(self):
        self.heads = {"a": nn.Dense(2), "b": nn.Dense(2)}

    def __call__(self, x):
        return {name: head(x) for name, head in self.heads.items()}


class Heads(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.heads = nnx.Dict(a=nnx.Linear(8, 2, rngs=rngs), b=nnx.Linear(8, 2, rngs=rngs))

    def __call__(self, x):
        return {name: head(x) for name, head in self.heads.items()}


def test_layers_in_a_dict() -> None:
    assert pairs.run(Pair(LinenHeads(), Heads(), (X,)), levels=("L2",)).exact


class LinenWrapped(nn.Module):
    wrap: Any

    @nn.compact
    def __call__(self, x):
        more = {"update_stats": True} if self.wrap is nn.SpectralNorm else {}
        x = self.wrap(nn.Dense(8))(x, **more)
        return nn.Dense(2)(nn.relu(self.wrap(nn.Dense(8))(x, **more)))


class Wrapped(nnx.Module):
    def __init__(self, wrap: Any):
        rngs = nnx.Rngs(0)
        self.a, self.b = (wrap(nnx.Linear(8, 8, rngs=rngs), rngs=rngs) for _ in range(2))
        self.out = nnx.Linear(8, 2, rngs=rngs)
        self.more = {"update_stats": True} if wrap is nnx.SpectralNorm else {}

    def __call__(self, x):
        return self.out(nnx.relu(self.b(self.a(x, **self.more), **self.more)))


def test_a_spectral_norm_is_mapped_and_its_mapping_converts(tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    linen = LinenWrapped(nn.SpectralNorm)
    pair = Pair(linen, Wrapped(nnx.SpectralNorm), (X,))
    report = pairs.run(pair, levels=("L2",), save_mapping=tmp_path / "map.yml")
    assert report, report.summary
    assert (
        "('kernel', 'u'): batch_stats/SpectralNorm_0/Dense_0%2Fkernel%2Fu"
        in (tmp_path / "map.yml").read_text()
    )
    assert engine.trace(pair, tmp_path / "map.yml").mapping.bijective
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "linen", linen.init(jax.random.key(0), X))
    words = ["ckpt", "convert", str(tmp_path / "linen"), str(tmp_path / "nnx"), "--to", "nnx"]
    assert cli.main([*words, "--map", str(tmp_path / "map.yml")]) == 0


def test_a_weight_norm_is_mapped_or_refused_with_what_to_do() -> None:
    report = pairs.run(
        Pair(LinenWrapped(nn.WeightNorm), Wrapped(nnx.WeightNorm), (X,)), levels=("L2",)
    )
    if FLAX >= (0, 12, 12):
        assert report, report.summary
    else:  # its scales are no parameters there
        assert report.verdict is Verdict.FAIL
        assert "before flax 0.12.12" in report.summary and "nnx.Param" in report.summary


def test_the_report_of_optimizer_steps_is_written(tmp_path: Path) -> None:
    words = ["parity", "run", "--pair", "test_pairs_recording:both", "--level", "L2"]
    assert cli.main([*words, "--run-dir", str(tmp_path / "run")]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    (params,) = (c for c in run["checks"] if c["name"] == "params")
    assert list(params["items"]) == ["step 2"]
