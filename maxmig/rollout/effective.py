"""The value of each flag that is in force for a configuration file, and every source that gave one.

The two frameworks read the same files by different rules. maxmig: base < model < parents < file.
MaxText: defaults < parents < file < model < environment; it takes yes, 1 and "true" for true.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maxmig.config import chain, messages, scalars, schema
from maxmig.config.flags import KEYS, Stage
from maxmig.errors import ConfigError, DataError
from maxmig.rollout.document import Document, Item
from maxmig.rollout.era import Era, Framework

PARENT = chain.PARENT_KEY
_LAX = {"true": True, "t": True, "yes": True, "y": True, "on": True, "1": True}
_LAX |= {"false": False, "f": False, "no": False, "n": False, "off": False, "0": False}
_NUMBER = re.compile(r"[-+]?[0-9.][0-9_.]*([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Source:
    """One place that gives a flag.

    Attributes:
        place: file and line, or the name of something that has no lines.
        path: the file.
        value: the value; None if it is no boolean.
        problem: why it is no boolean.
    """

    place: str
    path: Path | None
    value: bool | None
    problem: str = ""


@dataclass(frozen=True)
class Effective:
    """A configuration file with the chain below it.

    Attributes:
        path: the file.
        name: how the user calls it.
        framework: whose rules hold.
        doc: the file itself.
        documents: all files that were read, weakest first, the file itself among them.
        sources: for each flag, weakest first.
        notes: what could not be found, and what that means.
    """

    path: Path
    name: str
    framework: Framework
    doc: Document
    documents: tuple[tuple[Path, Document], ...]
    sources: Mapping[str, tuple[Source, ...]]
    notes: tuple[str, ...]

    def origin(self, key: str) -> Source:
        """The source that wins."""
        return self.sources[key][-1]

    def value(self, key: str) -> bool:
        """The value in force; ConfigError if it is no boolean."""
        source = self.origin(key)
        if source.value is None:
            raise ConfigError(f"{source.place}: {source.problem}")
        return source.value

    def values(self) -> dict[str, bool]:
        """All three flags; ConfigError if one is no boolean."""
        return {key: self.value(key) for key in KEYS}

    @property
    def stage(self) -> Stage:
        """The rung that runs.

        Raises:
            ConfigError: the flags contradict each other (maxmig only), or one is no boolean.
        """
        values = self.values()
        if self.framework.name == "maxtext":
            return Stage.as_maxtext(**values)
        try:
            return Stage.from_flags(**values)
        except ValueError as error:
            where = "".join(
                f"\n    {key}: {scalars.plain(value)} ({self.origin(key).place})"
                for key, value in values.items()
            )
            raise ConfigError(f"{error}{where}") from None

    def other(self, key: str, default: Any = None) -> Any:
        """The value in force of any other key, as plain types; `default` if no file gives it."""
        for _, doc in reversed(self.documents):
            item = doc.get(key)
            if item is not None:
                return plain(item.node)
        return default

    def chain(self, key: str) -> list[tuple[str, Any]]:
        """Every place of the files that gives a key, with its value, weakest first."""
        found = [(doc.name, item) for _, doc in self.documents if (item := doc.get(key))]
        return [(f"{name}:{item.line}", plain(item.node)) for name, item in found]

    def place_of(self, key: str) -> str:
        """Where a key's value in force stands."""
        for _, doc in reversed(self.documents):
            item = doc.get(key)
            if item is not None:
                return f"{doc.name}:{item.line}"
        return f"{self.framework.title} default"


def of(path: Path, name: str, framework: Framework) -> Effective:
    """Reads a configuration file and all that it stands on.

    Raises:
        DataError: a file is missing or cannot be read.
        ConfigError: a file is not valid YAML, or the parents go round in a circle.
    """
    notes: list[str] = []
    doc = Document.read(path, name)
    files = _files(path, doc, framework, notes, ())
    model = _model(files, framework, notes)
    if framework.name == "maxmig":
        base = chain.PACKAGED / chain.BASE
        documents = [(base, Document.read(base, f"configs/{chain.BASE}")), *model, *files]
    else:
        documents = [*files, *model]
    sources = {key: _sources(key, documents, framework) for key in KEYS}
    return Effective(path, name, framework, doc, tuple(documents), sources, tuple(notes))


def plain(node: Any) -> Any:
    """A node as plain types; a scalar as YAML 1.1 reads it, and `1e-3` as a number."""
    from maxmig.rollout.document import items, resolved

    node = resolved(node)
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return {item.key: plain(item.node) for item in items(node)}
    kind = node.tag.rpartition(":")[2]
    if node.style is None and kind == "bool":
        return node.value.lower() in ("true", "yes", "on")
    if node.style is None and kind == "null":
        return None
    if node.style is None and _NUMBER.fullmatch(node.value):
        try:
            return float(node.value.replace("_", ""))
        except ValueError:
            return node.value
    return node.value


