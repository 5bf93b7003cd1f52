"""Dropout on both sides: masks are compared whatever the layout of the layers, streams by name."""

from typing import Any

import jax
import jax.numpy as jnp
import pairs_zoo as zoo
import pytest
from flax import linen as nn
from flax import nnx

from maxmig.parity import pairs
from maxmig.parity.pairs import engine, streams
from maxmig.parity.pairs.streams import Request
from maxmig.parity.reports import catalogue

X = zoo.normal(4, 8)
LAYERS = 3


class LinenLayer(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(8)(x)))
        return nn.Dropout(0.3, deterministic=not train)(x), None


class LinenScan(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        layer = nn.remat(LinenLayer, prevent_cse=False, static_argnums=(2,))
        stack = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=LAYERS,
        )
        return nn.Dropout(0.2, deterministic=not train)(stack(name="layers")(x, train)[0])


class LinenList(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool):
        for i in range(LAYERS):
            x, _ = LinenLayer(name=f"layers_{i}")(x, train)
        return nn.Dropout(0.2, deterministic=not train)(x)


class Layer(nnx.Module):
    def __init__(self, rate: float, *, rngs: nnx.Rngs):
        self.dense = nnx.Linear(8, 8, rngs=rngs)
        self.drop, self.last = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(rate, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.dense(x))))


class Stack(nnx.Module):
    def __init__(self, *, scanned: bool, rate: float = 0.3):
        rngs = nnx.Rngs(0)
        self.scanned = scanned
        if scanned:
            self.layers = nnx.vmap(lambda r: Layer(rate, rngs=r))(rngs.fork(split=LAYERS))
        else:
            self.layers = nnx.List([Layer(rate, rngs=rngs) for _ in range(LAYERS)])
        self.final = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x):
        if not self.scanned:
            for layer in self.layers:
                x = layer(x)
            return self.final(x)
        run = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return self.final(run(self.layers, x))


def apart(linen: nn.Module, candidate: nnx.Module) -> float:
    """The largest difference of both sides' outputs in training."""
    spec = pairs.Pair(linen, candidate, {"x": X, "train": True}, modes=("train",))
    (c,) = engine.trace(spec).computations
    ours, theirs = (c.compiled("outputs", side)()["outputs"] for side in (0, 1))
    assert (ours == 0).any()  # something was dropped
    return float(abs(ours - theirs).max())


@pytest.mark.parametrize(
    ("linen", "scanned"), [(LinenScan, True), (LinenScan, False), (LinenList, True)]
)
@pytest.mark.filterwarnings("ignore:The 'split' argument")
def test_masks_of_stacked_layers(linen: Any, scanned: bool) -> None:
    assert apart(linen(), Stack(scanned=scanned)) < 1e-6
    if linen is LinenList:  # another rate is a difference
        assert apart(linen(), Stack(scanned=scanned, rate=0.4)) > 1e-2


class LinenNoise(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(x) + jax.random.normal(self.make_rng("noise"), x.shape)


class Noise(nnx.Module):
    def __init__(self, stream: str, times: int = 1, **seeds: int):
        self.rngs = nnx.Rngs(0, **seeds)
        self.dense, self.stream, self.times = nnx.Linear(8, 8, rngs=self.rngs), stream, times

    def __call__(self, x):
        for _ in range(self.times - 1):
            x = x + 0 * jax.random.normal(self.rngs.other(), x.shape)
        return self.dense(x) + jax.random.normal(self.rngs[self.stream](), x.shape)


@pytest.mark.parametrize(
    ("candidate", "told"),
    [
        (lambda: Noise("noise", noise=1), ""),
        (lambda: Noise("noise"), ""),  # one stream for all names
        (lambda: Noise("dropout", dropout=1), "from the stream 'noise', NNX draws from 'dropout'"),
        (lambda: Noise("noise", 2, noise=1, other=2), "asks for 1 random keys (noise)"),
    ],
)
def test_names_of_streams_are_told(candidate: Any, told: str) -> None:
    report = pairs.run(pairs.Pair(LinenNoise(), candidate(), (X,)), levels=("L2",))
    notes = [note for note in report.notes if note.startswith("stream-names")]
    assert bool(notes) == bool(told)
    assert all(told in note for note in notes)
    assert "stream-names" in catalogue.BY_CODE


def test_places_that_stand_for_one_another() -> None:
    loop = ((0, 2),)
    scanned = [Request("dropout", loop, "a"), Request("dropout", loop, "b"), Request("z", (), "c")]
    listed = [Request("default", (), i) for i in range(5)]
    tables = streams.align(scanned, listed)
    assert tables is not None
    ours, theirs = tables
    assert len(set(ours.values())) == 3
    assert [theirs[i] for i in range(5)] == [ours[p] for p in "ababc"]
    assert streams.align(scanned, listed[:4]) is None
    given = [(request, number) for number, request in enumerate(scanned)]
    assert streams.follow(given, listed) == {0: 0, 1: 1, 2: 0, 3: 1, 4: 2}
    # A loop has one key; what it would have to follow has several.
    assert streams.follow([(r, i) for i, r in enumerate(listed)], scanned) is None


def test_what_is_traced_twice_is_asked_once() -> None:
    linen = LinenScan()
    variables = linen.init(jax.random.key(0), jnp.asarray(X), train=False)

    def run(x: Any) -> Any:
        return linen.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})

    asked = streams.requests(run, jnp.asarray(X))
    assert [r.loops and r.loops[0][1] for r in asked] == [LAYERS, LAYERS, ()]
