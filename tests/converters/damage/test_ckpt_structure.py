"""Leaves missing, extra, swapped, turned or narrowed; saves and sources that are not whole."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from maxmig import errors
from maxmig.converters import checkpoint, convert

WI, GATE = "params/decoder/layers_0/wi/kernel", "params/decoder/layers_0/gate/kernel"
SQUARE = "params/decoder/square/kernel"


def layer(tree, index=0):
    return tree["params"]["params"]["decoder"][f"layers_{index}"]


def swap(tree):
    own = layer(tree)
    own["wi"], own["gate"] = own["gate"], own["wi"]


def swap_layers(tree):
    decoder = tree["params"]["params"]["decoder"]
    decoder["layers_0"], decoder["layers_1"] = decoder["layers_1"], decoder["layers_0"]


def turn(tree):
    own = tree["params"]["params"]["decoder"]["square"]
    own["kernel"] = np.ascontiguousarray(own["kernel"].T)


def narrow(tree):
    layer(tree)["wi"]["kernel"] = layer(tree)["wi"]["kernel"].astype(np.float16)


def cut(tree):
    layer(tree)["wi"]["kernel"] = layer(tree)["wi"]["kernel"][:, :-1]


def zero(tree):
    layer(tree)["wi"]["kernel"] = np.zeros_like(layer(tree)["wi"]["kernel"])


def count(tree):
    tree["opt_state"][0]["count"] = np.int32(4)


DAMAGE = {
    "two weights of one shape swapped": (swap, {f"* {WI}", f"* {GATE}"}),
    "two layers swapped": (
        swap_layers,
        {f"* params/decoder/layers_{i}/{name}/kernel" for i in (0, 1) for name in ("wi", "gate")},
    ),
    "a square weight turned": (turn, {f"* {SQUARE}"}),
    "a narrowed type": (narrow, {f"* {WI}"}),
    "a wrong shape": (cut, {f"* {WI}"}),
    "zeros instead of weights": (zero, {f"* {WI}"}),
    "another count": (count, {"* opt_state/0/count"}),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("verb", ["diff", "verify"])
def test_changed_leaves_are_named(kind, verb, plain, changed, maxmig):
    change, expected = DAMAGE[kind]
    bad = changed(change)
    words = (plain, bad) if verb == "diff" else (bad, "--against", plain)
    code, out, _ = maxmig("ckpt", verb, *words, "--json")
    told = json.loads(out)
    found = {f"{line['sign']} {line['path']}" for line in told["lines"] if line["sign"] != "="}
    assert code == 1 and found == expected


def test_a_cast_is_exact_or_a_difference(plain, changed, maxmig):
    """float16 of the numbers passes if declared; one number that is not their cast does not."""

    def wrong(tree):
        narrow(tree)
        array = layer(tree)["wi"]["kernel"]
        array.view(np.uint16)[7, 9] ^= 1

    code, out, _ = maxmig("ckpt", "diff", plain, changed(narrow), "--cast")
    assert code == 0 and f"~ {WI}  same after the cast: float32 in A, float16 in B" in out
    for words in (
        ("diff", plain, changed(wrong), "--cast"),
        ("verify", changed(wrong), "--against", plain, "--cast"),
    ):
        code, out, _ = maxmig("ckpt", *words)
        assert (
            code == 1 and f"* {WI}  1 of 384 elements" in out and "max 1 ulp, first at [7,9]" in out
        )


def test_a_missing_and_an_extra_leaf(plain, changed, maxmig):
    """Without its own line in the tree's metadata, a leaf is only missed by comparison."""

    def drop(tree):
        del layer(tree, 1)["wi"], tree["opt_state"][0]["mu"]["params"]["decoder"]["layers_1"]["wi"]

    bad = changed(drop)
    missing = "params/decoder/layers_1/wi/kernel"
    code, out, _ = maxmig("ckpt", "diff", plain, bad)
    assert code == 1 and f"- {missing}  float32[16, 24]" in out
    code, out, _ = maxmig("ckpt", "diff", bad, plain)
    assert code == 1 and f"+ {missing}  float32[16, 24]" in out
    code, out, _ = maxmig("ckpt", "verify", bad, "--against", plain)
    assert code == 1 and "does not hold" in out and f"- {missing}" in out
    code, out, _ = maxmig("ckpt", "verify", plain, "--against", bad)
    assert code == 1 and f"+ {missing}" in out


def test_a_renamed_leaf(plain, changed, maxmig):
    def rename(tree):
        for own in (layer(tree), tree["opt_state"][0]["mu"]["params"]["decoder"]["layers_0"]):
            own["up"] = own.pop("wi")

    code, out, _ = maxmig("ckpt", "diff", plain, changed(rename), "--only", "params")
    assert code == 1 and f"> {WI}  is params/decoder/layers_0/up/kernel in B, same bits" in out


