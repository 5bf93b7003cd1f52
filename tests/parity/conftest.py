"""Tiny configurations, and `compare`: a parity run on one device."""

import functools
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """`tiny("llama2", key=value)`: a configuration that compiles fast."""
    from maxmig import config

    @functools.cache
    def load(family: str) -> Any:
        return config.load(f"tiny_{family}", [])

    def make(family: str = "llama2", **changes: Any) -> Any:
        return load(family).replace(**{"max_target_length": 16, "remat_policy": "none"} | changes)

    return make


@pytest.fixture(scope="session")
def compare() -> Callable[..., Any]:
    """`maxmig.parity.run` at L2 on one device; three steps, the first has learning rate 0."""
    import jax

    from maxmig import parity

    return functools.partial(parity.run, steps=3, levels=("L2",), devices=jax.devices()[:1])
