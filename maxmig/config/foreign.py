"""What a key of MaxText that maxmig does not have is allowed to say: nothing."""

from dataclasses import dataclass
from typing import Any

from maxmig.config import scalars


class _Anything:
    """Stands for every value: the key only matters beside one that is refused, or never."""


ANYTHING = _Anything()


@dataclass(frozen=True)
class Foreign:
    """A MaxText key: the values that ask for nothing, and why others are refused."""

    neutral: tuple[Any, ...]
    reason: str

    def accepts(self, value: Any) -> bool:
        """Whether a value asks for nothing."""
        return any(item is ANYTHING or _same(value, item) for item in self.neutral)

    @property
    def accepted(self) -> str:
        """The neutral values, in words."""
        return " or ".join(_show(value) for value in self.neutral)


def _same(value: Any, neutral: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("", "none"):
        value = None
    if isinstance(neutral, str) and neutral == "":
        neutral = None
    if isinstance(value, bool) or isinstance(neutral, bool):
        return value is neutral
    if isinstance(neutral, dict):
        return isinstance(value, dict) and all(
            name in neutral and (neutral[name] is ANYTHING or _same(item, neutral[name]))
            for name, item in value.items()
        )
    return bool(value == neutral)


def _show(neutral: Any) -> str:
    if neutral is ANYTHING:
        return "any value"
    return "MaxText's defaults" if isinstance(neutral, dict) else scalars.plain(neutral)
