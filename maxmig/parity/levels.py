"""The levels of evidence, and what each of them compares."""

from collections.abc import Iterable, Sequence

from maxmig import errors

# Number: (name, what it is, in a line).
LEVELS = {
    "L0": ("static", "a proof: both sides are one computation, whatever the weights and inputs"),
    "L1": ("semantic", "both programs evaluated in float64: what they mean, without rounding"),
    "L2": ("native", "real arrays at the real type: errors, gradients, optimizer steps"),
    "L3": ("behaviour", "what a user sees: distributions, decoded text, sharded, restored"),
}
DEFAULT = ("L0", "L1", "L2")
ALL = tuple(LEVELS)

# What `--only` can name: the checks of L2, and their programs at L0 and L1.
CHECKS = (
    "logits",
    "hidden",
    "loss",
    "gradients",
    "update",
    "masks",
    "state",
    "steps",
)
OF_STEPS = ("metrics", "params", "moments", "counters")
_PROGRAMS = {
    "logits": ("forward",),
    "loss": ("loss",),
    "gradients": ("gradients",),
    "steps": ("train_step",),
    "update": ("train_step",),
}
# Names that a report prints, and the check that makes what they name.
_MADE_BY = {"forward": "logits", "train_step": "steps", **dict.fromkeys(OF_STEPS, "steps")}


def parse(text: str) -> tuple[str, ...]:
    """`L0,L2`, `0,2`, `static,native` or `all` as level numbers, in order.

    Raises:
        ConfigError: there is no such level.
    """
    by_name = {name: number for number, (name, _) in LEVELS.items()}
    found = set()
    for word in text.split(","):
        word = word.strip()
        if word.lower() == "all":
            return ALL
        number = by_name.get(word.lower(), word.upper() if word[:1] in "lL" else f"L{word}")
        if number not in LEVELS:
            known = ", ".join(f"{n} ({name})" for n, (name, _) in LEVELS.items())
            raise errors.ConfigError(f"level {word!r}: expected one of {known}, or all")
        found.add(number)
    return tuple(level for level in ALL if level in found)


def parse_only(text: str) -> tuple[str, ...]:
    """`logits,gradients` as names of checks, in order.

    The name of a program, or of what steps make, stands for its check: `train_step` for `steps`.

    Raises:
        ConfigError: there is no such check.
    """
    words = [_MADE_BY.get(word.strip(), word.strip()) for word in text.split(",")]
    unknown = [word for word in words if word not in CHECKS]
    if unknown:
        raise errors.ConfigError(
            f"--only {unknown[0]!r}: expected names out of {', '.join(CHECKS)}"
        )
    return tuple(name for name in CHECKS if name in words)


def wanted(only: Sequence[str], steps: int) -> frozenset[str]:
    """The checks of L2 to make."""
    names = set(only or CHECKS)
    if steps and "steps" in names:
        names |= set(OF_STEPS)
    return frozenset(names - {"steps"})


def programs(only: Iterable[str]) -> tuple[str, ...] | None:
    """The programs to prove and to shadow; None for all."""
    only = tuple(only)
    if not only:
        return None
    return tuple(dict.fromkeys(name for check in only for name in _PROGRAMS.get(check, ())))
