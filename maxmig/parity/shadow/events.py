"""What a walk through a program gives: its equations one by one, and what is known of values."""

import dataclasses
from collections.abc import Generator
from typing import Any

from maxmig.parity.static import source

Values = list[Any]
Fed = frozenset[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One equation of one layer, or of one turn of a loop.

    Attributes:
        eqn: the equation.
        path: the module, by the name stack, the layer's number in it; empty where none is told.
        calls: the calls and loops around it.
        params: names of the parameters among its operands, the layer's number in them.
        constants: the numbers among its operands.
        fed: indices of the events whose results, maybe rearranged, are its operands.
        outs: its results; None without values.
        turns: the while loops and branches around it that were looked into.
    """

    eqn: Any
    path: str
    calls: tuple[Any, ...]
    params: tuple[str, ...]
    constants: tuple[Any, ...]
    fed: Fed
    outs: Values | None
    turns: tuple["Turn", ...] = ()

    @property
    def within(self) -> str:
        """The branches and the turns of loops that it is in, innermost first, in words."""
        return ", ".join(f"in {turn}" for turn in reversed(self.turns))

    @property
    def loops(self) -> tuple[int, ...]:
        """The turn of each loop around it."""
        return tuple(t.number for t in self.turns if t.eqn.primitive.name == "while")

    @property
    def decides(self) -> bool:
        """Whether it belongs to what decides if a loop goes on."""
        return bool(self.turns) and self.turns[-1].decides


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """Inside of a while loop or a branch.

    Attributes:
        eqn: the loop, or the choice between branches.
        calls: what is around it.
        number: of the turn, from 1; of the branch, from 0.
        decides: in the condition of the loop.
    """

    eqn: Any
    calls: tuple[Any, ...]
    number: int
    decides: bool = False

    def __str__(self) -> str:
        line, _ = source.place(self.eqn, self.calls)
        at = f" at {line}" if line else ""
        if self.eqn.primitive.name == "cond":
            return f"branch {self.number} of the choice{at}"
        what = "the condition before turn" if self.decides else "turn"
        return f"{what} {self.number} of the loop{at}"


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What is known of a value without its numbers.

    Attributes:
        param: the parameter that it is, maybe rearranged.
        fed: indices of the events that it comes from.
        constant: the number that it is, maybe broadcast.
    """

    param: str = ""
    fed: Fed = frozenset()
    constant: Any = None

    def after(self, fed: Fed) -> "Known":
        """The same value where other events decided that it is this one."""
        return dataclasses.replace(self, fed=self.fed | fed)


UNKNOWN = Known()
Steps = Generator[Event, Values | None, tuple[Values | None, list[Known]]]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a walk is.

    Attributes:
        stack: the name stack.
        calls: the calls and loops around.
        layers: the stacks of layers that are being unrolled, each with the layer's number.
        turns: the while loops and branches that are looked into.
        silent: whether equations are no events here.
    """

    stack: str = ""
    calls: tuple[Any, ...] = ()
    layers: tuple[tuple[str, int], ...] = ()
    turns: tuple[Turn, ...] = ()
    silent: bool = False

    def into(self, eqn: Any) -> "Place":
        """Inside of a call, a loop or a branch."""
        inner = "/".join(s for s in (self.stack, source.stack(eqn)) if s)
        return dataclasses.replace(self, stack=inner, calls=(*self.calls, eqn))

    def turn(self, eqn: Any, number: int, decides: bool = False) -> "Place":
        """Inside of one turn of a loop, or of a branch."""
        inside = self.into(eqn)
        turns = (*self.turns, Turn(eqn, self.calls, number, decides))
        return dataclasses.replace(inside, turns=turns)

    def numbered(self, path: str) -> str:
        """The path with the layers' numbers in it."""
        for prefix, i in self.layers:
            if path == prefix or path.startswith(f"{prefix}/"):
                path = f"{prefix}_{i}{path[len(prefix) :]}"
        return path
