"""The rules of a mapping file: what each may say, and what is wrong with one."""

import collections
import re
from collections.abc import Callable, Mapping
from typing import Any

from maxmig import errors
from maxmig.converters.leaves import KEY_WORDS
from maxmig.converters.mapping import normed, relayouts, rules, traced
from maxmig.converters.mapping.rules import Rule, Where


def rule(item: Any, where: str) -> Rule:
    """One rule.

    Raises:
        ConfigError: it is none.
    """
    kinds = sorted(set(item) & _KINDS.keys()) if isinstance(item, Mapping) else []
    if len(kinds) != 1:
        raise errors.ConfigError(
            f"{where}: expected a rule with one of {', '.join(_KINDS)}, got {item!r}"
        )
    fields, make = _KINDS[kinds[0]]
    if unknown := sorted(map(str, item.keys() - fields)):
        raise errors.ConfigError(f"{where}: {kinds[0]}: unknown {unknown}; known are {fields}")
    try:
        _check_target(item.get("to"))
        return make(item)
    except (KeyError, TypeError, ValueError, errors.ConfigError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise errors.ConfigError(f"{where}: {kinds[0]}: {told}") from error


def _check_target(found: Any) -> None:
    """No result may have keys that lead out of its directory, or are invisible."""
    for path in found if isinstance(found, list) else [found]:
        if isinstance(path, str):
            bad = [key for key in path.split("/") if key in (".", "..") or not key.isprintable()]
            if bad:
                raise ValueError(f"to: expected printable names, got {bad[0]!r} in {path!r}")


def _where(found: Any) -> Where:
    if isinstance(found, Mapping) and "collection" in found:
        inner = {key: value for key, value in found.items() if key != "collection"}
        if inner and set(inner) not in ({"path"}, {"regex"}):
            raise ValueError(f"expected collection: and path: or regex:, got {found!r}")
        within = _text(found["collection"])
        where = _where(inner.get("path", inner)) if inner else Where("")
        return Where(where.path, where.regex, within)
    if isinstance(found, Mapping) and set(found) == {"regex"}:
        pattern = _text(found["regex"])
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return Where(pattern, regex=True)
    return Where(_text(found))


def _rename(item: Mapping[str, Any]) -> rules.Rename:
    where, to = _named(item["rename"]), _text(item["to"])
    if where.regex:
        pattern = re.compile(where.path)
        try:
            pattern.sub(to, "")  # the groups of `to` are looked up even where nothing matches
        except (re.error, IndexError) as error:
            raise ValueError(
                f"to: {to!r}: {error}; the expression {where.path!r} has {pattern.groups} groups"
            ) from error
    return rules.Rename(where, to)


def _named(found: Any) -> Where:
    if not (where := _where(found)).path:
        raise ValueError(f"expected a path: or regex: in the collection, got {found!r}")
    return where


def _text(found: Any) -> str:
    if not isinstance(found, str) or not found or found.strip("/") != found:
        raise ValueError(f"expected a path such as encoder/Dense_0, got {found!r}")
    return found


def _one(found: Any) -> str:
    if "*" in _text(found):
        raise ValueError(
            f"expected the path of one module, without *, such as blocks_0/dropout/rngs, got "
            f"{found!r}; one rule for each"
        )
    return str(found)


def _numbered(found: Any) -> str:
    if len(rules.NUMBER.findall(_text(found))) != 1:
        raise ValueError(
            f"expected a path with {{}} for the number ({{:02}}: of two digits), got {found!r}"
        )
    return str(found)


def _int(found: Any) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ValueError(f"expected a whole number of 0 or more, got {found!r}")
    return found


def _ints(found: Any) -> tuple[int, ...]:
    if not isinstance(found, list):
        raise ValueError(f"expected a list of whole numbers, got {found!r}")
    return tuple(map(_int, found))


def texts(found: Any, where: str = "") -> tuple[str, ...]:
    """A list of paths.

    Raises:
        ConfigError: it is none, or a path is there twice.
    """
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        told = f"{where}: " if where else ""
        raise errors.ConfigError(f"{told}expected a list of paths, got {found!r}")
    if twice := [item for item, count in collections.Counter(found).items() if count > 1]:
        told = f"{where}: " if where else ""
        raise errors.ConfigError(f"{told}expected each path once; {twice[0]} is there twice")
    return tuple(found)


def _kind(found: Any) -> str:
    known = (*relayouts.KINDS, *normed.KINDS)
    if found not in known:
        raise ValueError(f"kind: expected one of {', '.join(known)}, got {found!r}")
    return str(found)


def _wraps(item: Mapping[str, Any]) -> str | None:
    if (item["kind"] in normed.KINDS) != ("wraps" in item):
        raise ValueError(
            f"wraps: the path of the wrapped layer in Linen; expected with the kinds "
            f"{', '.join(normed.KINDS)}, and with no other"
        )
    return _text(item["wraps"]) if "wraps" in item else None


def _side(found: Any) -> str:
    if found not in ("linen", "nnx"):
        raise ValueError(f"to: expected linen or nnx, got {found!r}")
    return str(found)


def _impl(found: Any) -> str:
    if found not in KEY_WORDS:
        raise ValueError(f"impl: expected one of {', '.join(KEY_WORDS)}, got {found!r}")
    return str(found)


def _raw(found: Any) -> bool:
    if found not in ("typed", "raw"):
        raise ValueError(f"to: expected typed or raw, got {found!r}")
    return bool(found == "raw")


def _permutation(found: Any) -> tuple[int, ...]:
    axes = _ints(found)
    if sorted(axes) != list(range(len(axes))):
        raise ValueError(f"axes: expected each axis once, got {found!r}")
    return axes


def _split(item: Mapping[str, Any]) -> rules.Split:
    to, sizes = texts(item["to"]), _ints(item["sizes"])
    if len(to) != len(sizes) or not to:
        raise ValueError(f"to: expected a path for each of the {len(sizes)} sizes, got {len(to)}")
    return rules.Split(_text(item["split"]), to, _int(item["axis"]), sizes)


def _sizes(item: Mapping[str, Any]) -> tuple[int, ...] | None:
    return _ints(item["sizes"]) if "sizes" in item else None


_KINDS: dict[str, tuple[set[str], Callable[[Any], Rule]]] = {
    "rename": ({"rename", "to"}, _rename),
    "stack": (
        {"stack", "to", "axis"},
        lambda i: rules.Stack(_numbered(i["stack"]), _text(i["to"]), _int(i.get("axis", 0))),
    ),
    "unstack": (
        {"unstack", "to", "axis"},
        lambda i: rules.Unstack(_text(i["unstack"]), _numbered(i["to"]), _int(i.get("axis", 0))),
    ),
    "move_axis": (
        {"move_axis", "from", "to"},
        lambda i: rules.MoveAxis(_text(i["move_axis"]), _int(i["from"]), _int(i["to"])),
    ),
    "concat": (
        {"concat", "to", "axis", "sizes"},
        lambda i: rules.Concat(texts(i["concat"]), _text(i["to"]), _int(i["axis"]), _sizes(i)),
    ),
    "split": (
        {"split", "to", "axis", "sizes"},
        _split,
    ),
    "transpose": (
        {"transpose", "axes"},
        lambda i: rules.Transpose(_where(i["transpose"]), _permutation(i["axes"])),
    ),
    "drop": ({"drop", "reason"}, lambda i: rules.Drop(_where(i["drop"]), _text(i["reason"]))),
    "collection": (
        {"collection", "from", "to"},
        lambda i: rules.Collection(_where(i["collection"]), _text(i["from"]), _text(i["to"])),
    ),
    "layer": (
        {"layer", "kind", "to", "wraps"},
        lambda i: rules.Layer(_text(i["layer"]), _kind(i["kind"]), _side(i["to"]), _wraps(i)),
    ),
    "leaves": ({"leaves", "shapes"}, lambda i: traced.parse(i["leaves"], i.get("shapes"))),
    "list": ({"list"}, lambda i: rules.Listed(_where(i["list"]))),
    "unlist": ({"unlist"}, lambda i: rules.Listed(_where(i["unlist"]), listed=False)),
    "keys": (
        {"keys", "impl", "to"},
        lambda i: rules.Keys(_where(i["keys"]), _impl(i["impl"]), _raw(i.get("to", "typed"))),
    ),
    "random": (
        {"random", "impl", "shape"},
        lambda i: rules.Random(
            _one(i["random"]), _text(i.get("impl", "threefry2x32")), _ints(i.get("shape", []))
        ),
    ),
}