def test_a_leaf_whose_files_are_lost(plain, copy, maxmig):
    bad = copy(plain)
    shutil.rmtree(bad / "params.params.decoder.square.kernel")
    for words in (("inspect", bad), ("hash", bad), ("diff", plain, bad)):
        code, out, err = maxmig("ckpt", *words)
        assert code == 4 and "square" in err and out == "", words


def test_a_half_written_save(plain, tmp_path, maxmig):
    """By its name, by its commit marker, by the index that is missing."""
    unfinished = tmp_path / "7.orbax-checkpoint-tmp-1"
    shutil.copytree(plain, unfinished / "items")
    code, _, err = maxmig("ckpt", "verify", unfinished, "--against", plain)
    assert code == 4 and "half-written" in err
    step = tmp_path / "steps" / "7"
    shutil.copytree(plain, step / "items")
    (step / "_CHECKPOINT_METADATA").write_text(json.dumps({"init_timestamp_nsecs": 1}))
    (step / "items" / "commit_success.txt").unlink(missing_ok=True)
    code, _, err = maxmig("ckpt", "hash", step)
    assert code == 4 and "half-written" in err


def test_the_destination_exists(plain, tmp_path, maxmig):
    made = tmp_path / "made"
    made.mkdir()
    (made / "mine.txt").write_text("mine")
    code, _, err = maxmig("ckpt", "convert", plain, made, "--to", "nnx")
    assert code == 4 and "exists already" in err
    assert [path.name for path in made.iterdir()] == ["mine.txt"]


def test_an_unknown_layout_and_an_ambiguous_one(saved, maxmig):
    ones = np.ones(3, np.float32)
    strange = saved({"weights": [ones], "vocabulary": ones})
    both = {"params": {"params": {"w": ones}}, "model": {"w": ones}, "step": np.int32(1)}
    double = saved(both)
    for place in (strange, double):
        for words in (("hash", place), ("diff", place, place)):
            code, out, err = maxmig("ckpt", *words)
            assert (code, out) == (4, "") and "nothing is guessed" in err, words


@pytest.mark.parametrize(
    "segment", ["..", "../../outside", "/etc/x", "a/b", "", ".", "x\x1b[31m", "x\ny", "x\0"]
)
@pytest.mark.parametrize("ocdbt", [True, False])
def test_names_of_leaves_that_are_no_names(segment, ocdbt, plain, tmp_path, maxmig):
    """A name from the metadata never becomes a path outside of the destination."""
    bad = tmp_path / "inside" / "items"
    shutil.copytree(plain, bad)
    tree = json.loads((bad / "_METADATA").read_text())
    entries = tree["tree_metadata"].items()
    told = next(told for key, told in entries if "square" in key and "mu" not in key)
    for entry in told["key_metadata"]:
        entry["key"] = segment if entry["key"] == "square" else entry["key"]
    tree["use_ocdbt"] = ocdbt
    (bad / "_METADATA").write_text(json.dumps(tree))
    before = sorted(map(str, tmp_path.rglob("*")))
    for words in (
        ("convert", bad, tmp_path / "inside" / "made", "--to", "nnx"),
        ("convert", bad, tmp_path / "inside" / "made", "--to", "nnx", "--params-only"),
        ("inspect", bad, "--tree"),
        ("hash", bad),
    ):
        code, out, err = maxmig("ckpt", *words)
        assert code == 4 or words[0] == "inspect", (words, out)
        assert "\x1b" not in out + err and "\0" not in out + err
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_a_link_out_of_the_source(plain, copy, tmp_path, maxmig):
    bad = copy(plain)
    secret = tmp_path / "secret"
    leaf = bad / "params.params.decoder.square.kernel"
    shutil.move(leaf, secret)
    leaf.symlink_to(secret)
    code, _, err = maxmig("ckpt", "convert", bad, tmp_path / "made", "--to", "nnx")
    assert code == 4 and "leads out of the checkpoint" in err and not (tmp_path / "made").exists()
    assert secret.is_dir()


def test_a_source_that_changes_while_it_is_read(plain, copy, tmp_path):
    src = copy(plain)
    chunk = src / "params.params.decoder.square.kernel" / "c" / "0" / "0"
    assert chunk.is_file()
    todo = convert.plan(checkpoint.read(src), "nnx")

    def meddle(nbytes: int) -> None:
        os.utime(chunk, ns=(1, 1))

    with pytest.raises(errors.CheckpointError, match="changed while it was read"):
        convert.run(todo, tmp_path / "made", progress=meddle)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "file",
    [
        "_METADATA",
        "_CHECKPOINT_METADATA",
        "_sharding",
        "params.params.decoder.square.kernel/zarr.json",
    ],
)
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 1000 + "1" + "}" * 1000, "{}", "", "[]", "\xff"]
)
def test_metadata_that_are_none(file, text, plain, copy, maxmig):
    """Nested too deep, empty, or of another kind: told, never a traceback."""
    bad = copy(plain)
    (bad / file).write_bytes(text.encode("latin1"))
    for words in (("inspect", bad), ("verify", bad, "--against", plain)):
        code, out, err = maxmig("ckpt", *words)
        named = {"_METADATA": "metadata", "zarr.json": "square"}.get(Path(file).name)
        assert (code == 4 and named in err + out) if named else code in (0, 4), (words, err)


