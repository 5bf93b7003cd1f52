"""Traps of training and evaluation, and of decoding."""

import ast
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from maxmig.lint.source import Rule, Source

Found = Iterator[tuple[ast.AST, str]]

_SENSITIVE = {"flax.nnx.Dropout", "flax.nnx.BatchNorm"}
_SWITCHES = {"deterministic", "use_running_average"}
_METHODS = {"eval", "set_attributes", "set_mode", "view"}


@dataclasses.dataclass(frozen=True)
class ProjectRule(Rule):
    """A trap that only all files together show.

    Attributes:
        find_all: yields files with the nodes in them.
    """

    find_all: Callable[[Sequence[Source]], Iterator[tuple[Source, list[tuple[ast.AST, str]]]]] = (
        lambda sources: iter(())
    )


def no_decode(source: Source) -> Found:
    """nnx.MultiHeadAttention that nobody tells whether it decodes."""
    calls = list(source.walk(ast.Call))
    told = any(k.arg == "decode" for call in calls for k in call.keywords)
    if told or any("decode" in _attribute(call) for call in calls):
        return
    for call in calls:
        if source.dotted(call.func) == "flax.nnx.MultiHeadAttention" and not _open(call):
            yield call, "nnx.MultiHeadAttention raises when it is called without decode"


def training_mode(
    sources: Sequence[Source],
) -> Iterator[tuple[Source, list[tuple[ast.AST, str]]]]:
    """Dropout and BatchNorm, if nothing in all files switches a mode."""
    if any(_switches(source) for source in sources):
        return
    for source in sources:
        nodes = [
            call
            for call in source.walk(ast.Call)
            if source.dotted(call.func) in _SENSITIVE and not _open(call)
        ]
        if nodes:
            name = source.dotted(nodes[0].func).removeprefix("flax.")
            yield (
                source,
                [
                    (
                        nodes[0],
                        f"{name} is in training mode unless it is told otherwise, and none of the "
                        "files calls .eval() or passes deterministic / use_running_average: "
                        "evaluation drops units and moves statistics",
                    )
                ],
            )


def _switches(source: Source) -> bool:
    for call in ast.walk(source.tree):
        if not isinstance(call, ast.Call):
            continue
        if isinstance(call.func, ast.Attribute) and call.func.attr in _METHODS:
            return True
        if any(keyword.arg in _SWITCHES for keyword in call.keywords):
            return True
    return False


def _attribute(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _open(call: ast.Call) -> bool:
    """Whether it is given **kwargs, which may hold anything."""
    return any(keyword.arg is None for keyword in call.keywords)
