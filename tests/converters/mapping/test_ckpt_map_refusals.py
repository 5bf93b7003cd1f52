"""Mapping files that are refused: not understood, with holes or collisions, or not of this tree."""

from pathlib import Path
from typing import Any

import pytest
from mapping_trees import document, targets

from maxmig import errors
from maxmig.converters import checkpoint, mapping
from maxmig.converters.mapping import files


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([{"rename": "nowhere", "to": "x"}], "a rule matches nothing"),
        ([{"rename": "block_0", "to": "block_1"}], "two leaves would have this path"),
        ([{"rename": "head/kernel", "to": "block_0"}], "block_0: is a leaf, and holds params/bl"),
        ([{"split": "head/wide", "to": ["a", "b"], "axis": 1, "sizes": [1, 1]}], "do not make up"),
        ([{"concat": ["head/kernel", "gone"], "to": "x", "axis": 0}], "not there: gone"),
        ([{"transpose": "head/kernel", "axes": [2, 0, 1]}], "expected 3 axes"),
        ([{"rename": "head/kernel", "to": "../../etc"}], r"rules\[0\]: rename: to: .* got '..'"),
        ([{"unstack": "head", "to": "head_{}", "axis": 2}], "expected a layer axis from 0 to 1"),
        ([{"stack": "block_{}", "to": "block", "axis": 3}], "expected a layer axis from 0 to 2"),
        ([{"move_axis": "head", "from": 0, "to": 2}], "expected a layer axis from 0 to 1"),
        ([{"drop": "gone", "reason": "x"}], "rules.0.: {drop: gone, reason: x}: a rule matches n"),
        ([{"unlist": "blocks"}], "a rule matches nothing"),
    ],
)
def test_holes_and_collisions_name_the_leaves(
    items: list[dict[str, Any]], told: str, tree: Path
) -> None:
    source = checkpoint.read(tree)
    with pytest.raises((errors.ConfigError, errors.ConvertError), match=told) as error:
        mapping.planned(source, "linen-variables", map_file=document(*items))
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rules: 3", "expected a list"),
        ("[1]", "expected keys and values"),
        ("", "expected keys and values, of which one is `maxmig_map: 1`, got nothing"),
        ('rules:\n- {rename: a, to: "x\\u0001"}', r"map.yml:2: .*expected printable names"),
        ("rule: []", "unknown keys"),
        ("maxmig_map: 9", "expected version 1"),
        ("rules: [{rename: a}]", r"rules\[0\]: rename: 'to' is missing"),
        ("rules: [{rename: a, to: b, axis: 1}]", "unknown"),
        ("rules: [{rename: {regex: '('}, to: b}]", "no regular expression"),
        ("rules: [{stack: a, to: b}]", "for the number"),
        ("rules: [{layer: a, kind: conv, to: nnx}]", "kind: expected one of"),
        ("rules: [{transpose: a, axes: [0, 0]}]", "each axis once"),
        ("rules: [{drop: a}]", "'reason' is missing"),
        ("to: keras", "expected a checkpoint layout"),
        ("a: [", "expected YAML"),
        ("rules: []\nmaxmig_map: 1\nrules: []", r"map.yml:3: rules: this key is there twice"),
        ("rules: []", "expected `maxmig_map: 1`, or `kind: maxmig.mapping`"),
        ("kind: other", "kind: expected 'maxmig.mapping'"),
        ("kind: maxmig.mapping", "expected leaves: with one line for every leaf"),
        ("rules:\n- {rename: {regex: 'a/(.*)'}, to: 'x/\\2'}", r"map.yml:2: .*group reference 2"),
        ("rules: [{concat: [a, b, a], to: c, axis: 0}]", "a is there twice"),
        ("rules: [{split: a, to: [b, b], axis: 0, sizes: [1, 1]}]", "b is there twice"),
        ("rules: [{split: a, to: [b], axis: 0, sizes: [1, 1]}]", "a path for each of the 2 sizes"),
        ("optimizer: 5", "optimizer: expected module:name"),
        ("leaves: {p/a: p/x, p/b: p/x}", "p/x is used twice, for p/a and p/b"),
        ("leaves: {p/a: {op: fry, from: p/x}}", "expected one of same"),
        ("boxed: [a, a]", "a is there twice"),
    ],
)
def test_bad_files(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "map.yml"
    file.write_text(text)
    with pytest.raises(errors.ConfigError, match=told):
        files.read(file)


TABLE = {
    f"params/block_{i}/{leaf}": f"params/block_{i}/{leaf}"
    for i in range(3)
    for leaf in ("mlp/kernel", "bias")
} | {"params/head/kernel": "params/head/kernel"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, r"1 of 8 are in no line of it.*\n  params/head/wide$"),
        (
            {
                "params/a": {
                    "op": "slice",
                    "axis": 1,
                    "start": 0,
                    "stop": 5,
                    "from": "params/head/wide",
                }
            },
            r"params/head/wide: its parts in leaves: \(params/a\) do not make up",
        ),
        ({"params/wide": "params/head/wide", "params/x": "params/gone"}, "expected params/gone in"),
    ],
)
def test_a_table_names_every_leaf(more: dict[str, Any], told: str, tree: Path) -> None:
    source = checkpoint.read(tree)
    with pytest.raises(errors.ConfigError, match=told):
        mapping.planned(source, "linen-variables", map_file=document(leaves=TABLE | more))
    whole = document(leaves=TABLE | {"params/wide": "params/head/wide"})
    assert "params/wide" in targets(mapping.planned(source, "linen-variables", map_file=whole))


@pytest.mark.parametrize("key", ["boxed", "unboxed", "collections"])
def test_what_is_said_of_the_tree_is_there(key: str, tree: Path) -> None:
    told: Any = {"gone": "stats"} if key == "collections" else ["gone"]
    with pytest.raises(errors.ConfigError, match=f"{key}: gone: no leaf or module"):
        mapping.planned(checkpoint.read(tree), "nnx", map_file=document(**{key: told}))
