"""Numbers in sentences, and lists that are too long for one."""

from collections.abc import Sequence

MOST = 3


def counted(number: int, noun: str) -> str:
    """`1 array`, `2,048 arrays`: the noun has a regular plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def few(items: Sequence[str], most: int = MOST) -> str:
    """The first of them, and how many more there are."""
    more = f", and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
