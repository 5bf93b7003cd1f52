"""The manner of a file is kept: each case with its whole text before and after."""

import pytest

from maxmig.errors import ConfigError, PreflightError
from maxmig.rollout import edits, splice
from maxmig.rollout.document import Document

KEYS = ("enable_nnx", "pure_nnx", "pure_nnx_decoder")


def edit(text: str, changes: dict[str, str | None]) -> str:
    doc = Document.parse(text, "x.yml")
    paths = {tuple(key.split(".")): value for key, value in changes.items()}
    return splice.apply(text.encode(), edits.edit(doc, paths, siblings=KEYS)).decode()


ON = {"pure_nnx": "true"}

REPLACED = [
    ("pure_nnx: false\n", "pure_nnx: true\n"),
    ("pure_nnx:    false   # why\n", "pure_nnx:    true   # why\n"),
    ("pure_nnx: 'false'\n", "pure_nnx: true\n"),
    ('"pure_nnx": false\n', '"pure_nnx": true\n'),
    ("a: 1\r\npure_nnx: false\r\nb: 2\r\n", "a: 1\r\npure_nnx: true\r\nb: 2\r\n"),
    ("pure_nnx: false", "pure_nnx: true"),
    ("\ufeffpure_nnx: false\n", "\ufeffpure_nnx: true\n"),
    ("pure_nnx:\nb: 1\n", "pure_nnx: true\nb: 1\n"),
    ("pure_nnx: # later\n", "pure_nnx: true # later\n"),
    ("pure_nnx: ~\n", "pure_nnx: true\n"),
    ("pure_nnx:\n  false\n", "pure_nnx:\n  true\n"),
    ("a: &off false\npure_nnx: *off\n", "a: &off false\npure_nnx: true\n"),
    ("pure_nnx: &mine false\n", "pure_nnx: &mine true\n"),
    ("pure_nnx: !!bool 'false'\n", "pure_nnx: true\n"),
    ("pure_nnx: !!str &x false # c\n", "pure_nnx: &x true # c\n"),
    ("pure_nnx: &x # c\n  false\n", "pure_nnx: &x # c\n  true\n"),
    ("{a: 1, pure_nnx: false, b: 2}\n", "{a: 1, pure_nnx: true, b: 2}\n"),
    ('{"a":1,"pure_nnx":false}', '{"a":1,"pure_nnx":true}'),
    ("{pure_nnx, a: 1}\n", "{pure_nnx: true, a: 1}\n"),
    ("{pure_nnx: , a: 1}\n", "{pure_nnx: true , a: 1}\n"),
    ("? pure_nnx\n: false\n", "? pure_nnx\n: true\n"),
    ("%YAML 1.1\n---\npure_nnx: false\n...\n", "%YAML 1.1\n---\npure_nnx: true\n...\n"),
    ("# pure_nnx: false\npure_nnx: false\n", "# pure_nnx: false\npure_nnx: true\n"),
    ("a: 'x\n  pure_nnx: false'\npure_nnx: false\n", "a: 'x\n  pure_nnx: false'\npure_nnx: true\n"),
    ("a: |\n  pure_nnx: false\npure_nnx: false\n", "a: |\n  pure_nnx: false\npure_nnx: true\n"),
    ("a: {pure_nnx: false}\npure_nnx: false\n", "a: {pure_nnx: false}\npure_nnx: true\n"),
    (
        'a: "tab\\t\ttab"\t\npure_nnx: false\t\n'.replace("\t\n", "\n"),
        'a: "tab\\t\ttab"\npure_nnx: true\n',
    ),
    ("# tab\t\nrun: ☃\npure_nnx: false\n", "# tab\t\nrun: ☃\npure_nnx: true\n"),
    ("a: 'x\u2028y'\npure_nnx: false\n", "a: 'x\u2028y'\npure_nnx: true\n"),
]


@pytest.mark.parametrize(("before", "after"), REPLACED)
def test_a_value_changes_in_its_place(before: str, after: str) -> None:
    assert edit(before, ON) == after


ADDED = [
    ("a: 1\n", "a: 1\npure_nnx: true\n"),
    ("a: 1", "a: 1\npure_nnx: true"),
    ("a: 1  # note", "a: 1  # note\npure_nnx: true"),
    ("a: 1\r\n", "a: 1\r\npure_nnx: true\r\n"),
    ("a: 1\r\nb: 2", "a: 1\r\nb: 2\r\npure_nnx: true"),
    ("  a: 1\n  b: 2\n", "  a: 1\n  b: 2\n  pure_nnx: true\n"),
    ("a: 1\n\n# the end\n", "a: 1\npure_nnx: true\n\n# the end\n"),
    ("enable_nnx: true # x\na: 1\n", "enable_nnx: true # x\npure_nnx: true\na: 1\n"),
    ('"a": 1\n', '"a": 1\n"pure_nnx": true\n'),
    ("a:\n  b: 1\n\n# c\n", "a:\n  b: 1\npure_nnx: true\n\n# c\n"),
    ("a:\n- 1\n- 2\n", "a:\n- 1\n- 2\npure_nnx: true\n"),
    ("a: |\n  text\n\n", "a: |\n  text\n\npure_nnx: true\n"),
    ("a: |+\n  text\n\n", "a: |+\n  text\n\npure_nnx: true\n"),
    ("a: |\n  text", "pure_nnx: true\na: |\n  text"),
    ("a: 1\n...\n", "a: 1\npure_nnx: true\n...\n"),
    ("---\n", "---\npure_nnx: true\n"),
    ("", "pure_nnx: true\n"),
    ("# only words", "# only words\npure_nnx: true"),
    ("\ufeffa: 1\n", "\ufeffa: 1\npure_nnx: true\n"),
    ("d: &d {pure_nnx: false}\n<<: *d\n", "d: &d {pure_nnx: false}\n<<: *d\npure_nnx: true\n"),
    ("{}\n", "{pure_nnx: true}\n"),
    ("{a: 1}\n", "{a: 1, pure_nnx: true}\n"),
    ("{a: 1,}\n", "{a: 1, pure_nnx: true,}\n"),
    ("{enable_nnx: true, a: 1}\n", "{enable_nnx: true, pure_nnx: true, a: 1}\n"),
    ('{"a": 1}', '{"a": 1, "pure_nnx": true}'),
    ("{\n  a: 1,\n  b: 2  # n\n}\n", "{\n  a: 1,\n  b: 2,  # n\n  pure_nnx: true\n}\n"),
    ("{\n  a: 1,\n  b: 2,\n}\n", "{\n  a: 1,\n  b: 2,\n  pure_nnx: true,\n}\n"),
]


