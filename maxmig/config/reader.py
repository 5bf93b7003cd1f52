"""Reads a YAML file, or one `key=value`, into entries that remember where they came from.

Nothing is ever constructed from a tag: the composer gives nodes, and nodes become None, bool, int,
float, str, tuple or dict here. A file can therefore not run code, and every entry has its line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maxmig.config import scalars
from maxmig.errors import ConfigError

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Entry:
    """One `key: value` with its place; `text` is the source text of an unquoted scalar."""

    key: str
    value: Any
    source: str
    line: int | None = None
    text: str | None = None

    @property
    def place(self) -> str:
        """The place as `file:line`, or the name of a source that has no lines."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


class _Loader(yaml.BaseLoader):
    """Composes nodes only: no implicit types, no aliases, no merge keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not accepted; write the value out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


def read(path: Path, name: str) -> list[Entry]:
    """The entries of the YAML file at `path`; errors call it `name`."""
    text = _text(path, name)
    root = _compose(text, name)
    if root is None:
        raise ConfigError(f"{name}: the file is empty; expected `key: value` lines")
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{name}: expected a mapping of `key: value` lines, got {_kind(root)}")
    entries = [_entry(key, node, name) for key, node in root.value]
    _refuse_duplicates(entries)
    return entries


def override(argument: str) -> Entry:
    """The entry of a command-line `key=value`; the value follows the rules of the files."""
    key, equals, text = argument.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"command line: expected key=value, got {argument!r}")
    key, text = key.strip(), text.strip()
    if text[:1] in ("[", "{", "'", '"'):
        where = f"{COMMAND_LINE}, {key}={text}"
        return Entry(key, _value(_compose(text, where), where), COMMAND_LINE)
    return Entry(key, scalars.value(text), COMMAND_LINE, text=text)


def _text(path: Path, name: str) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file", exit_code=4) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{name}: cannot be read: {reason}", exit_code=4) from None
    return decode(raw, name).removeprefix("\ufeff")


def decode(raw: bytes, name: str) -> str:
    """UTF-8 as it is, byte-order mark and line ends included; ConfigError if it is no text."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name}: not a text file (byte {error.start} is not UTF-8); expected YAML"
        ) from None
    if "\0" in text:
        raise ConfigError(f"{name}: not a text file (it has NUL bytes); expected YAML")
    return text


def _compose(text: str, name: str) -> Any:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None or name.startswith(COMMAND_LINE) else f":{mark.line + 1}"
        raise ConfigError(f"{name}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply; the keys of maxmig are flat") from None


def _entry(key: Any, node: Any, name: str) -> Entry:
    line = key.start_mark.line + 1
    if not isinstance(key, yaml.ScalarNode) or _tagged(key):
        raise ConfigError(f"{name}:{line}: expected a plain key, got {_kind(key)}")
    value = _value(node, name)
    bare = isinstance(node, yaml.ScalarNode) and node.style is None
    return Entry(key.value, value, name, line, node.value if bare else None)


def _value(node: Any, name: str) -> Any:
    if _tagged(node):
        line = node.start_mark.line + 1
        raise ConfigError(
            f"{name}:{line}: the tag {node.tag!r} is refused: a configuration holds plain values "
            "only. Write the value without a tag"
        )
    if isinstance(node, yaml.ScalarNode):
        return scalars.value(node.value) if node.style is None else node.value
    if isinstance(node, yaml.SequenceNode):
        return tuple(_value(item, name) for item in node.value)
    entries = [_entry(key, item, name) for key, item in node.value]
    _refuse_duplicates(entries)
    return {entry.key: entry.value for entry in entries}


def _tagged(node: Any) -> bool:
    mark = node.start_mark
    explicit = mark.buffer is not None and mark.buffer[mark.pointer : mark.pointer + 1] == "!"
    return explicit or not node.tag.startswith("tag:yaml.org,2002:")


def _kind(node: Any) -> str:
    if isinstance(node, yaml.ScalarNode):
        return f"the single value {node.value[:40]!r}"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _refuse_duplicates(entries: Sequence[Entry]) -> None:
    seen: dict[str, Entry] = {}
    problems = []
    for entry in entries:
        if entry.key in seen:
            first = seen[entry.key]
            problems.append(
                f"{entry.place}: the key {entry.key!r} was already given at line {first.line}; "
                "keep one of the two"
            )
        seen.setdefault(entry.key, entry)
    if problems:
        raise ConfigError("\n".join(problems))