@pytest.mark.parametrize(
    ("custom", "told"),
    [
        ("text", "custom_metadata: expected dict, got str"),
        ({"maxmig": [1]}, "custom_metadata/maxmig: expected dict, got list"),
        ({"maxmig": {"layout": []}}, "maxmig/layout: expected str, got list"),
        ({"maxmig": {"param_scan_axis": True}}, "param_scan_axis: expected int, got bool"),
        ({"maxmig": {"origin": {"form": "x"}}}, "origin/form: expected dict, got str"),
        ({"maxmig": {"skeleton": {"tuple": [{"params": None}]}}}, "skeleton: no containers"),
        ({"other": 1, "maxmig": None}, None),
        (None, None),
    ],
)
def test_what_the_metadata_remember_is_not_what_was_written(custom, told, plain, copy, maxmig):
    bad = copy(plain)
    (bad / "_CHECKPOINT_METADATA").write_text(json.dumps({"custom_metadata": custom}))
    for words in (("inspect", bad), ("hash", bad)):
        code, _, err = maxmig("ckpt", *words)
        assert (code == 4 and told in err) if told else code == 0, (words, err)


def test_keys_of_a_list_and_of_a_dict_in_one_container(plain, copy, maxmig):
    """One flipped bit can do that."""
    bad = copy(plain)
    tree = json.loads((bad / "_METADATA").read_text())
    for entry in tree["tree_metadata"].values():
        key = entry["key_metadata"][1:2]
        if key and key[0]["key"] == "1":
            key[0]["key_type"] = 2
    (bad / "_METADATA").write_text(json.dumps(tree))
    for words in (("inspect", bad), ("hash", bad), ("diff", plain, bad)):
        code, _, err = maxmig("ckpt", *words)
        assert code == 4 and "opt_state" in err, words


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ([{"rename": "decoder/square", "to": "decoder/layers_0/wi"}], "wi"),
        ([{"rename": "decoder/nothing", "to": "decoder/something"}], "decoder/nothing"),
        ([{"transpose": "decoder/square/kernel", "axes": [0, 0]}], "each axis once"),
        ([{"drop": "decoder/square", "reason": ""}], "rules[0]: drop"),
        (
            [{"concat": ["decoder/square/kernel", "decoder/none/kernel"], "to": "x", "axis": 0}],
            "none",
        ),
        ([{"rename": {"regex": "("}, "to": "x"}], "regular expression"),
        ([{"turn": "decoder/square"}], "expected a rule"),
        ({"rename": "x"}, "expected a list"),
    ],
)
def test_mappings_with_a_hole_or_a_collision(rules, told, plain, tmp_path, maxmig):
    """Checked before a byte moves."""
    import yaml

    file = tmp_path / "map.yaml"
    file.write_text(yaml.safe_dump({"maxmig_map": 1, "to": "nnx", "rules": rules}))
    made = tmp_path / "made"
    code, _, err = maxmig("ckpt", "convert", plain, made, "--to", "nnx", "--map", file)
    assert code in (2, 4) and told in err, err
    assert not made.exists() and "Traceback" not in err


def test_a_result_without_its_record_of_what_was_dropped(plain, tmp_path, maxmig):
    """Leaving the optimizer out is right only where the record says so."""
    made, bare = tmp_path / "made", tmp_path / "bare"
    assert maxmig("ckpt", "convert", plain, made, "--to", "linen", "--params-only")[0] == 0
    code, _, err = maxmig("ckpt", "verify", made, "--against", plain)
    assert code == 0 and "left out (--params-only)" in err
    shutil.copytree(made, bare)
    (file,) = [path for path in bare.rglob("_CHECKPOINT_METADATA") if "maxmig" in path.read_text()]
    told = json.loads(file.read_text())
    del told["custom_metadata"]["maxmig"]["converted_from"]
    file.write_text(json.dumps(told))
    code, out, _ = maxmig("ckpt", "verify", bare, "--against", plain)
    assert code == 1 and "- opt_state/0/mu/decoder/square/kernel" in out
    told["custom_metadata"]["maxmig"]["converted_from"] = {
        "layout": "linen",
        "options": {"to": "linen", "from_the_future": True},
    }
    file.write_text(json.dumps(told))
    code, _, err = maxmig("ckpt", "verify", bare, "--against", plain)
    assert code == 4 and "another version of maxmig" in err