@pytest.mark.parametrize(("before", "after"), ADDED)
def test_a_missing_key_is_added(before: str, after: str) -> None:
    assert edit(before, ON) == after


def test_several_keys_at_once() -> None:
    changes = {"enable_nnx": "true", "pure_nnx": "true", "pure_nnx_decoder": "true"}
    assert edit("pure_nnx: false\nz: 1", changes) == (
        "pure_nnx: true\nenable_nnx: true\npure_nnx_decoder: true\nz: 1"
    )
    assert edit("{}", changes) == "{enable_nnx: true, pure_nnx: true, pure_nnx_decoder: true}"


OFF = {"pure_nnx": None, "enable_nnx": None}

REMOVED = [
    ("a: 1\npure_nnx: true  # gone with it\nb: 2\n", "a: 1\nb: 2\n"),
    ("a: 1\n\n# kept\npure_nnx: true\n", "a: 1\n\n# kept\n"),
    ("a: 1\r\npure_nnx: true", "a: 1"),
    ("a: 1\npure_nnx: true\nenable_nnx: true", "a: 1"),
    ("a: |\n  text\npure_nnx: true", "a: |\n  text\n"),
    ("\ufeffpure_nnx: true\na: 1\n", "\ufeffa: 1\n"),
    ("pure_nnx:\n  true\na: 1\n", "a: 1\n"),
    ("a: 1\n", "a: 1\n"),
    ("{a: 1, pure_nnx: true}", "{a: 1}"),
    ("{pure_nnx: true, a: 1}", "{a: 1}"),
    ("{pure_nnx: true, a: 1, enable_nnx: true}", "{a: 1}"),
    ("{a: 1, pure_nnx: true, enable_nnx: true}", "{a: 1}"),
    ("{a: 1, pure_nnx: true,}", "{a: 1, }"),
    ("{\n  pure_nnx: true,\n  a: 1, # k\n  enable_nnx: true\n}\n", "{\n  a: 1, # k\n}\n"),
]


@pytest.mark.parametrize(("before", "after"), REMOVED)
def test_a_key_is_removed(before: str, after: str) -> None:
    assert edit(before, OFF) == after


def test_a_nested_key_is_removed() -> None:
    text = "student_overrides:\n  pure_nnx: true\n  a: 1\npure_nnx: false\n"
    assert edit(text, {"student_overrides.pure_nnx": None}) == (
        "student_overrides:\n  a: 1\npure_nnx: false\n"
    )


REFUSED = [
    ("pure_nnx: &x false\nb: *x\n", ON, PreflightError, "x.yml:1: pure_nnx has the anchor &x"),
    ("pure_nnx: false\n", OFF, PreflightError, "x.yml:1: the file would be empty"),
    ("? pure_nnx\n: false\na: 1\n", OFF, PreflightError, "x.yml:1: pure_nnx shares its line"),
    ("? a\n: 1\n", ON, PreflightError, "does not dare to cut"),
    ("pure_nnx: [false]\n", ON, ConfigError, "x.yml:1: pure_nnx: expected a single value"),
    ("pure_nnx: a\nb: 1\npure_nnx: b\n", ON, ConfigError, "x.yml:3: 'pure_nnx' stands twice"),
    ("- 1\n", ON, ConfigError, "expected `key: value` lines, got a list"),
    ("a: 1\n---\nb: 2\n", ON, ConfigError, "x.yml:2: not valid YAML: "),
    ("pure_nnx:\tfalse\n", ON, ConfigError, "x.yml:1: not valid YAML: a tab stands between"),
    ("a:\n\tb: 1\n", ON, ConfigError, "x.yml:2: not valid YAML: a tab stands between"),
    ("a: *nobody\n", ON, ConfigError, "x.yml:1: not valid YAML: found undefined alias"),
    ("a: [" * 3000, ON, ConfigError, "x.yml: nested too deeply"),
]


@pytest.mark.parametrize(("text", "changes", "kind", "says"), REFUSED)
def test_what_cannot_be_done_is_refused(
    text: str, changes: dict[str, str | None], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind) as caught:
        edit(text, changes)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "near", "word"),
    [
        ("pure_nnx: False\na: true\n", "pure_nnx", "True"),
        ("a: true\nenable_nnx: FALSE\n", "pure_nnx", "TRUE"),
        ("a: True\n", "pure_nnx", "True"),
        ("a: 'True'\nb: 1\n", "pure_nnx", "true"),
        ("pure_nnx: no\nenable_nnx: False\n", "pure_nnx", "True"),
        ("", "pure_nnx", "true"),
    ],
)
def test_booleans_are_written_as_the_file_writes_them(text: str, near: str, word: str) -> None:
    assert edits.render(True, Document.parse(text, "x.yml"), KEYS, near) == word
