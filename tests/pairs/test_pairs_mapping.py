"""Mappings: stacked layers, other shapes, files, and what confirms them."""

import dataclasses
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pairs_zoo as zoo
import pytest
from flax import linen as nn
from flax import nnx

from maxmig import errors
from maxmig.parity import Pair, pairs
from maxmig.parity.findings.check import Verdict
from maxmig.parity.pairs import confirm, engine
from maxmig.parity.pairs import mapping as mappings
from maxmig.parity.pairs.mapping import Entry, Mapping

FAST = ("L2",)
X = zoo.normal(4, 8)


class ScanBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(8)(nn.tanh(nn.Dense(8, name="inner")(x))), None


class ScannedLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            ScanBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return layers()(x, None)[0]


class ListedBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.inner = nnx.Linear(8, 8, rngs=rngs)
        self.outer = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        return x + self.outer(jnp.tanh(self.inner(x)))


class Listed(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List(ListedBlock(rngs) for _ in range(3))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Stacked(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        make = nnx.split_rngs(splits=3)(nnx.vmap(lambda keys: ListedBlock(keys), in_axes=0))
        self.layers = make(rngs)

    def __call__(self, x):
        return nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
            x, self.layers
        )


def test_a_scan_against_a_list_of_layers() -> None:
    report = pairs.run(Pair(ScannedLinen(), Listed(nnx.Rngs(0)), (X,)), levels=FAST)
    assert report, report.summary
    assert report.coverage.gradients == 4


def test_a_list_of_layers_against_a_scan() -> None:
    class ListedLinen(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                x = ScanBlock()(x, None)[0]
            return x

    pair = Pair(ListedLinen(), Stacked(nnx.Rngs(0)), (X,))
    traced = engine.trace(pair)
    assert {e.op for e in traced.mapping.entries} == {"stack"}
    report = pairs.run(pair, levels=FAST)
    assert report, report.summary


def test_weights_of_other_shapes_and_names() -> None:
    class Heads(nn.Module):
        @nn.compact
        def __call__(self, x):
            scale = self.param("scale", nn.initializers.ones, (8,))
            return nn.DenseGeneral((2, 3))(x * scale).reshape(4, 6)

    class Flat(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.gain = nnx.Param(jnp.ones(8))
            self.project = nnx.Linear(8, 6, rngs=rngs)

        def __call__(self, x):
            return self.project(x * self.gain[...])

    pair = Pair(Heads(), Flat(nnx.Rngs(0)), (X,))
    found = {e.target: e for e in engine.trace(pair).mapping.entries}
    assert found["params/project/kernel"].op == "reshape"
    assert found["params/gain"].sources == ("params/scale",)
    report = pairs.run(pair, levels=FAST)
    assert report, report.summary


def test_custom_collections_and_counters() -> None:
    class Count(nnx.Variable):
        pass

    class LinenCounter(nn.Module):
        step: int = 1

        @nn.compact
        def __call__(self, x):
            count = self.variable("counts", "calls", lambda: jnp.zeros((), jnp.int32))
            if not self.is_initializing():
                count.value += self.step
            return nn.Dense(8)(x) + count.value

    class Counter(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.calls = Count(jnp.zeros((), jnp.int32))
            self.dense = nnx.Linear(8, 8, rngs=rngs)

        def __call__(self, x):
            self.calls[...] += 1
            return self.dense(x) + self.calls[...]

    report = pairs.run(Pair(LinenCounter(), Counter(nnx.Rngs(0)), (X,)), levels=FAST)
    assert report, report.summary
    assert {m.path for m in report.check("state").measurements} == {"counts/calls"}
    report = pairs.run(Pair(LinenCounter(step=2), Counter(nnx.Rngs(0)), (X,)), levels=FAST)
    assert report.check("state").verdict is Verdict.FAIL


def test_a_saved_mapping_is_read_again(tmp_path: Path) -> None:
    pair = Pair(zoo.LinenTagger(), zoo.Tagger(rngs=nnx.Rngs(1)), (zoo.normal(2, 4, 3),))
    found = engine.trace(pair).mapping
    again = mappings.read(found.write(tmp_path / "map.yml"))
    strip = lambda m: [dataclasses.replace(e, how="") for e in m.entries]  # noqa: E731
    assert strip(again) == strip(found)
    assert engine.trace(pair, tmp_path / "map.yml").mapping.bijective


def test_a_saved_mapping_converts_a_checkpoint(tmp_path: Path) -> None:
    """What was found by tracing is what `ckpt convert` does to the weights on disk."""
    import orbax.checkpoint as ocp

    from maxmig.cli import main as cli
    from maxmig.converters import storage

    pair = Pair(zoo.LinenTagger(), zoo.Tagger(rngs=nnx.Rngs(1)), (zoo.normal(2, 4, 3),))
    traced = engine.trace(pair)
    traced.mapping.write(tmp_path / "map.yml")
    variables = flax.traverse_util.unflatten_dict(dict(traced.linen.variables), sep="/")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "linen", variables)
    words = ["ckpt", "convert", str(tmp_path / "linen"), str(tmp_path / "nnx"), "--to", "nnx"]
    assert cli.main([*words, "--map", str(tmp_path / "map.yml")]) == 0
    made = storage.open(str(tmp_path / "nnx"))
    found = {"/".join(map(str, path[:-1])): made.read(path) for path in made.tree()}
    expected = traced.mapping.forward(traced.linen.variables)
    assert found.keys() == {path.partition("/")[2] for path in expected}
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path.partition("/")[2]], leaf)


def test_an_edited_mapping_with_exchanged_weights_fails(tmp_path: Path) -> None:
    pair = Pair(zoo.LinenMLP(), zoo.MLP(rngs=nnx.Rngs(1)), (X,))
    path = engine.trace(pair).mapping.write(tmp_path / "map.yml")
    text = path.read_text()
    names = {"params/Dense_0/kernel": "params/Dense_1/kernel"}
    names |= {new: old for old, new in names.items()}
    lines = [
        f"{head}: {names.get(tail, tail)}" if (tail := rest.strip()) else line
        for line in text.splitlines()
        for head, _, rest in [line.partition(": ")]
    ]
    path.write_text("\n".join(lines))
    report = pairs.run(pair, mapping=path, levels=FAST)
    assert report.verdict is Verdict.FAIL
    blamed = {m.path for m in report.check("mapping").failures}
    assert {"params/Dense_0/kernel", "params/Dense_1/kernel"} <= blamed


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("leaves: {params/none: params/Dense_0/kernel}", "the NNX side has no leaf 'params/none'"),
        ("leaves: {params/first/kernel: params/Dense_9/kernel}", "did you mean params/Dense_"),
        ("leaves: {params/first/kernel: params/Dense_0/bias}", r"expected shape \[8, 8\], got"),
        ("leaves: {params/first/kernel: {op: twist, from: a}}", "op: expected one of"),
        ("leaves: {params/first/kernel: 3}", "expected a Linen leaf"),
        ("leaves: 3", "expected `leaves:`"),
        ("leaves: {a: b}\nextra: 1", "unknown keys: extra"),
        ("{", "expected a mapping"),
    ],
)
def test_mappings_that_do_not_fit(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "map.yml").write_text(text)
    pair = Pair(zoo.LinenMLP(), zoo.MLP(rngs=nnx.Rngs(1)), (X,))
    with pytest.raises(errors.DataError, match=told):
        engine.trace(pair, tmp_path / "map.yml")
    with pytest.raises(errors.DataError, match="no such mapping"):
        engine.trace(pair, tmp_path / "none.yml")


