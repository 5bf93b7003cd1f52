"""One digest through conversions that change names and arrays, as far as they are recorded."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maxmig.converters import checkpoint, convert
from maxmig.converters.compare import hash
from maxmig.converters.mapping import files, traced

RNG = np.random.default_rng(4)


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def save(path: Path, params: Any, **more: Any) -> Path:
    """A TrainState with moments."""
    import orbax.checkpoint as ocp

    adam = {"count": np.array(1, np.int32), "mu": params, "nu": params}
    tree = {"params": params, "opt_state": [adam, None], "step": np.array(1, np.int32), **more}
    ocp.PyTreeCheckpointer().save(path, tree)
    return path


def mapped(text: str) -> files.Document:
    return files.parse({"maxmig_map": 1, "rules": json.loads(text)}, "test")


def told(place: Path, **options: Any) -> hash.Fingerprint:
    return hash.fingerprint(checkpoint.read(place), **options)


def forgotten(place: Path) -> hash.Fingerprint:
    """As if another program had written it."""
    return hash.fingerprint(dataclasses.replace(checkpoint.read(place), metadata={}))


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    params = {
        "old": {"a": {"kernel": array(4, 4)}, "b": {"kernel": array(4, 6)}},
        "head": {"kernel": array(4, 3)},
        "gone": {"kernel": array(2, 2)},
    }
    return save(tmp_path_factory.mktemp("towers") / "source", params)


RENAMED = (
    '[{"rename": "old", "to": "new"}, {"transpose": "head/kernel", "axes": [1, 0]},'
    ' {"concat": ["new/a/kernel", "new/b/kernel"], "to": "ab/kernel", "axis": 1}]'
)


@pytest.mark.parametrize("to", ["nnx", "linen-state"])
def test_what_a_mapping_file_did(to, towers, converted):
    """Also of a second file after it, and on the way back; not if numbers are left out or cast."""
    first = converted(towers, to, map_file=mapped(RENAMED))
    expected, found = told(towers), told(first)
    assert found.digest == expected.digest and found.leaves == expected.leaves
    assert len(found.undone) == 3 and any("--as-stored" in note for note in found.notes)
    assert not expected.undone and not expected.notes
    assert told(first, as_stored=True).digest == forgotten(first).digest != expected.digest
    assert told(towers, rules=mapped(RENAMED).rules).digest == forgotten(first).digest
    second = converted(first, "nnx", map_file=mapped('[{"rename": "ab", "to": "both"}]'))
    assert told(second).digest == expected.digest and len(told(second).undone) == 4
    if to == "nnx":
        back = converted(first, "linen")
        assert told(back).digest == expected.digest and not told(back).undone
    dropped = converted(towers, to, map_file=mapped('[{"drop": "gone", "reason": "test"}]'))
    assert told(dropped).digest != expected.digest
    cast = converted(towers, to, map_file=mapped(RENAMED), dtype="bfloat16")
    assert told(cast).digest != expected.digest


def test_one_number_changes_it(converted, tmp_path):
    """The control: what is undone is names, not numbers."""
    params = {"old": {"kernel": array(4, 4)}, "head": {"kernel": array(3)}}
    renamed = mapped('[{"rename": "old", "to": "new"}]')
    one = told(converted(save(tmp_path / "a", params), "nnx", map_file=renamed))
    params["old"]["kernel"][1, 2] += 1
    two = told(converted(save(tmp_path / "b", params), "nnx", map_file=renamed))
    assert one.digest != two.digest and one.leaves.keys() == two.leaves.keys()


def test_numbers_with_zeros_before_them(converted, tmp_path):
    """`layers_03` and `layers_3` and a stack have one digest; two leaves never get one path."""
    wi = [{"kernel": array(4, 2), "bias": array(2)} for _ in range(11)]
    layers = {f"layers_{i:02}": {"wi": each} for i, each in enumerate(wi)}
    padded = save(tmp_path / "padded", layers)
    plain = save(tmp_path / "plain", {f"layers_{int(k[7:])}": v for k, v in layers.items()})
    stacked = converted(padded, "nnx", scan=True)
    places = (padded, plain, stacked, converted(stacked, "linen", scan=False))
    assert len({told(place).digest for place in places}) == 1
    assert forgotten(stacked).digest == told(padded).digest
    assert "params/layers_10/wi/kernel" in told(padded).leaves
    layers["layers_00"], layers["layers_01"] = layers["layers_01"], layers["layers_00"]
    assert told(save(tmp_path / "swapped", layers)).digest != told(padded).digest
    both = {"block_1": {"kernel": array(2)}, "block_01": {"kernel": array(2)}}
    found = told(save(tmp_path / "both", both)).leaves
    assert {"params/block_1/kernel", "params/block_01/kernel"} <= found.keys()


def test_stacks_of_unknown_names(converted, tmp_path):
    """What was taken apart, or put together, is recorded; where it is not, a note says so."""
    blocks = {"norm": {"scale": array(3, 4)}, "wi": {"kernel": array(3, 5, 2)}}
    whole = save(tmp_path / "whole", {"blocks": blocks, "head": {"kernel": array(2, 2)}})
    apart = converted(whole, "nnx", scan=False)
    assert told(apart).digest == told(whole).digest and told(apart).undone
    again = converted(apart, "linen", scan=True)
    assert told(again).digest == told(whole).digest and not told(again).undone
    moved = converted(whole, "nnx", scan_axis=1)
    assert told(moved).digest == told(whole).digest != forgotten(moved).digest
    (note,) = told(whole).notes
    assert note.startswith("blocks: looks like a stack") and "--map" in note
    assert forgotten(apart).digest != told(whole).digest and not forgotten(apart).notes
    rules = mapped('[{"unstack": "blocks", "to": "blocks_{}", "axis": 0}]').rules
    assert told(whole, rules=rules).digest == forgotten(apart).digest


def test_a_layer_axis_that_is_only_usual(tmp_path):
    """As many layers as features: a note says on which axis MaxText's are taken apart."""
    layers = {"wi": {"kernel": array(3, 3, 2)}, "norm": {"scale": array(3, 3)}}
    model = {
        "token_embedder": {"embedding": array(5, 3)},
        "decoder": {"layers": layers, "decoder_norm": {"scale": array(3)}},
    }
    (note,) = told(save(tmp_path / "square", model)).notes
    assert "taken apart on axis 1, as is usual" in note and "from axis 0" in note
    layers["wi"]["kernel"] = array(3, 5, 2)
    assert not told(save(tmp_path / "plain", model)).notes


