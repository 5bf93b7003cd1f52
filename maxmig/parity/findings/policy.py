"""What counts as equal: the same bits, or else as near to the truth as the control is.

A threshold that somebody guessed lets bugs pass or rejects correct code, and which of the two
changes with depth and type. So the control's own error against float64 is the yardstick: measured,
a correct candidate's is 0.99 to 1.10 times that from 2 to 32 layers, and twice of it catches what a
threshold cannot.
"""

import dataclasses
from collections.abc import Mapping

from maxmig import errors
from maxmig.config import Config

# Largest relative L2 difference where no truth can be had. For bfloat16 about twice the error of a
# correct 32-layer decoder against float64 (1.5e-2 in logits, 3e-2 in its worst gradient), because
# both sides may err; the other types in proportion to their rounding.
_LIMITS: dict[str, dict[str, float]] = {
    "bfloat16": {
        "logits": 3e-2,
        "hidden": 3e-2,
        "loss": 1e-2,
        "gradients": 8e-2,
        "update": 1e-2,
        "metrics": 5e-2,
        "params": 1e-2,
        "moments": 1.6e-1,
    },
    "float16": {
        "logits": 4e-3,
        "hidden": 4e-3,
        "loss": 1e-3,
        "gradients": 1e-2,
        "update": 1e-3,
        "metrics": 6e-3,
        "params": 1e-3,
        "moments": 2e-2,
    },
    "float32": {
        "logits": 1e-5,
        "hidden": 1e-5,
        "loss": 1e-5,
        "gradients": 1e-4,
        "update": 1e-5,
        "metrics": 1e-4,
        "params": 1e-5,
        "moments": 2e-4,
    },
}
_COARSEST_FIRST = ("bfloat16", "float16", "float32")
# A unit in the last place of 1, halved: the relative error of one rounding.
_ROUNDOFF = {"bfloat16": 2.0**-9, "float16": 2.0**-12, "float32": 2.0**-24, "float64": 2.0**-53}
_SMALL, _TINY = 1000, 10
_DETECTABLE = 1e-4

FREE = ("metrics", "params", "moments")  # of free-running steps

AUTO, BITWISE, RATIO = "auto", "bitwise", "ratio"
NAMES = (AUTO, BITWISE, RATIO)


@dataclasses.dataclass(frozen=True)
class Policy:
    """What each check must keep.

    Attributes:
        name: `bitwise` or `ratio`.
        text: the policy and its reason, for a reader.
        limits: largest relative L2 difference by check, where the truth cannot be had; a check that
            is not named is bitwise.
        coarsest: the coarsest type that is computed in.
        detectable: the smallest effect that native comparisons must be able to see, if no proof and
            no float64 comparison vouches for the rest.
    """

    name: str
    text: str
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)
    coarsest: str = "float32"
    detectable: float = _DETECTABLE

    def limit(self, check: str) -> float | None:
        """The limit of a check; None asks for the same bits."""
        return self.limits.get(check)

    def rounding(self, check: str) -> float:
        """What another order of summation may change, relative L2, in the coarsest type."""
        return _LIMITS[self.coarsest][check]

    def factor(self, check: str, elements: int, *, free: bool = False) -> float:
        """How many times the control's error a candidate's array may have.

        The fewer the numbers, the more a ratio of two norms scatters by chance. After `free` steps,
        which go on from what the last one left, it is chance as well whose rounding first turned
        the sign of a tiny gradient (24 seeds of one rewrite: up to 3.4 times the control's error).
        """
        if elements <= _TINY or free:
            return 10.0
        return 3.0 if check not in ("logits", "hidden") and elements < _SMALL else 2.0

    @staticmethod
    def spared(check: str, elements: int) -> int:
        """How many numbers of an array may be off by any amount.

        Adam makes a whole step of the sign of a tiny gradient: without this, an equivalent rewrite
        is up to 6.5 times as far off as the control, and 1.7 times with it.
        """
        return min(8, elements // 16) if check == "params" else 0

    def floor(self, dtype: str, elements: int) -> float:
        """The least error that the control is granted, since it can be exact by luck.

        A few numbers are means or sums of many, whose errors partly cancel: a sixteenth of the
        rounding of the type that was computed in.
        """
        own = _ROUNDOFF.get(dtype, _ROUNDOFF["float64"])
        return max(own, _ROUNDOFF[self.coarsest] / 16) if elements <= _TINY else own


def choose(cfg: Config, platform: str, name: str = AUTO, *, rewritten: bool = False) -> Policy:
    """The policy for a configuration on a platform such as `cpu`.

    Args:
        cfg: the configuration.
        platform: of the devices.
        name: `bitwise`, `ratio`, or `auto`: bitwise for float32 on the CPU, where it can be had.
        rewritten: the sides write the same thing in other words, which no compiler gives the same
            bits: `auto` does not ask for them then.

    Raises:
        ConfigError: there is no such policy.
    """
    if name not in NAMES:
        raise errors.ConfigError(f"policy {name!r}: expected one of {', '.join(NAMES)}")
    used = set(dtypes(cfg).values())
    coarsest = next((d for d in _COARSEST_FIRST if d in used), "bfloat16")
    alike = used == {"float32"} and platform == "cpu"
    if name == BITWISE or (name == AUTO and alike and not rewritten):
        text = (
            "float32 on the CPU: every number must be exactly equal, bit for bit"
            if alike
            else f"{coarsest} on {platform}: every number must be exactly equal, as was asked for"
        )
        return Policy(BITWISE, text, coarsest=coarsest)
    text = (
        f"{coarsest} on {platform}: bit for bit, or else the candidate's error against float64 is "
        "at most 2 times the control's (3 below 1,000 numbers, 10 for up to 10 and after free "
        "steps), plus twice the noise of the control; weights at the start, settings and counters "
        "exactly equal"
    )
    if rewritten and alike:
        text = f"written in other words, but the same in float64 (L1), so: {text}"
    return Policy(RATIO, text, _LIMITS[coarsest], coarsest)


def dtypes(cfg: Config) -> dict[str, str]:
    """The types that decide the precision."""
    n = cfg.numerics
    return {
        "dtype": n.dtype,
        "weight_dtype": n.weight_dtype,
        "grad_dtype": n.grad_dtype,
        "mu_dtype": cfg.moment_dtype,
    }
