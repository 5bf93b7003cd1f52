"""Finds mistakes about the flags in YAML files, each with its line: a hook for pre-commit.

Files that are no configuration are left alone, since a hook is given every YAML file of a
repository.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from maxmig.config import flags, maxtext_keys, reader, schema
from maxmig.errors import ConfigError, DataError, MaxmigError
from maxmig.rollout import dangers, document, effective
from maxmig.rollout.choice import Choice
from maxmig.rollout.dangers import Severity
from maxmig.rollout.document import Document, Item, items
from maxmig.rollout.effective import Effective
from maxmig.rollout.era import Era

_HINTS = re.compile(r"n[nx]x|^\s*base_config\s*:", re.MULTILINE | re.IGNORECASE)
_TOP_KEY = re.compile(r"^['\"]?(\w+)['\"]?[ \t]*:", re.MULTILINE)
_SIMILAR, _NEARLY = 0.78, 0.86
_PLACE = re.compile(r":(\d+)(?=:)")


@dataclass(frozen=True, order=True)
class Finding:
    """One mistake."""

    path: str
    line: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.code}: {self.message}"


@dataclass(frozen=True)
class Skipped:
    """A file that was not checked, and why it is taken for no configuration."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: skipped: no configuration: {self.reason}"


@dataclass(frozen=True)
class Checked:
    """What became of some files: the mistakes, in order of place, and the files left alone."""

    findings: tuple[Finding, ...]
    skipped: tuple[Skipped, ...]


def lint(names: Sequence[str], choice: Choice | None = None) -> list[Finding]:
    """The mistakes of some files, in order of place; see `check`."""
    return list(check(names, choice).findings)


def check(names: Sequence[str], choice: Choice | None = None) -> Checked:
    """The mistakes of some files, and the files that are no configurations.

    Codes: `yaml` (not YAML, or not what the framework loads), `tab`, `duplicate`, `quoted`,
    `boolean`, `misspelt`, `combination`, `removed`, `parent`.

    Raises:
        DataError: a file is missing or cannot be read.
        ConfigError: the choice of framework does not hold.
    """
    choice = choice or Choice()
    found: list[Finding] = []
    skipped: list[Skipped] = []
    for name in names:
        told = set(_file(name, choice))
        found += sorted(item for item in told if isinstance(item, Finding))
        skipped += [item for item in told if isinstance(item, Skipped)]
    return Checked(tuple(found), tuple(skipped))


def _file(name: str, choice: Choice) -> Iterator[Finding | Skipped]:
    path = Path(name)
    raw = document.read_bytes(path, name)
    try:
        doc = Document.parse(reader.decode(raw, name), name)
    except ConfigError as error:
        yield _unreadable(name, raw, str(error))
        return
    if doc.root is None:
        yield Skipped(name, "the file is empty")
        return
    if not isinstance(doc.root, yaml.MappingNode):
        yield Skipped(name, f"expected `key: value` lines, got {document.kind(doc.root)}")
        return
    if not _is_configuration(doc):
        yield Skipped(name, "none of its keys is one of maxmig or MaxText")
        return
    mistakes = [*_keys(doc), *_unknown(doc, choice, path)] or [*_refused(doc, choice, path)]
    yield from mistakes
    yield from _effective(path, name, doc, choice, known={item.line for item in mistakes})


def _unreadable(name: str, raw: bytes, error: str) -> Finding | Skipped:
    """A file that nobody can load: a mistake if it looks like a configuration."""
    text = raw.decode("utf-8", "replace").replace("\0", "").lstrip("\ufffd\ufeff")
    match = _PLACE.match(error, len(name))
    message = error[match.end() + 2 if match else len(name) + 2 :]
    if not (_HINTS.search(text) or _known() & set(_TOP_KEY.findall(text))):
        return Skipped(name, message)
    code = "tab" if "a tab stands" in message else "yaml"
    return Finding(name, int(match[1]) if match else 1, code, message)


def _known() -> set[str]:
    return schema.KEYS.keys() | maxtext_keys.TABLE.keys() | {effective.PARENT}


def _is_configuration(doc: Document) -> bool:
    seen = {item.key for item in items(doc.root)}
    return bool(seen & _known()) or any(map(_misspelt, seen))


def _keys(doc: Document) -> Iterator[Finding]:
    """What a file's own lines say."""
    blocks = [list(items(doc.root))]
    blocks += [list(items(item.node)) for item in blocks[0] if item.key.endswith("_overrides")]
    for block in blocks:
        first: dict[str, Item] = {}
        for item in block:
            if item.key in first:
                yield _at(
                    doc,
                    item,
                    "duplicate",
                    f"the key {item.key!r} was already given at line {first[item.key].line}",
                )
            first.setdefault(item.key, item)
            if item.key in flags.KEYS:
                yield from _value(doc, item)
            elif near := _misspelt(item.key):
                yield _at(doc, item, "misspelt", f"{item.key!r}; did you mean {near}?")


