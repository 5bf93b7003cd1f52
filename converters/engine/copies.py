"""Copies whole files and compares each part while the next one is copied."""

import errno
import os
from concurrent import futures
from pathlib import Path

from maxmig import errors

_PART, _READ = 64 << 20, 256 << 10  # bytes that are compared as one piece of work, and read at once
_THREADS = 4
_ELSEWHERE = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def copy(source: Path, destination: Path, *, compare: bool) -> None:
    """Copies a file, which appears under its name when it is whole.

    Args:
        source: what is copied.
        destination: where to.
        compare: read both back, part by part, while the copying goes on.

    Raises:
        CheckpointError: what was written reads otherwise.
    """
    part = destination.with_name(f".{destination.name}.part")
    size = source.stat().st_size
    with source.open("rb", 0) as one, part.open("w+b", 0) as two:
        a, b = one.fileno(), two.fileno()
        with futures.ThreadPoolExecutor(1) as comparing:
            alike = []
            for start in range(0, size, _PART):
                stop = min(start + _PART, size)
                _copy_part(a, b, start, stop)
                if compare:
                    alike.append(comparing.submit(_same_part, a, b, start, stop))
            if not all(future.result() for future in alike):
                raise errors.CheckpointError(
                    f"{part}: reads otherwise than it was written (from {source}): the disk or "
                    "the memory is faulty; nothing was put in place"
                )
    part.rename(destination)


def identical(one: Path, two: Path) -> bool:
    """Whether two files are one, or (copies) hold the same bytes."""
    if one.samefile(two):
        return True
    size = one.stat().st_size
    if two.stat().st_size != size:
        return False
    with (
        one.open("rb", 0) as a,
        two.open("rb", 0) as b,
        futures.ThreadPoolExecutor(_THREADS) as threads,
    ):
        starts = range(0, size, _PART)
        return all(
            threads.map(
                lambda start: _same_part(a.fileno(), b.fileno(), start, min(start + _PART, size)),
                starts,
            )
        )


def _copy_part(source: int, destination: int, start: int, stop: int) -> None:
    at = start
    try:
        while at < stop:
            done = os.copy_file_range(source, destination, stop - at, at, at)
            if not done:
                break
            at += done
    except AttributeError:  # not on this system
        pass
    except OSError as error:
        if error.errno not in _ELSEWHERE:
            raise
    while at < stop:
        data = os.pread(source, min(_READ, stop - at), at)
        if not data:  # the source became shorter, which is found afterwards
            return
        at += os.pwrite(destination, data, at)


def _same_part(one: int, two: int, start: int, stop: int) -> bool:
    a, b = bytearray(_READ), bytearray(_READ)
    for at in range(start, stop, _READ):
        read = os.preadv(one, [a], at)
        if read != os.preadv(two, [b], at):
            return False
        if a[:read] != b[:read] if read < _READ else a != b:
            return False
    return True
