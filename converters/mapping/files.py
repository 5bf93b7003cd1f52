"""Mapping files: YAML that says how the leaves of one checkpoint become those of another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters import names
from maxmig.converters.layouts import Hints
from maxmig.converters.mapping import entries, lines, rules
from maxmig.converters.mapping.rules import Rule

VERSION = 1
KIND = "maxmig.mapping"
_TOP = {
    "kind",
    "schema_version",
    "leaves",
    "dropped",
    "maxmig_map",
    "from",
    "to",
    "rules",
    "boxed",
    "unboxed",
    "collections",
    "fields",
    "optimizer",
}


@dataclass(frozen=True)
class Document:
    """A mapping file.

    Attributes:
        source: the layout it is for, None: any.
        target: the layout it leads to, None: any.
        rules: what happens, in order.
        boxed: parameters that sit in a box, under `value`, where the tree does not tell.
        unboxed: modules that truly have a parameter called `value`.
        collections: {model path: collection} of leaves of an NNX tree, where nothing tells it.
        fields: {top-level key of a Linen tree: `beside` the model, or a collection of the `model`},
            where the tree does not tell.
        optimizer: the containers of the optimizer's state (a skeleton), where the tree does not
            tell them all.
        places: where each rule is, for messages; none for rules that no file holds.
    """

    source: str | None = None
    target: str | None = None
    rules: tuple[Rule, ...] = ()
    boxed: tuple[str, ...] = ()
    unboxed: tuple[str, ...] = ()
    collections: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    optimizer: Any = None
    places: tuple[str, ...] = field(default=(), compare=False)

    @property
    def hints(self) -> Hints:
        """What the file says of the source's tree."""
        return Hints(frozenset(self.boxed), frozenset(self.unboxed), self.collections)

    def inverse(self) -> "Document":
        """The file that leads back.

        Raises:
            ConvertError: a rule has no inverse.
        """
        return Document(self.target, self.source, rules.invert(self.rules))

    def data(self) -> dict[str, Any]:
        """As nested data, which `parse` takes."""
        return self._head() | {"rules": [rule.data() for rule in self.rules]}

    def to_yaml(self) -> str:
        """The text of the file."""
        import yaml

        head = yaml.safe_dump(self._head(), sort_keys=False)
        if not self.rules:
            return head + "rules: []\n"
        body = (
            yaml.safe_dump([rule.data()], sort_keys=False, default_flow_style=False, width=1000)
            for rule in self.rules
        )
        return head + "rules:\n" + "".join(body)

    def _head(self) -> dict[str, Any]:
        found: dict[str, Any] = {"maxmig_map": VERSION}
        if self.source:
            found["from"] = self.source
        if self.target:
            found["to"] = self.target
        for name in ("boxed", "unboxed"):
            if value := getattr(self, name):
                found[name] = list(value)
        if self.collections:
            found["collections"] = dict(self.collections)
        if self.fields:
            found["fields"] = dict(self.fields)
        if self.optimizer is not None:
            found["optimizer"] = self.optimizer
        return found


