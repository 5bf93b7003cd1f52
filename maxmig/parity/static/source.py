"""Where an equation was written, and how to look into jaxprs of all supported versions of JAX."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax._src import source_info_util


def line(eqn: Any) -> tuple[str, str]:
    """(file:line, function) of the innermost frame outside of JAX; empty where it is unknown."""
    frame = source_info_util.user_frame(eqn.source_info.traceback)
    if frame is None:
        return "", ""
    return f"{_short(frame.file_name)}:{frame.start_line}", frame.function_name.split(".")[-1]


def caller(eqn: Any, calls: Sequence[Any] = ()) -> str:
    """file:line of the innermost frame outside of libraries; empty where `place` is no library's.

    A line inside of Flax is the same for all layers of a kind; this one tells which layer it is.
    """
    frames = _frames(eqn, calls)
    if not frames or not _LIBRARIES.search(frames[0].file_name):
        return ""
    own = (frame for frame in frames if not _LIBRARIES.search(frame.file_name))
    return next((f"{_short(frame.file_name)}:{frame.start_line}" for frame in own), "")


def through(eqn: Any, calls: Sequence[Any], files: re.Pattern[str]) -> bool:
    """Whether an equation was written by way of one of these files."""
    return any(files.search(frame.file_name) for frame in _frames(eqn, calls))


def _frames(eqn: Any, calls: Sequence[Any]) -> list[Any]:
    """The frames outside of JAX, innermost first, of what `place` tells the line of."""
    inside = next((call for call in calls if is_jaxs_own(call)), None)
    for each in (inside,) if inside is not None else (eqn, *reversed(calls)):
        if frames := list(source_info_util.user_frames(each.source_info.traceback)):
            return frames
    return []


def place(eqn: Any, calls: Sequence[Any] = ()) -> tuple[str, str]:
    """(file:line, function) of an equation inside calls.

    JAX keeps what it traced of its own functions, with the lines of whoever called them first. So
    for what is inside of one of them, the line that calls it is told.
    """
    for call in calls:
        if is_jaxs_own(call):
            return line(call)
    for each in (eqn, *reversed(calls)):
        found = line(each)
        if found[0]:
            return found
    return "", ""


def is_jaxs_own(call: Any) -> bool:
    """Whether a call is one of a function of JAX itself, such as jnp.where."""
    if call.primitive.name not in ("jit", "pjit"):
        return False
    info = getattr(parts(call.params["jaxpr"])[0], "debug_info", None)
    about = getattr(info, "func_src_info", None) or ""
    return not source_info_util.is_user_filename(about.split(" at ")[-1].rsplit(":", 1)[0])


def stack(eqn: Any) -> str:
    """The name stack of an equation relative to its jaxpr, without transformations: `a/b/c`."""
    names = [getattr(part, "name", None) for part in eqn.source_info.name_stack.stack]
    kinds = [type(part).__name__ for part in eqn.source_info.name_stack.stack]
    return "/".join(
        str(name) for name, kind in zip(names, kinds, strict=True) if name and kind == "Scope"
    )


def joined(outer: str, eqn: Any) -> str:
    """The name stack of an equation inside of another one."""
    return "/".join(name for name in (outer, stack(eqn)) if name)


def module_path(stack: str, roots: frozenset[str]) -> str:
    """The canonical path of the module that a name stack tells.

    Args:
        stack: `Model/decoder/decoder.stack/layers/mlp`: classes, attributes, methods.
        roots: first names of the paths of all parameters.
    """
    names = [n for n in stack.split("/") if n not in _WRAPPERS and _NAME.fullmatch(n)]
    while names and roots and names[0] not in roots:
        names.pop(0)
    return "/".join(names)


_NAME = re.compile(r"\w+")  # no methods (`decoder.stack`), no einsum strings
# What JAX itself puts on the name stack.
_WRAPPERS = {"rematted_computation", "checkpoint", "remat", "while", "body", "cond", "closed_call"}


def parts(jaxpr: Any) -> tuple[Any, list[Any]]:
    """(the open jaxpr, the values of its constants) of an open or closed one."""
    inner = jaxpr.jaxpr if hasattr(jaxpr, "jaxpr") else jaxpr
    return inner, list(getattr(jaxpr, "consts", ()))


def scan_sizes(params: dict[str, Any], results: int) -> tuple[int, int]:
    """(number of constants, number of carries) of a scan."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def loop_sizes(params: dict[str, Any]) -> tuple[int, int]:
    """(constants of the condition, constants of the body) of a while loop."""
    return params["cond_nconsts"], params["body_nconsts"]


def operands(values: Sequence[Any], *sizes: int) -> tuple[list[Any], ...]:
    """Splits a list into pieces of these sizes and the rest."""
    found, start = [], 0
    for size in sizes:
        found.append(list(values[start : start + size]))
        start += size
    return (*found, list(values[start:]))


# What others wrote, and maxmig's own comparison, which calls the modules.
_LIBRARIES = re.compile(r"[/\\](site-packages[/\\](flax|optax|chex|einops)|maxmig[/\\]parity)[/\\]")
_HERE = str(Path(__file__).parents[3])


def _short(path: str) -> str:
    """Relative to the package's or the current folder, where the file is below it."""
    for root in (_HERE, str(Path.cwd())):
        if path.startswith(root + os.sep) and "site-packages" not in path[len(root) :]:
            return path[len(root) + 1 :]
    return path.split("site-packages" + os.sep)[-1]
