"""The chain of sources: base < model < file, with its parents < key=value.

Every layer is a list of entries with their places. The layers are merged key by key, all problems
are collected, and either one error tells all of them or a `Config` comes out.
"""

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from maxmig.config import maxtext_keys, messages, reader, scalars
from maxmig.config.groups.base import Contradiction
from maxmig.config.reader import Entry
from maxmig.config.schema import DERIVED, GROUPS, KEYS, Config, Link
from maxmig.errors import ConfigError

PACKAGED = Path(str(importlib.resources.files("maxmig.configs")))
BASE = "base.yml"
PARENT_KEY = "base_config"
RULES = "logical_axis_rules"


@dataclass(frozen=True)
class Layer:
    """One source of the chain: all that it says, and the folder that its names are relative to."""

    entries: tuple[Entry, ...]
    folder: Path | None = None


@dataclass(frozen=True)
class Layers:
    """What a configuration was put together from, from weakest to strongest."""

    found: tuple[Layer, ...]

    def extend(self, changes: Mapping[str, Any]) -> Config:
        """The configuration with `changes` on top; the values are Python's."""
        entries = [Entry(name, _tuples(value), "replace()") for name, value in changes.items()]
        return _build((*self.found, Layer(tuple(entries))))


def load(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Loads a configuration.

    Args:
        path: a YAML file, or the name of one that maxmig carries (`demo`, `bench/tiny`); None
            takes the base alone.
        overrides: `key=value` arguments, which win over every file.

    Returns:
        The validated configuration, which knows where each value came from.

    Raises:
        ConfigError: with every problem at once, each with its place (exit code 2), or because a
            file is missing or cannot be read (exit code 4).
    """
    layers = [] if path is None else _files(*_find(str(path)), seen=())
    layers.append(Layer(tuple(reader.override(argument) for argument in overrides)))
    return _build(tuple(layers))


def packaged(name: str) -> Path | None:
    """The path of a configuration that maxmig carries, by a name such as `demo` or `bench/tiny`."""
    relative = Path(name.removeprefix("configs/"))
    if relative.is_absolute() or ".." in relative.parts:
        return None
    for candidate in (PACKAGED / relative, PACKAGED / f"{relative}.yml"):
        if candidate.is_file() and candidate.suffix == ".yml":
            return candidate
    return None


def models() -> list[str]:
    """The values of model_name for which maxmig carries a file."""
    return sorted(path.stem for path in (PACKAGED / "models").glob("*.yml"))


def _find(name: str) -> tuple[Path, str]:
    path = Path(name)
    if not _is_file(path) and (inside := packaged(name)) is not None:
        return inside, _shown(inside)
    return path, _shown(path)


def _shown(path: Path) -> str:
    """A packaged file is shown as `configs/...` wherever it is installed."""
    try:
        return f"configs/{path.resolve().relative_to(PACKAGED.resolve()).as_posix()}"
    except ValueError:
        return str(path)


def _files(path: Path, name: str, seen: tuple[Path, ...]) -> list[Layer]:
    """The layers of a file: its parents, recursively, and then itself."""
    real = path.resolve()
    if real in seen:
        names = " -> ".join(_shown(item) for item in (*seen[seen.index(real) :], real))
        raise ConfigError(f"{PARENT_KEY} goes round in a circle: {names}")
    entries = reader.read(path, name)
    own = Layer(tuple(item for item in entries if item.key != PARENT_KEY), path.parent)
    parents: list[Layer] = []
    for entry in entries:
        if entry.key == PARENT_KEY and not messages.blank(entry.value):
            parents = _parent(entry, path, (*seen, real))
    return [*parents, own]


def _parent(entry: Entry, path: Path, seen: tuple[Path, ...]) -> list[Layer]:
    if not isinstance(entry.value, str):
        raise ConfigError(
            f"{entry.place}: {PARENT_KEY}: expected the path of a YAML file, got "
            f"{scalars.show(entry.value)}"
        )
    parent = path.parent / entry.value
    if not _is_file(parent):
        inside = packaged(entry.value)
        if inside is None:
            raise ConfigError(
                f"{entry.place}: {PARENT_KEY}: no such file: {parent} (looked for beside this "
                "file and among maxmig's own configurations)",
                exit_code=4,
            )
        parent = inside
    if parent.resolve() == (PACKAGED / BASE).resolve():
        return []  # the base is below every chain already; again above the model it would win
    return _files(parent, _shown(parent), seen)


def _build(layers: tuple[Layer, ...]) -> Config:
    base = Layer(tuple(reader.read(PACKAGED / BASE, f"configs/{BASE}")))
    problems: list[str] = []
    model = _model(base, layers, problems)
    chains = _chains((base, *model, *layers))
    values = _values(chains, problems)
    values[RULES] = _rules((base, *model, *layers))
    config = _validate(values, chains, problems)
    problems.extend(maxtext_keys.problems(chains))
    if problems or config is None:
        raise ConfigError(_report(problems))
    config._layers = Layers(layers)
    config._chains = {
        name: tuple(Link(entry.source, entry.line, entry.value) for entry in entries)
        for name, entries in chains.items()
        if name in KEYS
    }
    return config


def _model(base: Layer, layers: Sequence[Layer], problems: list[str]) -> list[Layer]:
    """The layer of `models/<model_name>.yml`, beside the user's file or among maxmig's own."""
    chosen = [
        entry for layer in (base, *layers) for entry in layer.entries if entry.key == "model_name"
    ][-1]
    name = _coerce("model_name", chosen)
    if not isinstance(name, str):
        return []  # the schema says what is wrong with it
    if Path(name).name != name or name in ("", ".", ".."):
        problems.append(f"{chosen.place}: model_name: expected a plain name, got {name!r}")
        return []
    folders = [layer.folder for layer in reversed(layers) if layer.folder is not None]
    for folder in (*folders, PACKAGED):
        path = folder / "models" / f"{name}.yml"
        if _is_file(path):
            return [Layer(tuple(reader.read(path, _shown(path))))]
    problems.append(
        f"{chosen.place}: model_name: there is no model {name!r}; maxmig has "
        f"{', '.join(models())}{messages.nearest(name, models())}"
    )
    return []


def _chains(layers: Sequence[Layer]) -> dict[str, list[Entry]]:
    chains: dict[str, list[Entry]] = {}
    for layer in layers:
        for entry in layer.entries:
            chains.setdefault(entry.key, []).append(entry)
    return chains


def _values(chains: Mapping[str, list[Entry]], problems: list[str]) -> dict[str, Any]:
    values = {}
    for name, entries in chains.items():
        if name in KEYS:
            values[name] = _coerce(name, entries[-1])
        elif name == PARENT_KEY:
            problems.append(
                f"{entries[-1].place}: {PARENT_KEY} can only stand in a file of its own, "
                "neither in a model's file nor on the command line"
            )
        elif name not in maxtext_keys.TABLE:
            hint = messages.nearest(name, KEYS)
            problems.extend(f"{entry.place}: unknown key {name!r}{hint}" for entry in entries)
    return values


def _coerce(name: str, entry: Entry) -> Any:
    """Two liberties: `none` is null where null is possible, and bare 7 or nothing can be text."""
    field = KEYS[name][1]
    value = entry.value
    if messages.optional(field) and isinstance(value, str) and value.lower() == "none":
        return None
    bare = type(value) in (int, float) or (value is None and entry.text == "")
    return entry.text if bare and entry.text is not None and messages.takes_text(field) else value


def _rules(layers: Sequence[Layer]) -> Any:
    """Merges the logical axis rules: a name given again replaces its rules where they stood.

    Appending them, as MaxText does, would change which rule wins.
    """
    given = [entry for layer in layers for entry in layer.entries]
    switch = [entry.value for entry in given if entry.key == "override_logical_axis_rules"][-1]
    merged: Any = ()
    for rules in (entry.value for entry in given if entry.key == RULES):
        if switch is True or not _are_rules(rules):
            merged = rules
        elif _are_rules(merged):
            merged = _merge(merged, rules)
    return merged


def _are_rules(rules: Any) -> bool:
    return isinstance(rules, tuple) and all(
        isinstance(rule, tuple) and rule and isinstance(rule[0], str) for rule in rules
    )


def _merge(old: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
    renewed = {rule[0] for rule in new}
    placed: set[str] = set()
    merged: list[Any] = []
    for rule in old:
        name = rule[0]
        if name not in renewed:
            merged.append(rule)
        elif name not in placed:
            placed.add(name)
            merged.extend(item for item in new if item[0] == name)
    merged.extend(item for item in new if item[0] not in placed)
    return tuple(merged)


def _validate(
    values: Mapping[str, Any], chains: Mapping[str, list[Entry]], problems: list[str]
) -> Config | None:
    grouped = {
        group: {name: values[name] for name in fields if name in values}
        for group, fields in GROUPS.items()
    }
    try:
        return Config.model_validate(grouped)
    except pydantic.ValidationError as error:
        told: set[str] = set()
        for item in error.errors(include_url=False):
            text = _explain(item, values, chains, told)
            if text is not None:
                problems.append(text)
        return None


def _explain(
    item: Any, values: Mapping[str, Any], chains: Mapping[str, list[Entry]], told: set[str]
) -> str | None:
    """The sentence for one of pydantic's errors; None when the key was told already."""
    reason = item.get("ctx", {}).get("error")
    if isinstance(reason, Contradiction):
        lines = [str(reason)]
        lines += [f"    {name}: {_where(name, values, chains)}" for name in reason.keys]
        return "\n".join(lines)
    name = item["loc"][1] if len(item["loc"]) > 1 else None
    if name is None:
        return str(reason or item["msg"])
    if name in told:
        return None
    told.add(name)
    place = f"{chains[name][-1].place}: " if name in chains else ""
    if isinstance(reason, ValueError):
        text = str(reason)
        return place + (text if text.startswith(f"{name}: ") else f"{name}: {text}")
    return place + messages.mismatch(name, KEYS[name][1], values.get(name))


def _where(name: str, values: Mapping[str, Any], chains: Mapping[str, list[Entry]]) -> str:
    if values.get(name) is None and name in DERIVED:
        return f"derived from {DERIVED[name]}, {_where(DERIVED[name], values, chains)}"
    if name not in chains:
        return "not given"
    return f"{scalars.plain(values.get(name))} ({chains[name][-1].place})"


def _report(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return f"{len(problems)} problems in the configuration:\n{lines}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no permission, too long, or a NUL: reading it will say which
        return False


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