def read(path: str | Path) -> Document:
    """Reads a mapping file.

    Raises:
        ConfigError: it is not there, not YAML, has a key twice, or a rule in it is not one.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.ConfigError(
            f"{path}: expected a mapping file, but reading it failed: {error}"
        ) from error
    found, numbers = lines.load(text, str(path))
    document = parse(found, str(path), numbers)
    if "maxmig_map" not in found and "kind" not in found:
        raise errors.ConfigError(
            f"{path}: expected `maxmig_map: {VERSION}`, or `kind: {KIND}` as maxmig parity writes "
            "it, so that no other file is taken for a mapping; write one of them at the top"
        )
    return document


def parse(found: Any, where: str, numbers: Mapping[str, int] | None = None) -> Document:
    """A document from what YAML or JSON hold.

    Args:
        found: the data.
        where: what holds them, for messages.
        numbers: the lines of the keys and rules, as `lines.load` tells them.

    Raises:
        ConfigError: something in it is not understood; the place is told.
    """
    if not isinstance(found, Mapping):
        told = "nothing" if found is None else type(found).__name__
        raise errors.ConfigError(
            f"{where}: expected keys and values, of which one is `maxmig_map: {VERSION}`, got "
            f"{told}"
        )
    if unknown := sorted(map(str, found.keys() - _TOP)):
        raise errors.ConfigError(f"{where}: unknown keys {unknown}; known are {sorted(_TOP)}")
    if found.get("maxmig_map", VERSION) != VERSION:
        raise errors.ConfigError(
            f"{where}: maxmig_map: expected version {VERSION}, got {found['maxmig_map']!r}"
        )
    if found.get("kind", KIND) != KIND:
        raise errors.ConfigError(f"{where}: kind: expected {KIND!r}, got {found['kind']!r}")
    if "kind" in found and not found.keys() & {"leaves", "rules"}:
        raise errors.ConfigError(f"{where}: expected leaves: with one line for every leaf")
    listed = found.get("rules") or []
    if not isinstance(listed, list):
        raise errors.ConfigError(f"{where}: rules: expected a list, got {type(listed).__name__}")
    numbers = numbers or {}
    places = [_at(where, numbers, f"rules[{i}]") for i in range(len(listed))]
    if "leaves" in found:  # as `maxmig parity` writes it
        table = _traced(found, where)
        places += [_at(where, numbers, "dropped" if "drop" in item else "leaves") for item in table]
        listed = [*listed, *table]
    return Document(
        source=_layout(found.get("from"), f"{where}: from"),
        target=_layout(found.get("to"), f"{where}: to"),
        rules=_rules(listed, places),
        boxed=tuple(entries.texts(found.get("boxed") or [], f"{where}: boxed")),
        unboxed=tuple(entries.texts(found.get("unboxed") or [], f"{where}: unboxed")),
        collections=_collections(found.get("collections") or {}, f"{where}: collections"),
        fields=_fields(found.get("fields") or {}, f"{where}: fields"),
        optimizer=_optimizer(found.get("optimizer"), f"{where}: optimizer"),
        places=tuple(places),
    )


def _at(where: str, numbers: Mapping[str, int], key: str) -> str:
    return f"{where}:{numbers[key]}: {key}" if key in numbers else f"{where}: {key}"


def _rules(listed: Sequence[Any], places: Sequence[str]) -> tuple[Rule, ...]:
    return tuple(entries.rule(item, place) for item, place in zip(listed, places, strict=True))


def _optimizer(found: Any, where: str) -> Any:
    """An optimizer's name, or the containers of its state as `ckpt map` writes them."""
    named = isinstance(found, str) and (found == "array" or ":" in found)
    if found is None or named or (isinstance(found, Mapping) and len(found) == 1):
        return found
    raise errors.ConfigError(
        f"{where}: expected module:name of an optax optimizer, or of a function that makes one, "
        f"got {found!r}"
    )


def _traced(found: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The rules of a file that names every leaf: what is dropped, which are lists, the table."""
    dropped = found.get("dropped") or {}
    if not isinstance(dropped, Mapping) or not isinstance(found["leaves"], Mapping):
        raise errors.ConfigError(f"{where}: expected leaves: and dropped: with one line a leaf")
    containers: set[str] = set()
    for target in found["leaves"]:
        names.canonical(tuple(str(target).split("/"))[1:], containers)
    gone = [
        {"drop": names.canonical(tuple(str(path).split("/"))[1:]), "reason": str(why)}
        for path, why in dropped.items()
    ]
    listed = [{"list": at} for at in sorted(containers)]
    return [*gone, {"leaves": found["leaves"]}, *listed]


def _layout(found: Any, where: str) -> str | None:
    from maxmig.converters import layouts

    if found is None:
        return None
    if not isinstance(found, str):
        raise errors.ConfigError(f"{where}: expected the name of a layout, got {found!r}")
    try:
        return layouts.get(found).name
    except errors.ConfigError as error:
        raise errors.ConfigError(f"{where}: {error}") from error


def _collections(found: Any, where: str) -> dict[str, str]:
    if not isinstance(found, Mapping):
        raise errors.ConfigError(f"{where}: expected {{path: collection}}, got {found!r}")
    return {str(path): str(name) for path, name in found.items()}


def _fields(found: Any, where: str) -> dict[str, str]:
    told = _collections(found, where)
    if odd := sorted(set(told.values()) - {"beside", "model"}):
        raise errors.ConfigError(f"{where}: expected beside or model, got {odd[0]!r}")
    return told
