"""Differences between stock Linen and NNX layers that are known, by name."""

import dataclasses
import re
from collections.abc import Sequence, Set

import flax

from maxmig.parity.findings.check import Check, Verdict

ATTENTION = (
    "attention-scaling: Linen divides the query by sqrt(depth), NNX multiplies it by 1/sqrt(depth) "
    "(or leaves it to jax.nn.dot_product_attention): equal up to rounding"
)
NORM = (
    "norm-promotion: since flax 0.12.1 NNX norms cast inputs, scale and statistics to dtype before "
    "they normalise, where Linen normalises in float32 and casts at the end (flax {version}); for "
    "Linen's numbers give the NNX layer promote_dtype=lambda xs, *args, **kwargs: xs"
)
ORDER = (
    "norm-order: Linen and NNX write the derivative of a normalisation in another order of the "
    "same operations: equal up to rounding"
)
GATES = (
    "fused-gates: an LSTM's or GRU's gates are one product of joined matrices in NNX, and in Linen "
    "joined in the call: equal up to rounding"
)
_OTHER_NUMBER = re.compile(r"constant (?!none)\S+ against (?!none)\S")
_COARSE = ("bfloat16", "float16")
_NORMS = {"LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm", "InstanceNorm"}
_ATTENTION_FILES = ("attention.py",)
_NORM_FILES = ("normalization.py",)


def explain(checks: Sequence[Check], kinds: Set[str]) -> tuple[list[Check], list[str]]:
    """The checks with the known differences told, and those differences as notes.

    Args:
        checks: of all levels.
        kinds: classes of layers that either side has, by the names of NNX.
    """
    notes: dict[str, None] = {}
    found = []
    for check in checks:
        names = _of(check, kinds)
        told = "; ".join(name.partition(":")[0] for name in names)
        if names:
            notes |= dict.fromkeys(f"known difference {name}" for name in names)
            check = dataclasses.replace(
                check, told="; ".join(part for part in (check.told, f"known: {told}") if part)
            )
        found.append(check)
    return found, list(notes)


def of_divergences(divergences: Sequence[object]) -> list[str]:
    """The known differences that account for where two programs part; empty if any is not known."""
    found: dict[str, None] = {}
    for divergence in divergences:
        name = _by_source(divergence)
        if not name:
            return []
        found[name] = None
    return list(found)


def _of(check: Check, kinds: Set[str]) -> list[str]:
    if check.verdict is Verdict.FAIL:
        return []
    divergences = _divergences(check)
    names = {name: None for d in divergences if (name := _by_source(d))}
    coarse = any(m.dtype in _COARSE and not m.exact for m in check.measurements)
    if coarse and kinds & _NORMS:
        names[NORM.format(version=flax.__version__)] = None
    return list(names)


def _divergences(check: Check) -> list[object]:
    details = check.details
    found = list(getattr(details, "divergences", ()))
    first = getattr(details, "first", None)
    if first is not None and hasattr(first, "divergence"):
        found.append(first.divergence)
    return found


def _by_source(divergence: object) -> str:
    if any(_OTHER_NUMBER.match(text) for text in getattr(divergence, "differences", ())):
        return ""  # an epsilon, a momentum: nothing of Flax's making
    lines = [
        getattr(getattr(divergence, side), "source", "") or ""
        for side in ("control", "candidate")
        if getattr(divergence, side, None) is not None
    ]
    files = [line.rpartition(":")[0].replace("\\", "/") for line in lines]
    flax_own = [
        f for f in files if "/flax/" in f or "/jax/" in f or f.startswith(("flax/", "jax/"))
    ]
    if not files or len(flax_own) < len(files):
        return ""
    if any(f.endswith(_ATTENTION_FILES) for f in files):
        return ATTENTION
    if any(f.endswith(_NORM_FILES) for f in files):
        sides = (getattr(divergence, side, None) for side in ("control", "candidate"))
        coarse = any(getattr(side, "dtype", "") in _COARSE for side in sides)
        return NORM.format(version=flax.__version__) if coarse else ORDER
    if any(f.endswith("recurrent.py") for f in files):
        return GATES
    return ""
