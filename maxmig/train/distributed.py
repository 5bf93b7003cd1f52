"""Several processes as one run, joined when the environment names their coordinator."""

import contextlib
import os
import sys
from collections.abc import Iterator

from maxmig import errors

_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def start() -> bool:
    """Joins this process with the others; must come before anything asks JAX for its devices.

    The address (host:port) of process 0, the number of processes and this one's index, from 0, are
    taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Returns:
        Whether there are others: False when none of the variables is set.

    Raises:
        ConfigError: only some of the variables are set, or one makes no sense.
        PreflightError: the processes did not find each other.
    """
    given = {name: os.environ.get(name, "") for name in (_ADDRESS, _COUNT, _INDEX)}
    if not any(given.values()):
        return False
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise errors.ConfigError(
            f"{', '.join(n for n in given if n not in missing)} is set and {', '.join(missing)} is "
            "not: set all three for a run of several processes, or none"
        )
    count, index = _whole(_COUNT, given[_COUNT]), _whole(_INDEX, given[_INDEX])
    if index >= count:
        raise errors.ConfigError(
            f"{_INDEX}: expected 0 to {count - 1} ({_COUNT}={count}), got {index}"
        )
    host, colon, port = given[_ADDRESS].rpartition(":")
    if not (host and colon and port.isdigit()):
        raise errors.ConfigError(f"{_ADDRESS}: expected host:port, got {given[_ADDRESS]!r}")
    import jax

    if jax.distributed.is_initialized():
        return True
    try:
        jax.distributed.initialize(given[_ADDRESS], count, index)
        with _stdout_to_stderr():
            meet()
    except RuntimeError as error:
        raise errors.PreflightError(
            f"process {index} of {count} could not join the others at {given[_ADDRESS]}: {error}"
        ) from error
    return True


def meet() -> None:
    """Waits until all processes have come here."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices("maxmig")


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Keeps what a library prints below Python, as Gloo does when it connects, out of results."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def stop() -> None:
    """Parts from the others, once all have come here."""
    import jax

    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def first() -> bool:
    """Whether this process speaks for the run."""
    import jax

    return jax.process_index() == 0


def agree(asked: bool, *, now: bool) -> bool:
    """Whether any process asks for something, known to all of them.

    Args:
        asked: what this process asks.
        now: whether several processes talk at this moment, which makes them wait for each other; a
            process that is alone always knows.
    """
    import jax

    if jax.process_count() == 1:
        return asked
    if not now:
        return False
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(asked))))


def _whole(name: str, text: str) -> int:
    if not text.isdigit():
        raise errors.ConfigError(f"{name}: expected a whole number, got {text!r}")
    return int(text)
