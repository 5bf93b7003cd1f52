"""The terminal: symbols, colour, JSON, the live line."""

import dataclasses
import enum
import io
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from maxmig.cli import console


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8", *, terminal: bool = True):
        super().__init__()
        self._encoding, self._terminal = encoding, terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def stdout(monkeypatch):
    def install(*args, **kwargs) -> Terminal:
        stream = Terminal(*args, **kwargs)
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    monkeypatch.setenv("TERM", "xterm")
    yield install
    console.configure(console.Settings())


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Leaf:
    path: str
    error: float


def test_jsonable():
    obj = {
        "b": np.float32(0.5),
        "a": np.arange(3),
        "jax": jnp.int32(7),
        "bool": np.bool_(True),
        "path": Path("a") / "b",
        "enum": Color.RED,
        "leaf": Leaf("x/y", float("nan")),
        "set": {"y", "x"},
        1: (None, float("-inf")),
    }
    assert console.jsonable(obj) == {
        "b": 0.5,
        "a": [0, 1, 2],
        "jax": 7,
        "bool": True,
        "path": "a/b",
        "enum": "red",
        "leaf": {"path": "x/y", "error": "nan"},
        "set": ["x", "y"],
        "1": [None, "-inf"],
    }
    assert list(console.jsonable(obj))[:2] == ["b", "a"]  # the order is the author's
    with pytest.raises(TypeError, match="object has no JSON form"):
        console.jsonable({"x": object()})


def test_status_has_a_word_whatever_the_terminal(stdout):
    stdout("utf-8")
    assert str(console.status("PASS")) == "✓ PASS"
    stdout("ascii")
    assert str(console.status("PASS")) == "+ PASS"
    stdout("latin-1")
    assert [str(console.status(word)) for word in ("FAIL", "SKIP")] == ["x FAIL", "- SKIP"]


@pytest.mark.parametrize(
    ("env", "settings", "terminal", "colored"),
    [
        ({}, console.Settings(), True, True),
        ({"NO_COLOR": "1"}, console.Settings(), True, False),
        ({"TERM": "dumb"}, console.Settings(), True, False),
        ({}, console.Settings(color=False), True, False),
        ({}, console.Settings(), False, False),
    ],
)
def test_color_is_for_terminals(stdout, monkeypatch, env, settings, terminal, colored):
    stream = stdout(terminal=terminal)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    console.configure(settings)
    console.out(console.status("FAIL"))
    assert ("\x1b[" in stream.getvalue()) is colored
    assert "FAIL" in stream.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_table(stdout, encoding):
    stream = stdout(encoding, terminal=False)
    rows = [("decoder/layers/mlp/wi_0/kernel[0]", 1.5, console.status("PASS"))]
    console.out(
        console.table(["leaf", "error", "verdict"], rows, title="gradients", right=["error"])
    )
    lines = stream.getvalue().splitlines()
    assert lines[0] == "gradients"
    assert lines == [line.rstrip() for line in lines]
    assert any("wi_0/kernel[0]" in line and "1.5" in line and "PASS" in line for line in lines)
    if encoding == "ascii":
        assert stream.getvalue().isascii()


def test_text_is_printed_as_it_is(stdout):
    stream = stdout("utf-8", terminal=False)
    text = "[bold]not markup[/bold] :smile: " + "x" * 300
    console.out(text)
    assert stream.getvalue() == text + "\n"  # neither interpreted nor wrapped


def test_ascii_terminal_does_not_fail(stdout):
    stream = stdout("ascii", terminal=False)
    console.out("a — b")
    assert stream.getvalue() == "a ? b\n"


def test_quiet_silences_notes_only(capsys):
    console.configure(console.Settings(quiet=True))
    console.note("progress")
    console.err("trouble")
    console.out("result")
    with console.LiveLine() as line:
        line.update("step 1", final=True)
    console.configure(console.Settings())
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("result\n", "trouble\n")


def test_live_line_on_a_terminal_and_in_a_log(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.LiveLine() as line:
        line.update("step 1")
        line.update("step 2")
    assert terminal.getvalue() == "\r\x1b[Kstep 1\r\x1b[Kstep 2\n"
    log = Terminal(terminal=False)
    monkeypatch.setattr(sys, "stderr", log)
    with console.LiveLine(interval=60) as line:
        line.update("step 1")
        line.update("step 2")
        line.update("step 3", final=True)
    assert log.getvalue() == "step 1\nstep 3\n"


def test_progress_is_silent_without_a_terminal(capsys):
    with console.progress("reading", total=2) as bar:
        bar.advance(bar.task_ids[0])
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
