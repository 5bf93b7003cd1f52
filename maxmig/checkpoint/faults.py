"""Failed saves: told as one typed error that says what stays good."""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from maxmig import errors

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the limit of file sizes is reached",
}
_FULL_TEXTS = {
    "no space left": errno.ENOSPC,
    "quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
}


@contextlib.contextmanager
def writing(
    directory: Path, latest: Callable[[], int | None], abandon: Callable[[], None]
) -> Iterator[None]:
    """Turns whatever goes wrong in a save into a `CheckpointError`.

    Args:
        directory: where the checkpoints are.
        latest: tells the last complete step.
        abandon: drops the writer, whose state cannot be trusted any more.
    """
    try:
        yield
    except errors.MaxmigError:
        raise
    except Exception as error:
        abandon()
        good = latest()
        kept = (
            f"the last good checkpoint is step {good}, untouched"
            if good is not None
            else "there is no earlier checkpoint"
        )
        raise errors.CheckpointError(
            f"{directory}: the save failed: {_reason(error)}; {kept}"
        ) from error


def close(manager: Any) -> None:
    """Closes a manager whose save failed; its own complaints are known already."""
    if manager is not None:
        with contextlib.suppress(Exception):
            manager.close()


def _reason(error: BaseException) -> str:
    for link in _chain(error):
        text = str(link).lower()
        code = getattr(link, "errno", None)
        for words, number in _FULL_TEXTS.items():
            if words in text:
                code = number
        if code in _FULL:
            return (
                f"{_FULL[code]}; free some space (or lower max_num_checkpoints_to_keep) and resume"
            )
        if isinstance(link, PermissionError):
            return f"no permission to write {link.filename}"
    told = " ".join(str(error).split())
    return f"{type(error).__name__}: {told[:300]}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def quiet_orbax() -> None:
    """Keeps Orbax's own account of a failed save, several tracebacks, out of the log.

    The failure reaches the caller as one `CheckpointError`, its cause attached.
    """
    logger = logging.getLogger("absl")
    if _not_orbax not in logger.filters and not os.environ.get("MAXMIG_DEBUG"):
        logger.addFilter(_not_orbax)


def _not_orbax(record: logging.LogRecord) -> bool:
    return not (record.exc_info and f"orbax{os.sep}checkpoint" in record.pathname)
