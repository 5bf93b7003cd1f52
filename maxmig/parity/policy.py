"""What counts as equal: the same bits where that can be had, else a stated tolerance."""

import dataclasses
from collections.abc import Mapping

from maxmig.config import Config

# Largest relative L2 difference. For bfloat16 about twice the error of a correct 32-layer decoder
# against float64 truth (1.5e-2 in logits, 3e-2 in its worst gradient), because both sides may err;
# the other types in proportion to their rounding, with room for another order of summation.
_LIMITS: dict[str, dict[str, float]] = {
    "bfloat16": {
        "logits": 3e-2,
        "loss": 1e-2,
        "gradients": 8e-2,
        "metrics": 5e-2,
        "params": 1e-2,
        "moments": 1.6e-1,
    },
    "float16": {
        "logits": 4e-3,
        "loss": 1e-3,
        "gradients": 1e-2,
        "metrics": 6e-3,
        "params": 1e-3,
        "moments": 2e-2,
    },
    "float32": {
        "logits": 1e-5,
        "loss": 1e-5,
        "gradients": 1e-4,
        "metrics": 1e-4,
        "params": 1e-5,
        "moments": 2e-4,
    },
}
_COARSEST_FIRST = ("bfloat16", "float16", "float32")


@dataclasses.dataclass(frozen=True)
class Policy:
    """What each check must keep.

    Attributes:
        name: `bitwise` or `relative-l2`.
        text: the policy and its reason, for a reader.
        limits: largest relative L2 difference by check; a check that is not named is bitwise.
    """

    name: str
    text: str
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def limit(self, check: str) -> float | None:
        """The limit of a check; None asks for the same bits."""
        return self.limits.get(check)


def choose(cfg: Config, platform: str) -> Policy:
    """The policy for a configuration on a platform such as `cpu`."""
    used = set(dtypes(cfg).values())
    coarsest = next((d for d in _COARSEST_FIRST if d in used), "bfloat16")
    if used == {"float32"} and platform == "cpu":
        return Policy(
            "bitwise", "float32 on the CPU: every number must be exactly equal, bit for bit"
        )
    limits = _LIMITS[coarsest]
    told = ", ".join(f"{check} {limit:g}" for check, limit in limits.items())
    advice = (
        "" if coarsest == "float32" else "; a small bug can hide below it: run dtype=float32 too"
    )
    return Policy(
        "relative-l2",
        f"{coarsest} on {platform}: relative L2 difference of each array at most {told}{advice}. "
        "Weights at the start, settings and counters must be exactly equal",
        limits,
    )


def dtypes(cfg: Config) -> dict[str, str]:
    """The types that decide the precision."""
    n = cfg.numerics
    return {
        "dtype": n.dtype,
        "weight_dtype": n.weight_dtype,
        "grad_dtype": n.grad_dtype,
        "mu_dtype": cfg.moment_dtype,
    }
