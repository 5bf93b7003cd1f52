"""Words for what is wrong: what was expected, what came, where, and what to write instead."""

import difflib
import types
import typing
from collections.abc import Iterable
from typing import Any

from pydantic.fields import FieldInfo

from maxmig.config import scalars

_YES_NO = {"yes", "no", "on", "off", "y", "n"}
_TYPES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint with the most similar of `names`, or nothing."""
    near = difflib.get_close_matches(name, list(names), 3, 0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def expected(field: FieldInfo) -> str:
    """What a key takes, in words."""
    bounds = " and ".join(_bounds(field.metadata))
    return f"{_words(field.annotation)}{' ' + bounds if bounds else ''}"


def blank(value: Any) -> bool:
    """Whether a value says nothing: null, the text none, or empty text."""
    return value is None or (isinstance(value, str) and value.lower() in ("", "none"))


def optional(field: FieldInfo) -> bool:
    """Whether a key takes null."""
    return type(None) in typing.get_args(field.annotation)


def takes_text(field: FieldInfo) -> bool:
    """Whether a key takes any text, so that `run_name: 7` means the text 7."""
    return field.annotation is str


def mismatch(name: str, field: FieldInfo, value: Any) -> str:
    """The sentence for a value of another type or out of bounds."""
    text = f"{name}: expected {expected(field)}, got {scalars.show(value)}"
    choices = _choices(field.annotation)
    if isinstance(value, str) and typing.get_origin(field.annotation) is tuple:
        return text + f"; write [{value}]"
    if field.annotation is bool:
        return text + _boolean_hint(value)
    if isinstance(value, str) and choices:
        return text + nearest(value, [item for item in choices if isinstance(item, str)])
    if isinstance(value, tuple) and choices:
        strange = [item for item in value if isinstance(item, str) and item not in choices]
        return text + "".join(nearest(item, choices) for item in strange[:1])
    numeric = {int, float} & _leaves(field.annotation)
    if isinstance(value, str) and numeric and isinstance(scalars.value(value), int | float):
        return text + "; leave the quotes out"
    if isinstance(value, float) and value.is_integer() and float not in _leaves(field.annotation):
        return text + f"; write {int(value)}"
    if value is None and "none" in choices:
        return text + "; write none"
    return text


def _boolean_hint(value: Any) -> str:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return f"; it is in quotes: write {value.strip().lower()} without them"
    if isinstance(value, str) and value.strip().lower() in _YES_NO:
        return "; yes, no, on and off are text here: write true or false"
    if type(value) is int and value in (0, 1):
        return f"; write {'true' if value else 'false'}"
    return ""


def _words(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return f"one of {', '.join(scalars.plain(item) for item in args)}"
    if origin is typing.Annotated:
        return " ".join([_words(args[0]), *_bounds(args[1:])])
    if origin in (typing.Union, types.UnionType):
        parts = [_words(arg) for arg in args if arg is not type(None)]
        return " or ".join(parts) + (", or null" if type(None) in args else "")
    if origin is tuple:
        return f"a list ({_words(args[0])} each)"
    return _TYPES.get(annotation, str(annotation))


def _bounds(metadata: Iterable[Any]) -> list[str]:
    parts = [part for item in metadata for part in getattr(item, "metadata", None) or [item]]
    return [
        f"{sign} {getattr(part, name)}"
        for name, sign in _BOUNDS.items()
        for part in parts
        if getattr(part, name, None) is not None
    ]


def _choices(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return tuple(item for arg in typing.get_args(annotation) for item in _choices(arg))


def _leaves(annotation: Any) -> set[Any]:
    args = [arg for arg in typing.get_args(annotation) if isinstance(arg, type) or _args(arg)]
    return {annotation} if not args else set().union(*(_leaves(arg) for arg in args))


def _args(annotation: Any) -> bool:
    return bool(typing.get_args(annotation))