def test_a_layer_axis_that_nothing_tells(tmp_path, converted):
    """The digest is that of the whole arrays, which no other one is taken for."""
    layers = {"wi": {"kernel": array(3, 3, 3), "bias": array(3, 3)}}
    source = save(tmp_path / "source", {"layers": layers})
    whole = told(source)
    (note,) = whole.notes
    assert "axis 0 (3 layers) or axis 1 (3 layers) or axis 2 (3 layers)" in note
    assert "; an `unstack:` rule" in note
    assert {"params/layers/wi/kernel", "params/layers/wi/bias"} <= whole.leaves.keys()
    apart = [converted(source, "nnx", scan=False, from_scan_axis=axis) for axis in (0, 1)]
    assert {told(each).digest for each in apart} == {whole.digest}  # and so does what they record
    assert all("that was said (--from-scan-axis)" in "".join(told(each).notes) for each in apart)
    names = [told(each, as_stored=True).digest for each in apart]
    assert len({whole.digest, *names}) == 3
    for axis, name in enumerate(names):
        rule = {"unstack": "layers", "to": "layers_{}", "axis": axis}
        assert told(source, rules=mapped(json.dumps([rule])).rules).digest == name
    stacked = [converted(source, "nnx", from_scan_axis=0), converted(apart[0], "linen", scan=True)]
    stacked += [converted(source, "nnx", from_scan_axis=0, scan_axis=1)]
    stacked += [
        converted(stacked[0], "linen", scan=False),
        converted(stacked[2], "nnx", scan_axis=0),
    ]
    assert {told(each).digest for each in stacked} == {whole.digest}
    assert told(stacked[3], as_stored=True).digest == names[0]
    layers["wi"]["bias"] = array(3, 3)
    other = save(tmp_path / "other", {"layers": layers})
    assert told(converted(other, "nnx", from_scan_axis=0)).digest != whole.digest


@pytest.mark.parametrize("kind", ["spectral-norm", "weight-norm"])
def test_wrapped_layers(kind, converted, tmp_path):
    """Which layer is wrapped the metadata tell, or a mapping file; else a note does."""
    dense = {"kernel": array(4, 3), "bias": array(3)}
    if kind == "spectral-norm":
        kept = {"Dense_0/kernel/u": array(1, 3), "Dense_0/kernel/sigma": np.array(1.5, np.float32)}
        at, params, more = "SpectralNorm_0", {"Dense_0": dense}, {}
        more = {"batch_stats": {at: kept}}
    else:
        at, more = "WeightNorm_0", {}
        params = {"Dense_0": dense, at: {"Dense_0/kernel/scale": array(3)}}
    source = save(tmp_path / "source", params, **more)
    result = converted(source, "nnx")
    assert told(result).digest == told(source).digest and told(result).leaves == told(source).leaves
    assert not told(source).notes
    bare = forgotten(result)
    assert bare.digest != told(source).digest
    assert any(note.startswith(f"{at}: {kind}") and "--map" in note for note in bare.notes)
    rule = json.dumps([{"layer": at, "kind": kind, "wraps": "Dense_0", "to": "linen"}])
    found = dataclasses.replace(checkpoint.read(result), metadata={})
    assert hash.fingerprint(found, rules=mapped(rule).rules).digest == told(source).digest


def test_a_record_that_does_not_fit(towers, converted):
    """Names are then taken as they are, and a note says so."""
    place = converted(towers, "nnx", map_file=mapped(RENAMED))
    found = checkpoint.read(place)
    split = {"split": "ab/kernel", "to": ["x"], "axis": 5, "sizes": [1]}
    for way_back in ({"rules": [split]}, {"rules": [{"rename": 1}]}, "none"):
        own = {**found.own, "way_back": way_back}
        other = hash.fingerprint(dataclasses.replace(found, metadata={"maxmig": own}))
        assert other.digest == told(place, as_stored=True).digest
        assert any("does not fit" in note for note in other.notes)


def test_the_command(towers, maxmig, tmp_path):
    place = tmp_path / "made"
    convert.run(convert.plan(checkpoint.read(towers), "nnx", map_file=mapped(RENAMED)), place)
    code, out, err = maxmig("ckpt", "hash", place, "--json")
    found = json.loads(out)
    assert code == 0 and len(found["undone"]) == 3 and "--as-stored" in err
    assert found["digest"] == told(towers).digest
    assert "{transpose: head/kernel, axes: [1, 0]}" in err
    table = (traced.parse({"params/a": "params/b", "params/c": "params/d"}), traced.parse({}))
    assert hash._spelt(table[0]) == "{leaves: a table of 2}" != hash._spelt(table[1])
    code, out, err = maxmig("ckpt", "hash", place, "--as-stored")
    assert code == 0 and found["digest"] not in out and err == ""
