"""The terminal: results on stdout, progress and logs on stderr, one JSON document on request.

A word always carries the meaning; colour and symbols only repeat it. Colour is used on a terminal
only, and neither with NO_COLOR, TERM=dumb nor `--no-color`. rich is imported when it is needed,
since `maxmig --help` must be instant.
"""

import contextlib
import dataclasses
import enum
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress
    from rich.text import Text

# Wide enough that a canonical path and its numbers stay on one line in a log file or a pipe.
_PLAIN_WIDTH = 200

_SYMBOLS = {  # word: (symbol, its ASCII stand-in, style)
    "PASS": ("✓", "+", "green"),
    "FAIL": ("✗", "x", "bold red"),
    "INCONCLUSIVE": ("?", "?", "yellow"),
    "SKIP": ("–", "-", "dim"),
    "WARN": ("!", "!", "yellow"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How this process talks; set once by the command line."""

    quiet: bool = False
    verbose: bool = False
    color: bool = True
    json: bool = False
    debug: bool = False


class _State:
    settings = Settings()
    json_stream: TextIO | None = None
    json_written = False


def configure(settings: Settings, *, json_stream: TextIO | None = None) -> None:
    """Sets how the process talks; `json_stream` is where the one JSON document goes."""
    _State.settings = settings
    _State.json_stream = json_stream
    _State.json_written = False


def settings() -> Settings:
    """The settings in force."""
    return _State.settings


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads the stream and the cursor can be moved on it."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def is_utf8(stream: TextIO) -> bool:
    """Whether the stream can show more than ASCII for sure."""
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") in ("utf8", "utf8sig")


def _console(stream: TextIO, *, quiet: bool = False) -> "Console":
    from rich.console import Console  # 50 ms: not for --help

    colored = _State.settings.color and is_terminal(stream) and not os.environ.get("NO_COLOR")
    return Console(
        file=stream,
        color_system="auto" if colored else None,
        highlight=False,
        markup=False,
        emoji=False,
        quiet=quiet,
        width=None if stream.isatty() else _PLAIN_WIDTH,
    )


def _write(stream: TextIO, items: "Sequence[RenderableType]") -> None:
    if all(isinstance(item, str) for item in items):  # not wrapped, so that it can be searched for
        text = " ".join(str(item) for item in items)
        if not is_utf8(stream):
            encoding = getattr(stream, "encoding", None) or "ascii"
            text = text.encode(encoding, "replace").decode(encoding)
        print(text, file=stream, flush=True)
        return
    console = _console(stream)
    if stream.isatty():
        console.print(*items)
        return
    with console.capture() as capture:
        console.print(*items, soft_wrap=True)
    for line in capture.get().splitlines():
        print(line.rstrip(), file=stream)  # tables are padded, which is noise in a file
    stream.flush()


def out(*items: "RenderableType") -> None:
    """Prints a result on stdout: strings as they are, or anything that rich renders.

    With `--json` stdout belongs to the JSON document, so the text goes to stderr.
    """
    _write(sys.stderr if _State.settings.json else sys.stdout, items)


def err(*items: "RenderableType") -> None:
    """Prints a warning or an error on stderr; `--quiet` does not silence it."""
    _write(sys.stderr, items)


def note(*items: "RenderableType") -> None:
    """Prints progress or advice on stderr, unless `--quiet`."""
    if not _State.settings.quiet:
        _write(sys.stderr, items)


def emit_json(obj: Any) -> None:
    """Prints the one JSON document of this process on stdout.

    Keys keep their order. NumPy and JAX scalars and arrays, paths, enums, dataclasses and sets are
    taken; JSON has no NaN or infinity, so these become the strings "nan", "inf" and "-inf".

    Raises:
        RuntimeError: a document was printed already.
        TypeError: the object holds something that has no JSON form.
    """
    if _State.json_written:
        raise RuntimeError("a second JSON document: a command prints exactly one")
    text = json.dumps(jsonable(obj), indent=2, ensure_ascii=False, allow_nan=False)
    stream = _State.json_stream or sys.stdout
    if not is_utf8(stream):
        text = json.dumps(jsonable(obj), indent=2, allow_nan=False)
    _State.json_written = True
    print(text, file=stream, flush=True)


def json_written() -> bool:
    """Whether the JSON document was printed."""
    return _State.json_written


def jsonable(obj: Any) -> Any:
    """The object as JSON's own types; see `emit_json`."""
    if isinstance(obj, enum.Enum):
        return jsonable(obj.value)
    if obj is None or isinstance(obj, str | bool | int):
        return obj
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else str(obj)
    if isinstance(obj, Mapping):
        return {str(key): jsonable(value) for key, value in obj.items()}
    if isinstance(obj, set | frozenset):
        return [jsonable(item) for item in sorted(obj)]
    if isinstance(obj, list | tuple):
        return [jsonable(item) for item in obj]
    if isinstance(obj, PurePath):
        return str(obj)
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        fields = dataclasses.fields(obj)
        return {field.name: jsonable(getattr(obj, field.name)) for field in fields}
    # Arrays and scalars of NumPy and JAX, recognised without importing either.
    if callable(tolist := getattr(obj, "tolist", None)):
        return jsonable(tolist())
    raise TypeError(f"{type(obj).__name__} has no JSON form: {obj!r}")


def status(word: str) -> "Text":
    """A verdict as symbol and word, such as `✓ PASS`; `str()` of it is plain text.

    Args:
        word: PASS, FAIL, INCONCLUSIVE, SKIP or WARN.
    """
    from rich.text import Text

    symbol, plain, style = _SYMBOLS[word]
    stream = sys.stderr if _State.settings.json else sys.stdout
    return Text(f"{symbol if is_utf8(stream) else plain} {word}", style=style)


def printable(text: str) -> str:
    """Text that a model wrote, without characters that would steer the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in text)


def table(
    columns: Sequence[str],
    rows: "Iterable[Sequence[Any]]",
    *,
    title: str | None = None,
    right: Sequence[str] = (),
) -> "RenderableType":
    """A table to give to `out`.

    Args:
        columns: the headings.
        rows: cells are strings, numbers or rich texts such as `status("PASS")`.
        title: a line above the table.
        right: the columns that are aligned to the right (numbers).
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


@contextlib.contextmanager
def progress(description: str, total: float | None = None) -> "Iterator[Progress]":
    """A progress bar on stderr for work of known size; silent when no terminal shows it.

    Yields:
        A rich `Progress` whose first task is there already: `bar.advance(bar.task_ids[0])`.
    """
    from rich.progress import Progress

    silent = _State.settings.quiet or not is_terminal(sys.stderr)
    # A disabled Progress of rich 13 still ends with an empty line, so its console is silenced too.
    console = _console(sys.stderr, quiet=silent)
    with Progress(console=console, disable=silent, transient=True) as bar:
        bar.add_task(description, total=total)
        yield bar


class LiveLine:
    """One line on stderr that is rewritten in place; in a log file, a line every few seconds.

    Args:
        interval: seconds between two lines where lines cannot be rewritten.
    """

    def __init__(self, *, interval: float = 10.0):
        self._stream = sys.stderr
        self._terminal = is_terminal(self._stream)
        self._interval = interval
        self._shown_at = -math.inf
        self._open = False

    def update(self, text: str, *, final: bool = False) -> None:
        """Shows the text; `final` keeps it on the screen or in the log."""
        if _State.settings.quiet:
            return
        now = time.monotonic()
        if self._terminal:
            width = shutil.get_terminal_size().columns
            self._stream.write("\r\x1b[K" + (text if final else text[: width - 1]))
            self._stream.write("\n" if final else "")
            self._stream.flush()
            self._open = not final
        elif final or now - self._shown_at >= self._interval:
            _write(self._stream, [text])
            self._shown_at = now

    def close(self) -> None:
        """Ends the line, so that what follows starts on its own."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False

    def __enter__(self) -> "LiveLine":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
