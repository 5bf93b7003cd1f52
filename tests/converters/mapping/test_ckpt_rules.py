"""Every rule and its inverse: what it does, and what it says where it has none."""

import itertools
import json
from pathlib import Path
from typing import Any

import mapping_cases
import pytest
from mapping_trees import document, linen_variables, numbers, targets

from maxmig import errors
from maxmig.converters import checkpoint, mapping
from maxmig.converters.mapping import auto, files, rules, state

RULES: dict[str, tuple[list[dict[str, Any]], set[str]]] = {
    "rename-exact": ([{"rename": "head", "to": "top/out"}], {"params/top/out/kernel"}),
    "rename-regex": (
        [{"rename": {"regex": r"block_(\d+)/(.*)"}, "to": r"tower/part_\1/\2"}],
        {"params/tower/part_2/mlp/kernel"},
    ),
    "stack": ([{"stack": "block_{}", "to": "block", "axis": 1}], {"params/block/mlp/kernel"}),
    "stack-and-rename": (
        [{"stack": "block_{}", "to": "block"}, {"rename": "block", "to": "ScanBlock_0"}],
        {"params/ScanBlock_0/bias"},
    ),
    "split": (
        [{"split": "head/wide", "to": ["head/a", "head/b"], "axis": 1, "sizes": [2, 4]}],
        {"params/head/a", "params/head/b"},
    ),
    "concat": (
        [{"concat": ["block_0/mlp/kernel", "block_1/mlp/kernel"], "to": "fused", "axis": 0}],
        {"params/fused"},
    ),
    "transpose": ([{"transpose": "head/kernel", "axes": [1, 0]}], {"params/head/kernel"}),
    "collection": (
        [{"collection": "head/mean", "from": "batch_stats", "to": "stats"}],
        {"stats/head/mean"},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_operation_and_its_inverse(rule: str, tree: Path, tmp_path: Path) -> None:
    listed, there = RULES[rule]
    source = checkpoint.read(tree)
    planned = mapping.planned(source, "linen-variables", map_file=document(*listed))
    assert there <= targets(planned)
    made = mapping_cases.convert(
        tree, tmp_path / "made", "linen-variables", map_file=document(*listed)
    )
    changed = mapping_cases.arrays(made)
    back = mapping_cases.convert(
        tmp_path / "made", tmp_path / "back", "linen-variables", map_file=planned.document.inverse()
    )
    before, after = mapping_cases.arrays(tree), mapping_cases.arrays(back)
    assert before.keys() == after.keys()
    assert all(mapping_cases.same_bits(before[path], after[path]) for path in before)
    assert changed.keys() != before.keys() or any(
        not mapping_cases.same_bits(changed[path], before[path]) for path in before
    )


def test_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    blocks = {f"block_{i}": {"mlp": {"kernel": numbers(2, start=i)}} for i in range(12)}
    source = mapping_cases.save(tmp_path / "s", linen_variables(**blocks))
    one = document({"stack": "block_{}", "to": "block", "axis": 0})
    made = mapping_cases.convert(source, tmp_path / "m", "linen-variables", map_file=one)
    (stacked,) = mapping_cases.arrays(made).values()
    assert stacked[:, 0].tolist() == list(range(12))


def test_blocks_without_a_known_name_are_found_or_asked_for(tree: Path) -> None:
    source = checkpoint.read(tree)
    planned = mapping.planned(source, "linen-variables", scan=True)
    assert planned.document.rules == (rules.Stack("block_{}", "block", 0),)
    without = {path: leaf for path, leaf in source.leaves.items() if "block" not in path}
    start = state.start(without, None)
    with pytest.raises(errors.ConvertError, match="which layers are to be stacked"):
        auto.scan(start, scan=True, axis=None, source_axis=None)


def test_the_file_is_emitted_read_and_inverted(tree: Path, tmp_path: Path) -> None:
    listed = list(itertools.chain.from_iterable(items for items, _ in RULES.values()))
    listed += [
        {"drop": {"regex": "head/.*"}, "reason": "another head"},
        {"unstack": "a", "to": "a_{}", "axis": 0},
        {"move_axis": "a", "from": 0, "to": 1},
        {"layer": "cell", "kind": "gru", "to": "nnx"},
        {"list": "blocks"},
        {"random": "dropout/rngs", "impl": "raw", "shape": [2]},
    ]
    first = files.parse({"from": "linen-state", "to": "nnx", "rules": listed}, "here")
    file = tmp_path / "map.yml"
    file.write_text(first.to_yaml())
    again = files.read(file)
    assert again.rules == first.rules and (again.source, again.target) == ("linen-state", "nnx")
    assert files.parse(json.loads(json.dumps(first.data())), "json") == first
    known = [rule for rule in first.rules if not isinstance(rule, rules.Concat)]
    lossy = (rules.Drop, rules.Listed, rules.Random)
    kept = [r for r in known if not isinstance(r, lossy) and "regex" not in str(r.data())]
    assert rules.invert(rules.invert(tuple(kept))) == tuple(kept)


@pytest.mark.parametrize(
    ("rule", "back"),
    [
        ((r"block_(\d+)/(.*)", r"b/\1/\2"), (r"b/(\d+)/(.*)", r"block_\g<1>/\g<2>")),
        ((r"(\w+)/x/(\w+)", r"\2/\1"), (r"(\w+)/(\w+)", r"\g<2>/x/\g<1>")),
    ],
)
def test_regular_expressions_are_inverted(rule: Any, back: Any) -> None:
    found = rules.Rename(rules.Where(rule[0], regex=True), rule[1]).inverse()
    assert (found.where.path, found.to) == back


@pytest.mark.parametrize("pattern", [r"a.b/(\d+)", r"(\d+)/(\d+)", r"((a)b)"])
def test_what_has_no_inverse_says_so(pattern: str) -> None:
    rule = rules.Rename(rules.Where(pattern, regex=True), r"x/\1")
    with pytest.raises(errors.ConvertError, match="has no inverse"):
        rule.inverse()