def _value(doc: Document, item: Item) -> Iterator[Finding]:
    scalar = item.scalar
    if scalar is None:
        yield _at(
            doc,
            item,
            "boolean",
            f"{item.key}: expected true or false, got {document.kind(item.node)}",
        )
        return
    word = scalar.value.lower()
    if word in ("true", "false"):
        if scalar.style is not None:
            yield _at(
                doc,
                item,
                "quoted",
                f"{item.key}: {scalar.value!r} is text in quotes; write {word} without them",
            )
    elif "${" not in scalar.value:
        yield _at(
            doc,
            item,
            "boolean",
            f"{item.key}: expected true or false, got {scalar.value or 'nothing'}",
        )


def _misspelt(key: str) -> str | None:
    """The flag that a key nearly is."""
    if key in flags.KEYS or key in schema.KEYS or key in maxtext_keys.TABLE:
        return None
    plain = re.sub(r"[\s-]+", "_", key.strip().lower())
    near = difflib.get_close_matches(plain, flags.KEYS, 1, _SIMILAR)
    return near[0] if near else None


def _unknown(doc: Document, choice: Choice, path: Path) -> Iterator[Finding]:
    """Keys of our own configurations that nearly are a key; MaxText's keys are not all known."""
    try:
        ours = choice.of(path, doc.name).name == "maxmig"
    except MaxmigError:
        return
    known = _known()
    for item in items(doc.root) if ours else ():
        if item.key in known or _misspelt(item.key):
            continue
        if near := difflib.get_close_matches(item.key, known, 1, _NEARLY):
            yield _at(doc, item, "misspelt", f"{item.key!r}; did you mean {near[0]}?")


def _refused(doc: Document, choice: Choice, path: Path) -> Iterator[Finding]:
    """What maxmig's own reader takes offence at: an alias, a tag."""
    try:
        if choice.of(path, doc.name).name != "maxmig":
            return
    except MaxmigError:
        return
    try:
        reader.read(path, doc.name)
    except ConfigError as error:
        text = str(error).splitlines()[0]
        match = _PLACE.match(text, len(doc.name))
        message = text[match.end() + 2 if match else len(doc.name) + 2 :]
        yield Finding(doc.name, int(match[1]) if match else 1, "yaml", message)


def _effective(
    path: Path, name: str, doc: Document, choice: Choice, *, known: set[int]
) -> Iterator[Finding]:
    """What the file says together with all that it stands on."""
    own = [item for key in flags.KEYS if (item := doc.get(key))]
    if not own:
        return
    try:
        framework = choice.of(path, name)
    except ConfigError:
        if choice != Choice():
            raise
        return  # MaxText's, and none is here to ask: its lines were checked, no more can be said
    try:
        config = effective.of(path, name, framework)
    except (ConfigError, DataError) as error:
        yield Finding(name, _line(str(error), name), "parent", str(error))
        return
    if framework.era is Era.REMOVED:
        for item in [*own, *(item for _, item in dangers.nested(config))]:
            yield _at(
                doc,
                item,
                "removed",
                f"{framework.title} has no key {item.key}: the file "
                f"does not load; maxmig flags graduate {name}",
            )
        return
    if known & {item.line for item in own}:
        return  # a value that is no boolean would only be told twice
    yield from _combinations(config, own)


def _combinations(config: Effective, own: Sequence[Item]) -> Iterator[Finding]:
    line = own[0].line
    if any("${" in config.origin(key).problem for key in flags.KEYS):
        return  # OmegaConf knows at run time
    try:
        stage = config.stage
        values = config.values()
    except MaxmigError as error:
        yield Finding(config.name, line, "combination", str(error).splitlines()[0])
        return
    if values != stage.flags.as_dict():
        ignored = " and ".join(
            f"{key}: {str(value).lower()}"
            for key, value in values.items()
            if value != stage.flags.as_dict()[key]
        )
        yield Finding(
            config.name,
            line,
            "combination",
            f"MaxText ignores {ignored} here and runs {stage.value}",
        )
    if config.framework.name == "maxtext":
        for danger in dangers.find(config, stage, None):
            if danger.severity is not Severity.WARNING:
                place = (
                    _line(danger.place, config.name)
                    if danger.place.startswith(config.name)
                    else line
                )
                yield Finding(config.name, place, "combination", f"{danger.text}. {danger.safe}")


def _line(text: str, name: str) -> int:
    match = re.match(rf"{re.escape(name)}:(\d+)", text)
    return int(match[1]) if match else 1


def _at(doc: Document, item: Item, code: str, message: str) -> Finding:
    return Finding(doc.name, item.line, code, message)
