"""`--mapping` takes the files of `ckpt convert --map`: rules do to modules as to what is stored."""

import dataclasses
from pathlib import Path
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np
import pairs_zoo as zoo
import pytest
from flax import linen as nn
from flax import nnx

from maxmig import errors
from maxmig.cli import main as cli
from maxmig.converters import storage
from maxmig.parity import Pair, pairs
from maxmig.parity.pairs import engine, ruled

X = zoo.normal(4, 8)


@pytest.fixture(scope="module")
def taggers() -> engine.Traced:
    """An LSTM under an embedding and a dense layer, its mapping traced."""
    made = (zoo.LinenTagger(), zoo.Tagger(rngs=nnx.Rngs(1)), (zoo.normal(2, 4, 3),))
    return engine.trace(Pair(*made))


@pytest.fixture(scope="module")
def transformers() -> engine.Traced:
    return engine.trace(Pair(*zoo.transformer()))


def given(traced: engine.Traced, text: str, tmp_path: Path) -> Any:
    """The mapping that a file says, as {NNX leaf: entry}."""
    file = tmp_path / "map.yml"
    file.write_text(text)
    found = ruled.given(file, traced.linen.variables, traced.nnx.leaves)
    return {e.target: dataclasses.replace(e, how="") for e in found.entries}


def traced_entries(traced: engine.Traced) -> Any:
    return {e.target: dataclasses.replace(e, how="") for e in traced.mapping.entries}


BLOCKS = r"""
maxmig_map: 1
from: linen-state
to: nnx-pair
rules:
- drop: {collection: dropout_key}
  reason: the NNX run draws its own
- random: blocks/0/dropout/rngs
- rename: Embed_0
  to: embed
- rename: {regex: 'LinenBlock_(\d+)/MultiHeadDotProductAttention_0/(.*)'}
  to: blocks_\1/attention/\2
- rename: {regex: 'LinenBlock_(\d+)/LayerNorm_0/(.*)'}
  to: blocks_\1/norm1/\2
- rename: {regex: 'LinenBlock_(\d+)/LayerNorm_1/(.*)'}
  to: blocks_\1/norm2/\2
- rename: {regex: 'LinenBlock_(\d+)/Dense_0/(.*)'}
  to: blocks_\1/up/\2
- rename: {regex: 'LinenBlock_(\d+)/Dense_1/(.*)'}
  to: blocks_\1/down/\2
- {rename: LayerNorm_0, to: norm}
- {rename: Dense_0, to: head}
- list: blocks
"""


def test_rules_are_the_traced_mapping(transformers: engine.Traced, tmp_path: Path) -> None:
    """What is of a checkpoint alone (a TrainState's field, random state, lists) is left to it."""
    assert given(transformers, BLOCKS, tmp_path) == traced_entries(transformers)
    exchanged = BLOCKS.replace("/up/", "/x/").replace("/down/", "/up/").replace("/x/", "/down/")
    with pytest.raises(errors.DataError, match="expected shape"):
        given(transformers, exchanged, tmp_path)


def test_one_file_for_both(taggers: engine.Traced, tmp_path: Path) -> None:
    """A table with rules beside it: the modules' weights, and those of a checkpoint, alike."""
    import orbax.checkpoint as ocp

    file = taggers.mapping.write(tmp_path / "map.yml")
    text = file.read_text() + "rules:\n- {random: dropout/rngs}\n"
    assert given(taggers, text, tmp_path) == traced_entries(taggers)
    with ocp.StandardCheckpointer() as checkpointer:
        tree = flax.traverse_util.unflatten_dict(dict(taggers.linen.variables), sep="/")
        checkpointer.save(tmp_path / "linen", tree)
    words = ["ckpt", "convert", str(tmp_path / "linen"), str(tmp_path / "nnx"), "--to", "nnx"]
    assert cli.main([*words, "--map", str(file)]) == 0
    made = storage.open(str(tmp_path / "nnx"))
    found = ruled.given(file, taggers.linen.variables, taggers.nnx.leaves)
    for path, leaf in found.forward(taggers.linen.variables).items():
        on_disk = made.read((*path.split("/")[1:], "value"))
        np.testing.assert_array_equal(on_disk, leaf)
    whole = ["ckpt", "map", *words[2:3], "--to", "nnx-state", "--map", str(file)]
    assert cli.main([*whole, "--out", str(tmp_path / "whole.yml")]) == 0
    text = (tmp_path / "whole.yml").read_text()
    assert given(taggers, text, tmp_path) == traced_entries(taggers)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(8)(x), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        return nn.scan(Block, **axes, length=2)()(x, None)[0]


