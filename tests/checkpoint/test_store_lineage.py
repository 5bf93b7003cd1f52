"""What a run saves still leads back to the checkpoint that its first one was converted from."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maxmig.checkpoint import Restored, Store, lineage
from maxmig.converters import checkpoint, convert
from maxmig.converters.compare import hash as hashes
from maxmig.converters.compare import verify
from maxmig.converters.mapping import files

RENAMED = [
    {"rename": "net/block", "to": "decoder/layers"},
    {"transpose": "net/out", "axes": [1, 0]},
    {"rename": "net/out", "to": "head"},
]


def theirs(flat: dict[str, Any]) -> dict[str, Any]:
    """The same state as another project calls it."""
    found = {}
    for path, leaf in flat.items():
        turned = leaf.T if path.endswith("/head") else leaf
        named = path.replace("decoder/layers", "net/block").replace("head", "net/out")
        found[named] = turned
    return {path: leaf for path, leaf in found.items() if not path.startswith("aux/")}


@pytest.fixture
def restored(flat: Any, skeleton: Any, tmp_path: Path, helpers: Any) -> Restored:
    """What a run restores from another project's checkpoint, converted with a mapping file."""
    with Store(tmp_path / "theirs", layout="linen-state") as store:
        store.save(4, theirs(flat), skeleton=skeleton)
    document = files.parse({"to": "nnx", "rules": RENAMED}, "here")
    source = checkpoint.read(tmp_path / "theirs")
    convert.run(convert.plan(source, "nnx", map_file=document), tmp_path / "converted")
    with Store(tmp_path / "converted") as store:
        return store.restore(None, helpers.target_of(flat))


def later(
    tmp_path: Path, restored: Restored, metadata: dict[str, Any], layout: str = "nnx"
) -> checkpoint.Checkpoint:
    """A step that the run saves itself."""
    told = {"stage": "nnx", "param_scan_axis": 1}
    with Store(tmp_path / "run", layout=layout) as store:
        skeleton = restored.metadata["skeleton"]
        store.save(6, restored.flat, skeleton=skeleton, metadata={**metadata, **told})
    return checkpoint.read(tmp_path / "run")


def home(tmp_path: Path, found: checkpoint.Checkpoint, to: str = "linen") -> checkpoint.Checkpoint:
    convert.run(convert.plan(found, to), tmp_path / "home")
    return checkpoint.read(tmp_path / "home")


@pytest.mark.parametrize(("layout", "to"), [("nnx", "linen"), ("linen", "linen-state")])
def test_a_later_step_goes_home(layout, to, restored, tmp_path, helpers):
    """Through a second restore, as a resumed run does, and in either layout of the framework."""
    skeleton = restored.metadata["skeleton"]
    kept, note = lineage.inherited(restored, restored.flat, skeleton)
    assert not note and kept.keys() == {"origin", "converted_from", "way_back"}
    first = later(tmp_path / "first", restored, kept)
    with Store(tmp_path / "first" / "run") as store:
        again = store.restore(None, helpers.target_of(restored.flat))
    kept, _ = lineage.inherited(again, again.flat, skeleton)
    found = later(tmp_path, again, kept, layout)
    source = checkpoint.read(tmp_path / "theirs")
    assert (
        hashes.fingerprint(found).digest
        == hashes.fingerprint(first).digest
        == hashes.fingerprint(source).digest
    )
    proof, basis = verify.checkpoints(found, source)
    assert basis == "canonical paths" and proof, proof.lines
    back = home(tmp_path, found, to)
    assert back.tree == source.tree
    one, two = (each.load(dict.fromkeys(each.places)) for each in (back, source))
    helpers.assert_equal(one, two)


def test_a_step_that_remembers_nothing_has_the_run_s_names(restored, tmp_path):
    """Negative control: what the tests above rest on is in the metadata alone."""
    found = later(tmp_path, restored, {})
    source = checkpoint.read(tmp_path / "theirs")
    assert hashes.fingerprint(found).digest != hashes.fingerprint(source).digest
    assert home(tmp_path, found).tree != source.tree


def test_a_step_in_the_first_layout_is_not_led_back_unasked(restored, tmp_path):
    """It is no checkpoint of another layout any more: a cast alone must not rename it."""
    kept, _ = lineage.inherited(restored, restored.flat, restored.metadata["skeleton"])
    kept["origin"] = {**kept["origin"], "layout": "linen"}
    found = later(tmp_path, restored, kept, "linen")
    assert home(tmp_path, found).leaves.keys() == found.leaves.keys()


def test_another_model_remembers_nothing_and_says_why(restored):
    other = restored.flat | {"params/more": np.zeros(3, np.float32)}
    kept, note = lineage.inherited(restored, other, restored.metadata["skeleton"])
    assert kept == {} and "does not fit this run's state" in note and "are others" in note


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"split": "head", "to": ["a", "b"], "axis": 0, "sizes": [1, 1]}, "do not make up"),
        ({"rename": 1}, "rename"),
    ],
)
def test_rules_that_cannot_be_carried_out_are_not_remembered(rule, told, restored):
    origin = {**restored.metadata["origin"], "rules": [rule]}
    odd = dataclasses.replace(restored, metadata={**restored.metadata, "origin": origin})
    kept, note = lineage.inherited(odd, restored.flat, restored.metadata["skeleton"])
    assert kept == {} and told in note


def test_without_a_conversion_there_is_nothing_to_remember(restored, skeleton):
    plain = dataclasses.replace(restored, metadata={"layout": "nnx", "stage": "nnx"})
    assert lineage.inherited(plain, {}, skeleton) == ({}, "")