def flag(item: Item, framework: Framework) -> tuple[bool | None, str]:
    """A flag's value as the framework reads it, or None and the reason."""
    scalar = item.scalar
    if scalar is None:
        return None, f"{item.key}: expected true or false, got a list or a mapping"
    if framework.name == "maxmig":
        value = scalars.value(scalar.value) if scalar.style is None else scalar.value
        if isinstance(value, bool):
            return value, ""
        return None, messages.mismatch(item.key, schema.KEYS[item.key][1], value)
    if "${" in scalar.value:
        return None, f"{item.key}: {scalar.value} is resolved by OmegaConf at run time, not here"
    found = _LAX.get(scalar.value.lower())
    if found is None:
        return None, f"{item.key}: expected true or false, got {scalar.value!r}"
    return found, ""


def parent_path(path: Path, parent: str, framework: Framework) -> Path | None:
    """The file that `base_config: PARENT` in the file `path` names; None if there is none."""
    beside = path.parent / parent
    if beside.is_file():
        return beside
    if framework.name == "maxmig":
        return chain.packaged(parent)
    folders = [framework.folder] if framework.folder else list(path.resolve().parents)
    return next((found for folder in folders if (found := folder / parent).is_file()), None)


def _files(
    path: Path,
    doc: Document,
    framework: Framework,
    notes: list[str],
    seen: tuple[Path, ...],
) -> list[tuple[Path, Document]]:
    real = path.resolve()
    if real in seen:
        names = " -> ".join(item.name for item in (*seen[seen.index(real) :], real))
        raise ConfigError(f"{doc.name}: {PARENT} goes round in a circle: {names}")
    item = doc.get(PARENT)
    parent = plain(item.node) if item else None
    if item is None or messages.blank(parent):
        return [(path, doc)]
    if not isinstance(parent, str):
        raise ConfigError(f"{doc.name}:{item.line}: {PARENT}: expected the path of a YAML file")
    found = parent_path(path, parent, framework)
    if found is None:
        text = f"{doc.name}:{item.line}: {PARENT}: no such file: {path.parent / parent}"
        if framework.name == "maxmig":
            raise DataError(f"{text}, nor among maxmig's own configurations")
        notes.append(f"{text}; MaxText's defaults stand in for it")
        return [(path, doc)]
    if framework.name == "maxmig" and found.resolve() == (chain.PACKAGED / chain.BASE).resolve():
        return [(path, doc)]
    below = Document.read(found, _shown(found))
    return [*_files(found, below, framework, notes, (*seen, real)), (path, doc)]


def _model(
    files: list[tuple[Path, Document]], framework: Framework, notes: list[str]
) -> list[tuple[Path, Document]]:
    """The layer of models/<model_name>.yml."""
    named = [doc.get("model_name") for _, doc in files]
    name = next((plain(item.node) for item in reversed(named) if item), "default")
    if not isinstance(name, str) or Path(name).name != name:
        return []
    folders = [path.parent for path, _ in reversed(files)]
    if framework.name == "maxtext":
        folders = [folders[0], folders[0].parent]
        name = name.replace("-Instruct", "")
        if name == "default":
            return []
    if framework.folder is not None:
        folders.append(framework.folder)
    for folder in folders:
        path = folder / "models" / f"{name}.yml"
        if path.is_file() and path.resolve() != files[-1][0].resolve():
            return [(path, Document.read(path, _shown(path)))]
    if framework.name == "maxtext":
        notes.append(f"models/{name}.yml is not here: if it sets a flag, it wins over the file")
    return []


def _sources(
    key: str, documents: list[tuple[Path, Document]], framework: Framework
) -> tuple[Source, ...]:
    found: list[Source] = []
    if framework.name == "maxtext":
        era = (
            "" if key in framework.defaults or framework.era is Era.REMOVED else ", has no such key"
        )
        place = f"{framework.title} default ({framework.era.value}{era})"
        found.append(Source(place, None, framework.default(key)))
    for path, doc in documents:
        item = doc.get(key)
        if item is not None:
            found.append(Source(f"{doc.name}:{item.line}", path, *flag(item, framework)))
    variable = f"M_{key.upper()}"
    if framework.name == "maxtext" and variable in os.environ:
        value = _LAX.get(os.environ[variable].lower())
        problem = "" if value is not None else f"{os.environ[variable]!r} is no boolean"
        found.append(Source(f"environment {variable}", None, value, problem))
    return tuple(found)


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        try:
            return f"configs/{path.resolve().relative_to(chain.PACKAGED.resolve()).as_posix()}"
        except ValueError:
            return str(path)
