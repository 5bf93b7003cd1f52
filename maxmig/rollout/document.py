"""A YAML file as text with marks: what stands where, down to the character.

PyYAML's composer gives every node its place in the text. Two things are added: an alias stays an
alias (the composer hands out the node that it refers to, with that node's place), and the text is
kept with its byte-order mark and its line ends, so that encoding it again gives the same bytes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maxmig.config import reader
from maxmig.errors import ConfigError, DataError

MERGE = "tag:yaml.org,2002:merge"
_BREAK = re.compile(r"\r\n|\r|\n")
# An anchor or a tag, and what may stand between it and the value: spaces, comments, line ends.
_PROPERTY = re.compile(r"(?:!<[^>]*>|[&!][^\s,\[\]{}]*)(?:[ \t]*(?:#[^\r\n]*)?[\r\n]+)*[ \t]*")

KeyPath = tuple[str, ...]


class Alias(yaml.Node):
    """A `*name`: the place where it stands, and the node that it refers to."""

    id = "alias"

    def __init__(self, name: str, target: Any, event: Any):
        super().__init__(target.tag, name, event.start_mark, event.end_mark)
        self.target = target


class _Loader(yaml.SafeLoader):
    """Composes nodes only, and nothing is ever constructed: a file cannot run code."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            target = super().compose_node(parent, index)
            return Alias(event.anchor, target, event)
        event = self.peek_event()
        node: Any = super().compose_node(parent, index)
        node.anchor = event.anchor
        return node


@dataclass(frozen=True)
class Item:
    """One `key: value` of a mapping."""

    key: str
    key_node: yaml.Node
    node: Any

    @property
    def line(self) -> int:
        """The line of the key, counted from 1."""
        return self.key_node.start_mark.line + 1

    @property
    def scalar(self) -> yaml.ScalarNode | None:
        """The value if it is a single one, an alias followed; None for a list or a mapping."""
        node = resolved(self.node)
        return node if isinstance(node, yaml.ScalarNode) else None


@dataclass(frozen=True)
class Document:
    """A parsed YAML text; `name` is what messages call it."""

    name: str
    text: str
    root: Any

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> "Document":
        """Reads and parses a file.

        Raises:
            DataError: it is missing or cannot be read.
            ConfigError: it is not UTF-8 or not YAML; the message has the line.
        """
        name = str(path) if name is None else name
        return cls.parse(reader.decode(read_bytes(path, name), name), name)

    @classmethod
    def parse(cls, text: str, name: str) -> "Document":
        """Parses a text; raises ConfigError with the line if it is not one YAML document."""
        try:
            root = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = "" if mark is None else f":{mark.line + 1}"
            raise ConfigError(f"{name}{line}: not valid YAML: {_told(error, text)}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
        except RecursionError:
            raise ConfigError(f"{name}: nested too deeply; a configuration is flat") from None
        nothing = isinstance(root, yaml.ScalarNode) and root.start_mark.index == root.end_mark.index
        return cls(name, text, None if nothing else root)  # `---` and nothing behind it

    def mapping(self, path: KeyPath = ()) -> yaml.MappingNode | None:
        """The mapping at a path of keys, the whole file at (); None if the file is empty.

        Raises:
            ConfigError: something else stands there.
        """
        node = self.root
        for key in path:
            found = [item for item in items(node) if item.key == key]
            node = found[-1].node if found else None
            if isinstance(node, Alias):
                raise ConfigError(
                    f"{self.at(node.start_mark.index)}: {key} is an alias of a mapping"
                )
        if node is None and not path:
            return None
        if not isinstance(node, yaml.MappingNode):
            where = ".".join(path) or "the file"
            came = kind(node) if node is not None else "nothing"
            raise ConfigError(f"{self.name}: {where}: expected `key: value` lines, got {came}")
        return node

    def items(self, path: KeyPath = ()) -> list[Item]:
        """The entries of a mapping in the order of the file, merged ones not included."""
        node = self.mapping(path)
        return [] if node is None else list(items(node))

    def get(self, key: str, path: KeyPath = ()) -> Item | None:
        """An entry by its key, written out or merged (`<<`); the last one if there are several."""
        node = self.mapping(path)
        return None if node is None else _lookup(node, key, 0)

    def own(self, key: str, path: KeyPath = ()) -> Item | None:
        """An entry that is written out in the mapping itself.

        Raises:
            ConfigError: it stands there twice.
        """
        found = [item for item in self.items(path) if item.key == key]
        if len(found) > 1:
            lines = " and ".join(str(item.line) for item in found)
            raise ConfigError(
                f"{self.name}:{found[-1].line}: {key!r} stands twice, at the lines {lines}; "
                "keep one of them"
            )
        return found[0] if found else None

    def aliases(self) -> Iterator[Alias]:
        """All `*name` of the file."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            if isinstance(node, Alias):
                yield node
            elif isinstance(node, yaml.CollectionNode):
                stack.extend(children(node))

    def at(self, offset: int) -> str:
        """`file:line` of a character."""
        return f"{self.name}:{len(_BREAK.findall(self.text[:offset])) + 1}"


def read_bytes(path: Path, name: str) -> bytes:
    """The bytes of a file; DataError when it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{name}: cannot be read: {reason}") from None


def items(node: Any) -> Iterator[Item]:
    """The entries of a mapping node that have plain keys."""
    node = resolved(node)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield Item(key.value, key, value)


def children(node: yaml.CollectionNode) -> list[Any]:
    """The nodes directly inside a collection, keys included."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value)


def resolved(node: Any) -> Any:
    """The node that an alias refers to; any other node is itself."""
    return node.target if isinstance(node, Alias) else node


def kind(node: Any) -> str:
    """What a node is, in words."""
    node = resolved(node)
    if isinstance(node, yaml.ScalarNode):
        return f"the single value {node.value[:40]!r}"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def after_properties(text: str, start: int, end: int) -> int:
    """Where the value itself begins, behind its anchor and its tag."""
    while (match := _PROPERTY.match(text, start, end)) is not None:
        start = match.end()
    return start


def written(doc: Document, item: Item) -> str:
    """The text of a value as it stands in the file: its tag with it, an anchor without."""
    start, end = item.node.start_mark.index, item.node.end_mark.index
    tags = []
    while (match := _PROPERTY.match(doc.text, start, end)) is not None:
        if match[0].startswith("!"):  # it makes another type of the same value
            tags.append(f"{match[0].split()[0]} ")
        start = match.end()
    return "".join(tags) + doc.text[start:end]


def newline(text: str, offset: int = 0) -> str:
    """The line end of the line at `offset`, or else the first one of the text."""
    match = _BREAK.search(text, offset) or _BREAK.search(text)
    return match[0] if match else "\n"


def _lookup(node: yaml.MappingNode, key: str, depth: int) -> Item | None:
    own = [item for item in items(node) if item.key == key and item.key_node.tag != MERGE]
    if own:
        return own[-1]
    if depth > 20:  # a mapping can be merged into itself
        return None
    for item in items(node):
        if item.key_node.tag != MERGE:
            continue
        merged = resolved(item.node)
        parts = merged.value if isinstance(merged, yaml.SequenceNode) else [merged]
        for part in map(resolved, parts):
            if isinstance(part, yaml.MappingNode):
                found = _lookup(part, key, depth + 1)
                if found is not None:
                    return found
    return None


def _told(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        return "a tab stands between tokens; YAML allows spaces only"
    return str(error.problem or error.context)
