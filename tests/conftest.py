"""What every test run shares: eight simulated devices, fast compilation, the compilation cache.

JAX reads these settings when it is imported, so they are made here, before any test module.
"""

import gc
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
NUM_DEVICES = 8

_FLAGS = [f"--xla_force_host_platform_device_count={NUM_DEVICES}"]
# The older emitters compile in half the time. In one piece and without fused multiply-add, what
# they compute does not hang on what is compiled together, so that equal programs stay equal to the
# last bit. Later versions have other flags, and XLA ends the process at one that it does not know.
# MAXMIG_XLA_DEFAULTS=1 tests with what users have, and takes twice as long.
if (
    metadata.version("jaxlib").startswith("0.10.")
    and platform.machine() in ("x86_64", "AMD64")
    and not os.environ.get("MAXMIG_XLA_DEFAULTS")
):
    _FLAGS += [
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_max_isa=AVX",
    ]
os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")]).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
# Tracing makes many small objects, most of which are kept: looking through them often is in vain.
gc.set_threshold(50_000, 20, 20)
# Compiling is nearly all that these tests do. Both sides of an exact comparison are compiled alike,
# so exactness can be tested with this as well.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")
# A test of the terminal sets what it needs; the terminal of whoever runs the tests has no say.
for _name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "MAXMIG_DEBUG"):
    os.environ.pop(_name, None)


# The same examples in every run, so that a change is judged by itself; MAXMIG_SEARCH=1: others.
hypothesis.settings.register_profile("same", derandomize=True)
if not os.environ.get("MAXMIG_SEARCH"):
    hypothesis.settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what takes minutes, unless MAXMIG_SLOW is set."""
    if os.environ.get("MAXMIG_SLOW"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: MAXMIG_SLOW=1 runs it"))


@pytest.fixture(autouse=True)
def _strict_core(request: pytest.FixtureRequest) -> Iterator[None]:
    """The tests of core/ run with strict dtype promotion, and rank promotion is an error.

    Flax and optax promote here and there, so the other tests cannot.
    """
    if (ROOT / "tests" / "core") not in request.path.parents:
        yield
        return
    import jax

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs() -> Iterator[None]:
    """Frees what a module's tests have compiled: gigabytes, over a whole run."""
    yield
    if "jax" in sys.modules:
        if "helpers" in sys.modules:
            sys.modules["helpers"].runtime.cache_clear()
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return ROOT


@pytest.fixture(params=["linen", "nnx"])
def wing(request: pytest.FixtureRequest) -> Any:
    """Each of the two wings, as its rung (`maxmig.config.flags.Stage`)."""
    from maxmig.config.flags import Stage

    return Stage(request.param)


@pytest.fixture(params=["linen", "bridged-decoder", "bridged", "hybrid", "nnx"])
def stage(request: pytest.FixtureRequest) -> Any:
    """Each of the five rungs."""
    from maxmig.config.flags import Stage

    return Stage(request.param)
