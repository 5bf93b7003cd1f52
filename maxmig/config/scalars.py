"""From the text of a plain scalar to its value: one rule for YAML files and for `key=value`.

YAML 1.1 reads `1e-3` as text, `yes` as a boolean, `010` as eight and `1:30` as ninety. Here a
number is what a Python programmer calls a number, a boolean is `true` or `false`, and everything
else is text; the schema then says whether text is welcome.
"""

import re
from typing import Any

import yaml

_NULLS = {"", "~", "null"}
_BOOLS = {"true": True, "false": False}
_SPECIAL = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_SIMPLE = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9_/.*+-]*")
_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*)([eE][-+]?[0-9]+)?")


def value(text: str) -> Any:
    """The value of an unquoted scalar: None, a bool, an int, a float or the text itself."""
    lowered = text.lower()
    if lowered in _NULLS:
        return None
    if lowered in _BOOLS:
        return _BOOLS[lowered]
    if _INT.fullmatch(text):
        return int(text.replace("_", ""))
    if lowered in _SPECIAL:
        return float(_SPECIAL[lowered])
    if _FLOAT.fullmatch(text) and ("." in text or "e" in lowered):
        return float(text.replace("_", ""))
    return text


def show(item: Any) -> str:
    """A value as the reader of an error message knows it: what it is, and how it was written."""
    if item is None:
        return "null"
    if isinstance(item, bool):
        return f"the boolean {str(item).lower()}"
    if isinstance(item, int):
        return f"the integer {item}"
    if isinstance(item, float):
        return f"the float {item!r}"
    if isinstance(item, str):
        return f"the text {item!r}"
    if isinstance(item, dict):
        return f"a mapping with the keys {', '.join(item) or '(none)'}"
    return f"the list {plain(item)}"


def plain(item: Any) -> str:
    """A value in YAML's flow style, on one line."""
    if item is None:
        return "null"
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, tuple | list):
        return f"[{', '.join(plain(part) for part in item)}]"
    if isinstance(item, dict):
        return "{" + ", ".join(f"{key}: {plain(part)}" for key, part in item.items()) + "}"
    if isinstance(item, float):
        return _float(item)
    if isinstance(item, str) and not (_SIMPLE.fullmatch(item) and value(item) == item):
        return _quoted(item)
    return str(item)


def _float(item: float) -> str:
    """Other YAML readers take `1e-05` for text and `1.0e-05` for a number."""
    mantissa, exponent, power = repr(item).partition("e")
    return mantissa + (".0" if exponent and "." not in mantissa else "") + exponent + power


def _quoted(item: str) -> str:
    if item.isprintable() and "'" not in item:
        return f"'{item}'"
    return yaml.safe_dump(item, default_style='"', width=float("inf")).strip()
