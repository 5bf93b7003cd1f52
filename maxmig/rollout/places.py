"""Where to cut: the spans of values, of whole entries, and the places for a new key.

A change is (start, end, new) in characters of the text. Block style works on lines, flow style
(`{a: 1, b: 2}`) between commas.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from maxmig.errors import PreflightError
from maxmig.rollout.document import Alias, Document, Item, KeyPath, after_properties, newline

Change = tuple[int, int, str]

_BREAKS = "\r\n\x85\u2028\u2029"
_REST_OF_LINE = re.compile(rf"[ \t]*(?:#[^{_BREAKS}]*)?(?=[{_BREAKS}]|\Z)")


def replacement(doc: Document, item: Item, new: str) -> list[Change]:
    """The change of a value in its place; an anchor stays, a tag goes with the old value."""
    text, node = doc.text, item.node
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, Alias):
        return [(start, end, new)]
    inner = after_properties(text, start, end)
    if not text[inner:end].strip():  # `key:`, `key: &anchor` or, in flow style, `key` alone
        colon = "" if text[: start if inner == start else end].rstrip(" \t")[-1:] == ":" else ":"
        colon = "" if inner > start else colon
        return [(end, end, f"{colon} {new}")]
    if "!" in text[start:inner] and (anchor := getattr(node, "anchor", None)):
        return [(start, end, f"&{anchor} {new}")]
    return [(start if "!" in text[start:inner] else inner, end, new)]


def additions(
    doc: Document,
    path: KeyPath,
    new: Mapping[str, str],
    siblings: Sequence[str],
    gone: Sequence[Item] = (),
) -> Iterator[list[Change]]:
    """The possible places for new keys of a mapping, the most sensible first.

    Args:
        doc: the file.
        path: of the mapping.
        new: the keys and the texts of their values.
        siblings: keys behind which the new ones belong.
        gone: entries that are removed at the same time; nothing is put beside them.
    """
    mapping = doc.mapping(path)
    if mapping is None:
        yield [_at_end(doc.text, [f"{key}: {value}" for key, value in new.items()])]
        return
    entries = [Item(str(key.value), key, value) for key, value in mapping.value]
    leave = {id(item.key_node) for item in gone}
    stay = [item for item in entries if id(item.key_node) not in leave] or entries
    near = [item for item in stay if item.key in siblings]
    if mapping.flow_style:
        yield from _flow_additions(doc, mapping, new, (*near[-1:], *stay[-1:]))
        return
    for item in (*near[-1:], stay[-1]):
        yield [_below(doc, item, new)]
    for item in (stay[-1], stay[0]):
        yield [_above(doc, item, new)]


def removals(doc: Document, path: KeyPath, gone: Sequence[Item]) -> Iterator[list[Change]]:
    """The ways to remove whole entries: their lines, or their part between commas."""
    mapping = doc.mapping(path)
    assert mapping is not None
    if len(mapping.value) == len(gone):
        where = ".".join(path) or "the file"
        raise PreflightError(
            f"{doc.name}:{gone[0].line}: {where} would be empty without "
            f"{', '.join(item.key for item in gone)}; remove it by hand"
        )
    if mapping.flow_style:
        yield _flow_removal(doc, mapping, gone)
        return
    cuts = _united([_lines_of(doc, item) for item in gone])
    start, end = cuts[-1]
    if end == len(doc.text) and doc.text[-1] not in _BREAKS and start > 0:
        # The file had no newline at its end, and shall have none: the one before goes too, unless
        # it belongs to the value before, as in a block scalar.
        shorter = start - (2 if doc.text.endswith("\r\n", 0, start) else 1)
        yield [(start, end, "") for start, end in (*cuts[:-1], (shorter, end))]
    yield [(start, end, "") for start, end in cuts]


def _at_end(text: str, lines: Sequence[str]) -> Change:
    end = newline(text)
    body = end.join(lines)
    if text.strip("\ufeff") and text[-1] not in _BREAKS:
        return (len(text), len(text), end + body)
    return (len(text), len(text), body + end)


def _below(doc: Document, item: Item, new: Mapping[str, str]) -> Change:
    """New lines after an entry, with its indentation."""
    text, indent = doc.text, _indent(doc, item)
    place = _last(item.node)
    lines = [f"{indent}{_like(doc, item, key)}: {value}" for key, value in new.items()]
    if not _is_line_start(text, place):
        match = _REST_OF_LINE.match(text, place)
        place = match.end() if match else place
        if place == len(text):
            end = newline(text)
            return (place, place, "".join(end + line for line in lines))
        place += 2 if text.startswith("\r\n", place) else 1
    end = newline(text, max(place - 2, 0))
    return (place, place, "".join(line + end for line in lines))


def _above(doc: Document, item: Item, new: Mapping[str, str]) -> Change:
    indent, place = _indent(doc, item), _line_start(doc.text, item.key_node.start_mark.index)
    end = newline(doc.text, place)
    lines = (f"{indent}{_like(doc, item, key)}: {value}{end}" for key, value in new.items())
    return (place, place, "".join(lines))


def _lines_of(doc: Document, item: Item) -> tuple[int, int]:
    """The lines of an entry, from the start of the first to the start of the next."""
    text, key = doc.text, item.key_node.start_mark.index
    start, last = _line_start(text, key), _last(item.node)
    match = _REST_OF_LINE.match(text, last)
    if text[start:key].strip(" \ufeff") or match is None:
        raise PreflightError(
            f"{doc.name}:{item.line}: {item.key} shares its line with something else; remove it "
            "by hand"
        )
    start = key if text[start:key].startswith("\ufeff") else start
    end = match.end()
    end += 2 if text.startswith("\r\n", end) else 1 if end < len(text) else 0
    return start, end


def _flow_additions(
    doc: Document, mapping: yaml.MappingNode, new: Mapping[str, str], beside: Sequence[Item]
) -> Iterator[list[Change]]:
    text = doc.text
    if not beside:
        place = text.index("{", after_properties(text, *_span(mapping))) + 1
        yield [(place, place, ", ".join(f"{key}: {value}" for key, value in new.items()))]
        return
    first, last = mapping.value[0][0], mapping.value[-1][0]
    for item in beside:
        key, place = item.key_node.start_mark.index, _last(item.node)
        pairs = [f"{_like(doc, item, name)}: {value}" for name, value in new.items()]
        before = text[_line_start(text, key) : key]
        rest = re.compile(r"[ \t]*(,?)[ \t]*(#[^\r\n]*)?(?=[\r\n])").match(text, place)
        if not before.strip() and rest and item.key_node is not first:
            # One entry a line: a comma behind the last one, and lines of their own.
            end = newline(text, place)
            comma = [] if rest[1] else [(place, place, ",")]
            tail = "," if rest[1] or item.key_node is not last else ""
            lines = f",{end}{before}".join(pairs)
            yield [*comma, (rest.end(), rest.end(), f"{end}{before}{lines}{tail}")]
        yield [(place, place, "".join(f", {pair}" for pair in pairs))]


def _flow_removal(doc: Document, mapping: yaml.MappingNode, gone: Sequence[Item]) -> list[Change]:
    text = doc.text
    leave = {id(item.key_node) for item in gone}
    spans = [(key.start_mark.index, _last(value)) for key, value in mapping.value]
    stays = [id(key) not in leave for key, _ in mapping.value]
    comma = re.compile(r"\s*,[ \t]*")
    trailing = comma.match(text, spans[-1][1])
    cuts: list[tuple[int, int]] = []
    for i, (start, end) in enumerate(spans):
        if stays[i]:
            continue
        before = spans[i - 1][1] if i else start
        behind = comma.match(text, end)
        if not (trailing or any(stays[i + 1 :])) and "#" not in text[before:start]:
            cuts.append((before, end))  # the comma before it goes
            continue
        end = behind.end() if behind else end
        line = _line_start(text, start)
        rest = re.compile(r"\r\n|\r|\n").match(text, end)
        whole = rest is not None and not text[line:start].strip()
        cuts.append((line, rest.end()) if rest and whole else (start, end))
    return [(start, end, "") for start, end in _united(cuts)]


def _united(cuts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(cuts):
        if joined and start <= joined[-1][1]:
            first, last = joined.pop()
            start, end = first, max(last, end)
        joined.append((start, end))
    return joined


def _last(node: Any) -> int:
    """The offset behind a node's last character; a block collection ends with its last child."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _span(node: Any) -> tuple[int, int]:
    return node.start_mark.index, node.end_mark.index


def _indent(doc: Document, item: Item) -> str:
    start = item.key_node.start_mark.index
    before = doc.text[_line_start(doc.text, start) : start].lstrip("\ufeff")
    return before if not before.strip(" ") else " " * item.key_node.start_mark.column


def _like(doc: Document, item: Item, key: str) -> str:
    """A key in the quotes of its neighbour."""
    quote = doc.text[item.key_node.start_mark.index]
    return f"{quote}{key}{quote}" if quote in "'\"" else key


def _line_start(text: str, place: int) -> int:
    return max((text.rfind(end, 0, place) for end in _BREAKS), default=-1) + 1


def _is_line_start(text: str, place: int) -> bool:
    return place > 0 and text[place - 1] in _BREAKS
