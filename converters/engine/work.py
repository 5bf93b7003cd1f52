"""What conversions to local disks and to object stores do alike."""

from collections.abc import Callable, Iterable
from typing import Any

from maxmig import errors
from maxmig.converters.engine import check, plan, pool, tasks
from maxmig.converters.engine.plan import Plan
from maxmig.converters.engine.recording import Found, Recording
from maxmig.converters.engine.target import Target
from maxmig.converters.storage import orbax_tree

Progress = Callable[[int], None]


def checked(
    todo: Plan, target: Target, shared: dict[str, str], recording: Recording, sums: Iterable[Found]
) -> check.Checked:
    """Looks at the result, and writes the record of its checksums.

    Raises:
        CheckpointError: it is not what was planned, or not what was written.
    """
    for found in sums:
        recording.add(found)
    recording.carry()
    found_good = check.check(todo, target, shared, recording)
    recording.write(target.url)
    return found_good


def check_unchanged(source: Any, before: str) -> None:
    """Refuses a source whose files are no longer what they were.

    Raises:
        CheckpointError: they have changed.
    """
    if source.fingerprint() != before:
        raise errors.CheckpointError(
            f"{source.url}: the source was changed while it was read; nothing was put in place. "
            "Convert it when nobody writes to it"
        )


def described(todo: Plan, made: dict[Any, Any]) -> list[tuple[str, Any]]:
    """The stored form of every array of the result, by name."""
    arrays = [(route.name, route.array) for route in todo.routes]
    return arrays + [(orbax_tree.name_of(path), array) for path, array in made.items()]


def each(
    todo: Plan,
    items: Iterable[tuple[int, tasks.Task]],
    work: Callable[[tuple[int, tasks.Task]], None],
    progress: Progress,
    stop: pool.Stop,
) -> None:
    """Does the work for numbered pieces, as many at once as the plan allows.

    Raises:
        Stopped: the user asked for it; no piece is half-done.
    """
    workers = plan.workers(todo)

    def one(item: tuple[int, tasks.Task]) -> None:
        work(item)
        progress(item[1].payload)

    pool.each(
        items,
        one,
        threads=workers.threads,
        budget=pool.Budget(workers.memory),
        size=lambda item: workers.taken(item[1]),
        stop=stop,
    )


def stopped(finished: int, total: int) -> str:
    """What a user is told who has stopped a conversion."""
    return (
        f"interrupted: {finished} of {total} pieces are done and kept. "
        "Go on with the same command and --resume"
    )
