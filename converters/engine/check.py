"""Looks at what was written before it is put in place."""

import dataclasses
from typing import Any

from maxmig import errors
from maxmig.converters.engine import flat, reference, routes
from maxmig.converters.engine.options import MIB
from maxmig.converters.engine.plan import Plan
from maxmig.converters.engine.recording import SMALL, Recording
from maxmig.converters.engine.target import Target, Written
from maxmig.converters.leaves import Hole, Leaf, spell
from maxmig.converters.storage import orbax

_SAMPLE = 8 * MIB  # bytes by reference that are decoded all the same
_EVERY = 16  # one piece of so many is looked at in a sample


@dataclasses.dataclass(frozen=True)
class Checked:
    """What verification looked at.

    Attributes:
        moved: arrays whose bits were compared as they were written.
        shared: arrays whose every reference is known to be the source's.
        decoded: bytes by reference that were decoded as well.
    """

    moved: int = 0
    shared: int = 0
    decoded: int = 0

    def __str__(self) -> str:
        from maxmig.converters import accounting

        told = []
        if self.moved:
            told.append(f"{self.moved} arrays read back bit for bit")
        if self.shared:
            told.append(
                f"{self.shared} by reference to the source's own bytes "
                f"({accounting.size(self.decoded)} of them decoded)"
            )
        return ", ".join(told) or "nothing was verified"


def wanted(verify: str, number: int) -> bool:
    """Whether a piece is read back."""
    return verify in ("full", "deep") or (verify == "sample" and number % _EVERY == 0)


def same(write: tuple[str, Any, Any, Any], written: "Written | flat.Written", where: str) -> None:
    """Compares the bits of what was written with those that are read back.

    Raises:
        CheckpointError: they differ.
    """
    name, _, box, data = write
    if not written.holds(data):
        raise errors.CheckpointError(
            f"{name}: box {list(box)} of the result reads otherwise than it was written (from "
            f"{where}): the disk or the memory is faulty; nothing was put in place"
        )


def check(todo: Plan, target: Target, shared: dict[str, str], recording: Recording) -> Checked:
    """Reads the result's tree as a user would, and looks at what is by reference.

    Raises:
        CheckpointError: something is not as planned.
    """
    made = target.seen
    conversion = todo.conversion
    planned: dict[Any, Leaf | Hole] = {**conversion.leaves, **conversion.holes}
    found = made.tree()
    wrong = [path for path in planned if found.get(path) != planned[path]]
    if wrong or len(found) != len(planned):
        path = wrong[0] if wrong else next(path for path in found if path not in planned)
        raise errors.ConvertError(
            f"{spell(path)}: planned as {planned.get(path)}, written as {found.get(path)}; "
            "nothing was put in place"
        )
    verify = todo.options.verify
    if verify == "none":
        return Checked()
    moved = len(todo.routes) - len(todo.of(routes.REFERENCE))
    source = conversion.storage
    decoded = 0
    if shared and isinstance(source, orbax.Orbax):
        for name in reference.same(source, target, shared):
            raise errors.CheckpointError(
                f"{name}: expected the very bytes of {shared[name]} in the source, found others; "
                "nothing was put in place"
            )
    everything = verify == "deep" or conversion.nbytes <= SMALL
    decoded = decode(made, todo, recording, None if everything else _SAMPLE)
    return Checked(moved, len(todo.of(routes.REFERENCE)), decoded)


def _blamed(
    todo: Plan, route: routes.Route, error: errors.CheckpointError
) -> errors.CheckpointError:
    """The error as the source gives it: the temporary name of the result helps nobody."""
    source = todo.conversion.storage
    for path in route.transfer.sources:
        try:
            for box in source.grid(path).boxes():
                source.read(path, box)
        except errors.CheckpointError as own:
            return own
    told = " ".join(str(error.__cause__ or error).split())[:200]
    return errors.CheckpointError(
        f"{spell(route.transfer.target)}: what was written cannot be read, though all of it can be "
        f"read in {source.url}: {told}; the disk or the memory is faulty, nothing was put in place"
    )


def decode(made: orbax.Orbax, todo: Plan, recording: Recording, limit: int | None) -> int:
    """Decodes what was shared or copied as it is: all of it, or a bounded part of every array.

    Raises:
        CheckpointError: names the leaf and the chunk that cannot be decoded.
    """
    kept = [route for route in todo.routes if route.kind != routes.STREAM]
    total = sum(route.transfer.leaf.nbytes for route in kept)
    everything = limit is None or total <= limit
    spent = 0
    for route in kept:
        path = route.transfer.target
        grid = made.grid(path)
        for number, box in enumerate(grid.boxes()):
            if not everything and (number or spent + grid.nbytes > (limit or 0)):
                break
            try:
                data = made.read(path, box)
            except errors.CheckpointError as error:
                raise _blamed(todo, route, error) from error
            recording.decoded(route, box, data)
            spent += min(grid.nbytes, route.transfer.leaf.nbytes)
    return spent