class Listed(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List(nnx.Linear(8, 8, rngs=rngs) for _ in range(2))

    def __call__(self, x):
        for layer in self.layers:
            x = x + layer(x)
        return x


LAYERS = """
maxmig_map: 1
rules:
- {rename: ScanBlock_0/Dense_0, to: layers}
- {unstack: layers, to: 'layers_{}', axis: 0}
"""


def test_layers_taken_apart_by_a_rule(tmp_path: Path) -> None:
    file = tmp_path / "map.yml"
    file.write_text(LAYERS)
    report = pairs.run(
        Pair(Scanned(), Listed(nnx.Rngs(0)), (X,), mapping=file), levels=("L0", "L2")
    )
    assert report, report.summary
    file.write_text(LAYERS.replace("to: layers}", "to: floors}"))
    with pytest.raises(errors.ConfigError, match=r"map.yml:5: rules\[1\].*matches nothing"):
        pairs.run(Pair(Scanned(), Listed(nnx.Rngs(0)), (X,), mapping=file))


def test_axes_turned_by_a_rule(tmp_path: Path) -> None:
    class Turned(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.zeros((4, 2, 3)))

        def __call__(self, x):
            return jnp.einsum("oij,ij->o", self.w[...], x)

    class LinenTurned(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.param("w", nn.initializers.normal(), (3, 4, 2))
            return jnp.einsum("joi,ij->o", w, x)

    file = tmp_path / "map.yml"
    file.write_text("maxmig_map: 1\nrules: [{transpose: w, axes: [1, 2, 0]}]\n")
    made = (LinenTurned(), Turned(), (zoo.normal(2, 3),))
    found = engine.trace(Pair(*made, mapping=file)).mapping
    assert [(e.op, e.axes) for e in found.entries] == [("transpose", (1, 2, 0))]
    value = np.arange(24).reshape(3, 4, 2)
    np.testing.assert_array_equal(
        found.forward({"params/w": value})["params/w"], value.transpose(1, 2, 0)
    )
    assert pairs.run(Pair(*made, mapping=file), levels=("L2",))


def test_a_leaf_that_is_not_said_stays_out(taggers: engine.Traced, tmp_path: Path) -> None:
    text = "maxmig_map: 1\nrules: [{layer: OptimizedLSTMCell_0, kind: optimized-lstm, to: nnx}]\n"
    file = tmp_path / "map.yml"
    file.write_text(text)
    with pytest.raises(errors.DataError, match=r"the NNX side has no leaf .*/dense_"):
        ruled.given(file, taggers.linen.variables, taggers.nnx.leaves)
    file.write_text("maxmig_map: 1\nrules: []\n")
    found = ruled.given(file, taggers.linen.variables, taggers.nnx.leaves)
    assert found.entries == () and set(found.dropped) == set(taggers.linen.variables)


def test_several_operations_on_one_leaf_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "map.yml"
    file.write_text(LAYERS + "- {transpose: layers_0/kernel, axes: [1, 0]}\n")
    with pytest.raises(errors.DataError, match="parity follows one operation a leaf"):
        engine.trace(Pair(Scanned(), Listed(nnx.Rngs(0)), (X,), mapping=file))
