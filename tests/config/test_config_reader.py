"""Reading YAML: places, duplicates, and files that are not what they should be."""

from pathlib import Path

import pytest

from maxmig.config import reader
from maxmig.errors import ConfigError


def read(tmp_path: Path, text: str | bytes) -> list[reader.Entry]:
    path = tmp_path / "c.yml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return reader.read(path, "c.yml")


def refused(tmp_path: Path, text: str | bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    return caught.value


def test_entries_know_their_lines(tmp_path: Path) -> None:
    entries = read(tmp_path, "# head\nsteps: 3\n\nmlp_activations:\n  - silu\n  - linear\n")
    assert [(e.key, e.value, e.place) for e in entries] == [
        ("steps", 3, "c.yml:2"),
        ("mlp_activations", ("silu", "linear"), "c.yml:4"),
    ]


def test_quotes_make_text(tmp_path: Path) -> None:
    entries = read(tmp_path, "a: '1'\nb: \"true\"\nc: 1\nd: |\n  1\n")
    assert [e.value for e in entries] == ["1", "true", 1, "1\n"]
    assert [e.text for e in entries] == [None, None, "1", None]


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfsteps: 3\n")[0].key == "steps"


def test_duplicates_name_both_lines(tmp_path: Path) -> None:
    error = refused(tmp_path, "steps: 1\nrun_name: a\nsteps: 1\nrun_name: b\n")
    assert error.exit_code == 2
    assert str(error) == (
        "c.yml:3: the key 'steps' was already given at line 1; keep one of the two\n"
        "c.yml:4: the key 'run_name' was already given at line 2; keep one of the two"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.yml: the file is empty; expected `key: value` lines"),
        ("# only a comment\n", "c.yml: the file is empty; expected `key: value` lines"),
        ("- a\n- b\n", "c.yml: expected a mapping of `key: value` lines, got a list"),
        (
            "hello",
            "c.yml: expected a mapping of `key: value` lines, got the single value 'hello'",
        ),
        ("a: 1\n  b: 2\n", "c.yml:2: not valid YAML: mapping values are not allowed here"),
        ("a: [1\n", "c.yml:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("[a, b]: 1\n", "c.yml:1: expected a plain key, got a list"),
        ("a: 1\n---\nb: 2\n", "c.yml:2: not valid YAML: but found another document"),
        (b"\xff\xfe\x00", "c.yml: not a text file (byte 0 is not UTF-8); expected YAML"),
        (b"a: 1\0\n", "c.yml: not a text file (it has NUL bytes); expected YAML"),
        (
            "a: &x 1\nb: *x\n",
            "c.yml:2: not valid YAML: aliases (*name) are not accepted; write the value out",
        ),
        ("a: " + "[" * 5000, "c.yml: nested too deeply; the keys of maxmig are flat"),
    ],
)
def test_bad_files(tmp_path: Path, text: str | bytes, message: str) -> None:
    error = refused(tmp_path, text)
    assert str(error) == message
    assert error.exit_code == 2


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {mark}']",
        "!!python/name:os.system",
        "!!python/object/new:subprocess.Popen [['touch', '{mark}']]",
        "!include other.yml",
        "!!int '3'",
        "[1, !!python/none x]",
    ],
)
def test_a_file_cannot_execute_anything(tmp_path: Path, value: str) -> None:
    mark = tmp_path / "executed"
    error = refused(tmp_path, f"steps: 1\nprompt: {value.format(mark=mark)}\n")
    assert str(error).startswith("c.yml:2: the tag '")
    assert "is refused: a configuration holds plain values only" in str(error)
    assert not mark.exists()


def test_missing_and_unreadable(tmp_path: Path) -> None:
    for path, text in (
        (tmp_path / "none.yml", "x: no such file"),
        (tmp_path, "x: cannot be read: Is a directory"),
        (Path("a\0b"), "x: cannot be read: embedded null byte"),
    ):
        with pytest.raises(ConfigError) as caught:
            reader.read(path, "x")
        assert str(caught.value) == text
        assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("steps=20", "steps", 20),
        (" steps = 20 ", "steps", 20),
        ("learning_rate=1e-3", "learning_rate", 1e-3),
        ("scan_layers=False", "scan_layers", False),
        ("prompt=a=b: c # d", "prompt", "a=b: c # d"),
        ("prompt='7'", "prompt", "7"),
        ("mlp_activations=[silu, linear]", "mlp_activations", ("silu", "linear")),
        ("lora={enable_lora: false}", "lora", {"enable_lora": False}),
        ("x=", "x", None),
    ],
)
def test_override(argument: str, key: str, value: object) -> None:
    entry = reader.override(argument)
    assert (entry.key, entry.value, entry.place) == (key, value, "command line")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("steps", "command line: expected key=value, got 'steps'"),
        ("=3", "command line: expected key=value, got '=3'"),
        (
            "x=[1",
            "command line, x=[1: not valid YAML: expected ',' or ']', but got '<stream end>'",
        ),
    ],
)
def test_bad_override(argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reader.override(argument)
    assert str(caught.value) == message
