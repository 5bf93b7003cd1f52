"""Works on several pieces at once, in threads, within a budget of memory."""

import ctypes
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

Item = TypeVar("Item")


# Parameters of glibc's mallopt, and what they are unless something sets them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_USUAL = {_TRIM_THRESHOLD: 128 << 10, _MMAP_THRESHOLD: 128 << 10, _MMAP_MAX: 1 << 16, _ARENA_MAX: 0}
_KEEP = {_TRIM_THRESHOLD: (1 << 31) - 1, _MMAP_MAX: 0, _ARENA_MAX: 1}
_RETURN = {_MMAP_THRESHOLD: 1 << 20}


@contextmanager
def heap(*, keep: bool) -> Iterator[None]:
    """Rules what the C library does with large blocks that are freed, where it is glibc.

    Args:
        keep: the next chunk gets them again. The kernel need not clear each page anew, which is a
            third of the time of a stream; it takes up to twice the memory that is in use. Else they
            go back at once: left alone, glibc keeps some of them in the heaps of many threads.
    """
    _mallopt(_KEEP if keep else _RETURN)
    try:
        yield
    finally:
        _mallopt(_USUAL)


def _mallopt(choices: dict[int, int]) -> None:
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for parameter, value in choices.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


class Stopped(Exception):
    """The user asked to stop; everything that had been begun is finished."""


class Stop:
    """Whether the user has asked to stop."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes Ctrl-C and SIGTERM as a request to stop after the pieces under way."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, lambda *_: self.asked.set())
            yield
        finally:
            for asked, handler in before.items():
                signal.signal(asked, handler)


class Budget:
    """Bytes of memory that are given out and come back."""

    def __init__(self, limit: int):
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def held(self, nbytes: int) -> Iterator[None]:
        """Waits until so much is free; one piece that is larger goes alone."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + nbytes <= self._limit)
            self._used += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._used -= nbytes
                self._changed.notify_all()


def each(
    items: Iterable[Item],
    work: Callable[[Item], None],
    *,
    threads: int,
    budget: Budget,
    size: Callable[[Item], int],
    stop: Stop,
) -> None:
    """Does the work for all items.

    Raises:
        Stopped: the user asked for it; no piece is half-done.
        Exception: of the first piece that failed; the others under way are finished.
    """

    def one(item: Item) -> None:
        with budget.held(size(item)):
            if not stop.asked.is_set():
                work(item)

    with futures.ThreadPoolExecutor(threads) as executor:
        running: set[futures.Future] = set()
        for item in items:
            if stop.asked.is_set():
                break
            while len(running) >= 2 * threads:
                finished, running = futures.wait(
                    running, timeout=0.2, return_when=futures.FIRST_COMPLETED
                )
                for future in finished:
                    future.result()
                if stop.asked.is_set():
                    break
            running.add(executor.submit(one, item))
        for future in running:
            future.result()
    if stop.asked.is_set():
        raise Stopped