@pytest.mark.parametrize(
    ("entries", "shapes"),
    [
        ([Entry("a", ("x",), "transpose", axes=(2, 0, 1))], {"x": (2, 3, 4)}),
        ([Entry("a", ("x",), "reshape", shape=(6, 4))], {"x": (2, 3, 4)}),
        ([Entry("a", ("x", "y"), "concat", 1)], {"x": (2, 3), "y": (2, 5)}),
        ([Entry("a", ("x", "y"), "stack", 1)], {"x": (2, 3), "y": (2, 3)}),
        ([Entry(f"a{i}", ("x",), "take", 1, i) for i in (1, 0, 2)], {"x": (2, 3)}),
        ([Entry("a", ("x",), "slice", 0, 1, 4), Entry("b", ("x",), "slice", 0, 0, 1)], {"x": (4,)}),
    ],
)
def test_every_operation_has_its_inverse(entries: list[Entry], shapes: dict[str, Any]) -> None:
    leaves = {
        n: np.arange(np.prod(s)).reshape(s) + 100 * i for i, (n, s) in enumerate(shapes.items())
    }
    mapping = Mapping(tuple(entries))
    back = mapping.backward(mapping.forward(leaves), shapes)
    assert back.keys() == leaves.keys()
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(back[name], leaf)


def test_a_permutation_is_found_where_names_say_nothing() -> None:
    """Called in another order, so that the order misleads; the outputs decide."""

    class Late(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.gate = nnx.Linear(8, 8, rngs=rngs)
            self.value = nnx.Linear(8, 8, rngs=rngs)

        def __call__(self, x):
            value = self.value(x)
            return jnp.tanh(self.gate(x)) * value

    class LinenGate(nn.Module):
        @nn.compact
        def __call__(self, x):
            gate = nn.tanh(nn.Dense(8)(x))
            return gate * nn.Dense(8)(x)

    pair = Pair(LinenGate(), Late(nnx.Rngs(0)), (X,))
    traced = engine.trace(pair)
    found = confirm.confirm(traced.computations)
    sources = {e.target: e.sources[0] for e in found.mapping.entries}
    assert sources["params/gate/kernel"] == "params/Dense_0/kernel"
    assert traced.mapping.entries != found.mapping.entries
    assert set(found.leaves.values()) == {confirm.CONFIRMED}
    report = pairs.run(pair, levels=FAST)
    assert report
    assert any("neither names nor order fit" in note for note in report.notes)


def test_optimizer_steps() -> None:
    def pair(optimizer: Any, **options: Any) -> Pair:
        module = zoo.MLP(rngs=nnx.Rngs(1))
        return Pair(zoo.LinenMLP(), module, (X,), optimizer=optimizer, **options)

    report = pairs.run(pair(optax.adamw(1e-2)))
    assert report, report.summary
    assert report.check("params").arrays == 6 and report.steps == 2

    def kernels(tree: Any) -> Any:
        """Looks at the last key of a path, which in an nnx.State is sometimes `.value`."""
        return jax.tree_util.tree_map_with_path(
            lambda path, _: getattr(path[-1], "key", None) == "kernel", tree
        )

    with pytest.raises(errors.ConfigError, match="the optimizer raised on the NNX side"):
        pairs.run(pair(optax.masked(optax.sgd(0.1, momentum=0.9), kernels)), levels=FAST)


def test_flax_has_what_the_table_of_twins_says() -> None:
    from maxmig.lint import layers
    from maxmig.parity.pairs import kinds

    for linen_name in (*kinds.TWINS, *kinds.SAME):
        twin = kinds.TWINS.get(linen_name, linen_name)
        assert hasattr(nn, linen_name) and hasattr(nnx, twin), linen_name
    for name in {**layers.NO_TWIN, **kinds.WITHOUT_TWIN}:
        assert not hasattr(nnx, name), f"{name} is in flax.nnx {flax.__version__}"
