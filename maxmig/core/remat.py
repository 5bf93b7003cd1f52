"""Which intermediate results the backward pass keeps, and which it computes again."""

from collections.abc import Callable
from typing import Any

import jax

_QKV = ("query_proj", "key_proj", "value_proj", "qkv_proj")
_DOTS = (*_QKV, "out_proj")
_WI = ("mlpwi", "mlpwi_0", "mlpwi_1")

# What each policy keeps, by the names given with checkpoint_name.
SAVED: dict[str, tuple[str, ...]] = {
    "full": (),
    "minimal": (*_DOTS, *_WI, "mlpwo"),
    "minimal_with_context": (*_DOTS, *_WI, "mlpwo", "context"),
    "save_dot_with_context_except_mlp": (*_DOTS, "context"),
    "save_dot_except_mlpwi": (*_DOTS, "mlpwo"),
    "save_dot_except_mlp": _DOTS,
    "save_qkv_proj": _QKV,
    "save_out_proj": ("out_proj",),
}


def policy(name: str) -> Callable[..., Any] | None:
    """The jax.checkpoint policy called `name`; None, "none" alone, is no rematerialisation at all.

    Raises:
        ValueError: the name is unknown.
    """
    if name == "none":
        return None
    if name not in SAVED:
        raise ValueError(f"remat policy {name!r} is not one of none, {', '.join(SAVED)}")
    if not SAVED[name]:
        return jax.checkpoint_policies.nothing_saveable
    return jax.checkpoint_policies.save_only_these_names(*SAVED[name])
