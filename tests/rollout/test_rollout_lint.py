"""The hook: each mistake with its line, and nothing about files that are none of its business."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rollout_files import CONFIG, base_yml

from maxmig.rollout import lint
from maxmig.rollout.choice import Choice
from maxmig.rollout.era import Era

OURS, NEW, GONE = Choice(), Choice(era=Era.DEFAULT_TRUE), Choice(era=Era.REMOVED)

MISTAKES = [
    ("steps: 1\nsteps: 2\n", OURS, [(2, "duplicate")]),
    ("pure_nnx: false\npure_nnx: false\n", NEW, [(2, "duplicate")]),
    ("steps: 1\npure_nnx: 'true'\n", OURS, [(2, "quoted")]),
    ('steps: 1\npure_nnx: "False"\n', NEW, [(2, "quoted")]),
    ("steps: 1\npure_nnx: yes\n", OURS, [(2, "boolean")]),
    ("steps: 1\npure_nnx: 1\n", NEW, [(2, "boolean")]),
    ("steps: 1\npure_nnx:\n", OURS, [(2, "boolean")]),
    ("steps: 1\npure_nnx: [true]\n", OURS, [(2, "boolean")]),
    ("steps: 1\npure_nxx: true\n", OURS, [(2, "misspelt")]),
    ("steps: 1\nenable-nnx: true\n", NEW, [(2, "misspelt")]),
    ("PURE_NNX_DECODER: true\n", OURS, [(1, "misspelt")]),
    ("pure_nnx_decoders: true\n", OURS, [(1, "misspelt")]),
    ("steps: 1\nlearning_rat: 1.0\n", OURS, [(2, "misspelt")]),
    ("run_name: x\nbase_confg: a.yml\n", OURS, [(2, "misspelt")]),
    ("steps: 1\npure_nnx:\ttrue\n", OURS, [(2, "tab")]),
    ("steps: 1\n\tpure_nnx: true\n", NEW, [(2, "tab")]),
    ("pure_nnx: [true\n", OURS, [(2, "yaml")]),
    ("pure_nnx: true\n---\nb: 1\n", OURS, [(2, "yaml")]),
    ("run_name: a\n---\nsteps: 3\n", OURS, [(2, "yaml")]),
    ("run_name: a\n\tsteps: 3\n", OURS, [(2, "tab")]),
    ("run_name:\ta\nsteps: 3\n", OURS, [(1, "tab")]),
    ("run_name: a\0\n", OURS, [(1, "yaml")]),
    ("run_name: a\nenable_nnx: &n false\npure_nnx: *n\n", OURS, [(3, "yaml")]),
    ("base: &b {enable_nnx: false}\n<<: *b\nrun_name: a\n", OURS, [(2, "yaml")]),
    ("run_name: a\nenable_nnx: !!str false\n", OURS, [(2, "yaml")]),
    ("steps: 1\npure_nnx: true\n", OURS, [(2, "combination")]),
    ("steps: 1\npure_nnx_decoder: true\n", OURS, [(2, "combination")]),
    ("a: 1\nsteps: 1\nenable_nnx: false\n", NEW, [(3, "combination")]),
    ("steps: 1\nenable_diloco: true\npure_nnx: false\n", NEW, [(2, "combination")]),
    (
        "steps: 1\npure_nnx_decoder: false\nuse_qwix_quantization: true\nquantization: int8\n",
        NEW,
        [(3, "combination")],
    ),
    ("steps: 1\npure_nnx: true\n", GONE, [(2, "removed")]),
    (
        "steps: 1\nstudent_overrides:\n  pure_nnx: true\nenable_nnx: true\n",
        GONE,
        [(3, "removed"), (4, "removed")],
    ),
    ("base_config: missing.yml\nenable_nnx: true\n", OURS, [(1, "parent")]),
    ("base_config: bad.yml\nenable_nnx: true\n", OURS, [(1, "parent")]),
    ("steps: 1\nstudent_overrides:\n  pure_nnx: 'true'\n", NEW, [(3, "quoted")]),
]


@pytest.mark.parametrize(("text", "choice", "expected"), MISTAKES)
def test_mistakes(here: Path, text: str, choice: Choice, expected: list[tuple[int, str]]) -> None:
    Path("bad.yml").write_text(text)
    found = lint.lint(["bad.yml"], choice)
    assert [(item.line, item.code) for item in found] == expected
    assert all(str(item).startswith("bad.yml:") and item.message for item in found)


GOOD = [
    (CONFIG, OURS),
    ("steps: 1\nenable_nnx: true\npure_nnx: true\npure_nnx_decoder: true\n", OURS),
    ("steps: 1\nenable_nnx: true\n", OURS),
    (base_yml("default-true"), NEW),
    (base_yml("removed"), GONE),
    ("steps: 1\npure_nnx: ${oc.env:NNX}\n", NEW),
    ("shared_experts: 8\npure_nnx: false\n", OURS),  # MaxText's, and none is here: no more to say
    ("# pure_nnx: 'true'\nsteps: 1\n", OURS),
    ("a: &on true\nsteps: 1\npure_nnx: *on\n", NEW),  # MaxText takes aliases
    ("quantization: int8\nuse_qwix_quantization: true\npure_nnx: true\n", NEW),
    # No configurations:
    ("", OURS),
    ("name: ci\nname: ci\non: [push]\n", OURS),
    ("a: 1\n---\nb: 2\n", OURS),
    ("key: {{ template }}\n", OURS),
    ("- pure_nnx: 'true'\n", OURS),
    ("just words\n", OURS),
]


@pytest.mark.parametrize(("text", "choice"), GOOD)
def test_no_false_alarm(here: Path, text: str, choice: Choice) -> None:
    Path("good.yml").write_text(text)
    assert lint.lint(["good.yml"], choice) == []


def test_our_own_configurations(root: Path) -> None:
    names = [str(path) for path in sorted((root / "configs").rglob("*.yml"))]
    assert len(names) > 10
    assert lint.lint(names) == []


def test_an_override_of_the_parent_that_makes_a_bad_combination(here: Path) -> None:
    Path("parent.yml").write_text("steps: 1\nenable_nnx: true\npure_nnx: true\n")
    Path("child.yml").write_text("base_config: parent.yml\n\nenable_nnx: false\n")
    (finding,) = lint.lint(["parent.yml", "child.yml"])
    assert str(finding).startswith(
        "child.yml:3: combination: pure_nnx: true with enable_nnx: false"
    )


def test_bytes_that_are_no_text(here: Path) -> None:
    Path("a.yml").write_bytes(b"\xff\xfe pure_nnx\n")
    Path("b.yml").write_bytes(b"\xff\xfe\n")
    (finding,) = lint.lint(["a.yml", "b.yml"])
    assert (finding.path, finding.code) == ("a.yml", "yaml")
    Path("a.yml").write_bytes(b"run_name: a # \xfc\n")
    Path("b.yml").write_text("run_name: a\n", "utf-16")
    assert [item.path for item in lint.lint(["a.yml", "b.yml"])] == ["a.yml", "b.yml"]


def test_what_is_no_configuration_is_skipped_by_name(run: Callable[..., Any], here: Path) -> None:
    for name, text in {"list": "- a\n", "ci": "on: [push]\n", "none": "# a\n"}.items():
        Path(f"{name}.yml").write_text(text)
    done = run("lint", "list.yml", "ci.yml", "none.yml")
    assert done.code == 0
    assert "list.yml: skipped: no configuration: expected `key: value` lines" in done.out
    assert "SKIP: 0 findings in 0 files; 3 files skipped" in done.out
    done = run("lint", "list.yml", "--json")
    assert [item["path"] for item in done.json["skipped"]] == ["list.yml"]


def test_the_command_line(run: Callable[..., Any], here: Path) -> None:
    Path("a.yml").write_text("steps: 1\npure_nnx: 'true'\n")
    Path("b.yml").write_text(CONFIG)
    done = run("lint", "a.yml", "b.yml")
    assert done.code == 1
    assert done.out.splitlines()[0].startswith(
        "a.yml:2: quoted: pure_nnx: 'true' is text in quotes"
    )
    assert "FAIL: 1 finding in 2 files" in done.out
    assert run("lint", "b.yml").code == 0
    done = run("lint", "a.yml", "--json")
    assert (done.code, done.json["findings"][0]["code"]) == (1, "quoted")
    assert run("lint", "missing.yml").code == 4


def test_the_hook_of_pre_commit(root: Path, run: Callable[..., Any], here: Path) -> None:
    (hook,) = yaml.safe_load((root / ".pre-commit-hooks.yaml").read_text())
    Path("a.yml").write_text("steps: 1\nsteps: 2\n")
    words = hook["entry"].split()
    assert words[:2] == ["maxmig", "flags"]
    assert run(*words[2:], "a.yml").code == 1
    assert hook["types"] == ["yaml"]
