"""The files that inherit from one that changes."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from maxmig import errors
from maxmig.rollout import effective
from maxmig.rollout.choice import Choice
from maxmig.rollout.effective import Effective

_MANY = 1000
_PARENT = re.compile(r"^\s*base_config\s*:\s*['\"]?([^'\"\s#]+)", re.MULTILINE)


def notes(config: Effective, keys: Sequence[str], choice: Choice) -> list[str]:
    """Other files below the folder that stand on this one, and whether they change with it.

    Args:
        config: what changes.
        keys: which keys of it.
        choice: whose configurations they are.
    """
    own = config.path.resolve()
    parents = {}
    for path in sorted(own.parent.rglob("*.y*ml"))[:_MANY]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if match := _PARENT.search(path.read_text("utf-8")):
                parent = effective.parent_path(path, match[1], config.framework)
                parents[path.resolve()] = parent.resolve() if parent else None
    found = []
    for path in parents:
        above, steps = parents[path], 0
        while above is not None and above != own and steps < len(parents):
            above, steps = parents.get(above), steps + 1
        if above == own and path != own:
            found.append(path.relative_to(own.parent).as_posix())
    if not found:
        return []
    moved = [name for name in found if _moves(own.parent / name, config, keys, choice)]
    told = []
    for names, what in (
        (moved, " and change with it" if keys else ""),
        ([n for n in found if n not in moved], " and set for themselves what changes here"),
    ):
        if names:
            more = f", and {len(names) - 5} more" if len(names) > 5 else ""
            told.append(f"files that inherit from it{what}: {', '.join(names[:5])}{more}")
    return told


def _moves(path: Path, config: Effective, keys: Sequence[str], choice: Choice) -> bool:
    """Whether a file that inherits takes any key that changes from where `config` has it."""
    try:
        heir = choice.read(str(path))
    except errors.MaxmigError:
        return True  # it cannot be told
    return not keys or any(_origin(heir, key) == _origin(config, key) for key in keys)


def _origin(config: Effective, key: str) -> Path | None:
    path = config.origin(key).path
    return None if path is None else path.resolve()
