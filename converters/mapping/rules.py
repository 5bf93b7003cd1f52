"""The operations of a mapping, as data: what a mapping file says, each with its inverse.

Paths are *model paths*, such as `decoder/layers_0/mlp/wo/kernel`: what is said of a parameter holds
for whatever follows it (moments, averages) and for the collections that have the same path. An
exact path means the leaf or the whole subtree; a regular expression must match a leaf's whole path.
"""

import re
from dataclasses import dataclass
from typing import Any

from maxmig import errors
from maxmig.converters.mapping.traced import Leaves


@dataclass(frozen=True)
class Where:
    """Which leaves are meant: an exact leaf or subtree, or a regular expression."""

    path: str
    regex: bool = False

    def rest(self, owner: str) -> str | None:
        """What follows the path in a leaf's path; None if it is not meant."""
        if self.regex:
            return "" if re.fullmatch(self.path, owner) else None
        if owner == self.path:
            return ""
        return owner[len(self.path) :] if owner.startswith(self.path + "/") else None

    def data(self) -> Any:
        """As in a mapping file."""
        return {"regex": self.path} if self.regex else self.path

    def __str__(self) -> str:
        return f"/{self.path}/" if self.regex else self.path


@dataclass(frozen=True)
class Rename:
    """Leaves get another path; in a regular expression's `to`, `\\1` is the first group."""

    where: Where
    to: str

    def target(self, owner: str) -> str | None:
        """The new path of a leaf, None if it is not meant."""
        rest = self.where.rest(owner)
        if rest is None:
            return None
        if not self.where.regex:
            return self.to + rest
        match = re.fullmatch(self.where.path, owner)
        assert match is not None
        return match.expand(self.to)

    def inverse(self) -> "Rename":
        """The way back.

        Raises:
            ConvertError: the expression does not tell one.
        """
        if not self.where.regex:
            return Rename(Where(self.to), self.where.path)
        return _inverse_regex(self)

    def data(self) -> dict[str, Any]:
        """As in a mapping file."""
        return {"rename": self.where.data(), "to": self.to}


@dataclass(frozen=True)
class Stack:
    """`X_{}` with the numbers 0 to n-1 becomes one `X`, with a layer axis for all that is in it."""

    at: str
    to: str
    axis: int = 0

    def inverse(self) -> "Unstack":
        return Unstack(self.to, self.at, self.axis)

    def data(self) -> dict[str, Any]:
        return {"stack": self.at, "to": self.to, "axis": self.axis}


@dataclass(frozen=True)
class Unstack:
    """One `X` is taken apart along its layer axis into `X_{}`."""

    at: str
    to: str
    axis: int = 0

    def inverse(self) -> Stack:
        return Stack(self.to, self.at, self.axis)

    def data(self) -> dict[str, Any]:
        return {"unstack": self.at, "to": self.to, "axis": self.axis}


@dataclass(frozen=True)
class MoveAxis:
    """The layer axis of a stack goes to another place."""

    at: str
    source: int
    target: int

    def inverse(self) -> "MoveAxis":
        return MoveAxis(self.at, self.target, self.source)

    def data(self) -> dict[str, Any]:
        return {"move_axis": self.at, "from": self.source, "to": self.target}


@dataclass(frozen=True)
class Concat:
    """Leaves are joined along an axis; `sizes` is what each had there, for the way back."""

    sources: tuple[str, ...]
    to: str
    axis: int
    sizes: tuple[int, ...] | None = None

    def inverse(self) -> "Split":
        if self.sizes is None:
            raise errors.ConvertError(
                f"concat to {self.to}: its `sizes` are needed to invert it: the size of each "
                f"source along axis {self.axis}"
            )
        return Split(self.to, self.sources, self.axis, self.sizes)

    def data(self) -> dict[str, Any]:
        found = {"concat": list(self.sources), "to": self.to, "axis": self.axis}
        return found | ({} if self.sizes is None else {"sizes": list(self.sizes)})


@dataclass(frozen=True)
class Split:
    """A leaf is cut along an axis."""

    at: str
    to: tuple[str, ...]
    axis: int
    sizes: tuple[int, ...]

    def inverse(self) -> Concat:
        return Concat(self.to, self.at, self.axis, self.sizes)

    def data(self) -> dict[str, Any]:
        return {
            "split": self.at,
            "to": list(self.to),
            "axis": self.axis,
            "sizes": list(self.sizes),
        }


@dataclass(frozen=True)
class Transpose:
    """The axes of leaves change places, as `numpy.transpose` does it."""

    where: Where
    axes: tuple[int, ...]

    def inverse(self) -> "Transpose":
        back = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        return Transpose(self.where, tuple(back))

    def data(self) -> dict[str, Any]:
        return {"transpose": self.where.data(), "axes": list(self.axes)}


@dataclass(frozen=True)
class Drop:
    """Leaves are left out, with what follows them, for a reason."""

    where: Where
    reason: str

    def inverse(self) -> None:
        """There is none: what is left out is gone."""
        return

    def data(self) -> dict[str, Any]:
        return {"drop": self.where.data(), "reason": self.reason}


@dataclass(frozen=True)
class Collection:
    """Leaves go to another collection, such as from params to batch_stats."""

    where: Where
    source: str
    target: str

    def inverse(self) -> "Collection":
        return Collection(self.where, self.target, self.source)

    def data(self) -> dict[str, Any]:
        return {"collection": self.where.data(), "from": self.source, "to": self.target}


@dataclass(frozen=True)
class Layer:
    """A layer that the two frameworks lay out differently; the kinds are in `relayouts` and, of
    layers that wrap another one, in `normed`; `wraps` is where Linen keeps that.
    """

    at: str
    kind: str
    to: str  # linen or nnx
    wraps: str | None = None

    def inverse(self) -> "Layer":
        return Layer(self.at, self.kind, "linen" if self.to == "nnx" else "nnx", self.wraps)

    def data(self) -> dict[str, Any]:
        found = {"layer": self.at, "kind": self.kind, "to": self.to}
        return found | ({"wraps": self.wraps} if self.wraps is not None else {})


@dataclass(frozen=True)
class Listed:
    """`X_0`, `X_1` are written as a list, `X/0`, in an NNX tree."""

    where: Where

    def inverse(self) -> None:
        """Not needed: names are the same with and without lists."""
        return

    def data(self) -> dict[str, Any]:
        return {"list": self.where.data()}


@dataclass(frozen=True)
class Random:
    """The result has random state at this path: a key derived from (seed, path, step), a count 0.

    `shape` is that of a stack of layers; `impl` a kind of typed key, or `raw` for plain words.
    """

    at: str
    impl: str = "threefry2x32"
    shape: tuple[int, ...] = ()

    def inverse(self) -> Drop:
        return Drop(Where(self.at), "random state: derived again when it is needed")

    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = {"random": self.at, "impl": self.impl}
        return found | ({"shape": list(self.shape)} if self.shape else {})


Rule = (
    Rename
    | Stack
    | Unstack
    | MoveAxis
    | Concat
    | Split
    | Transpose
    | Drop
    | Collection
    | Layer
    | Listed
    | Random
    | Leaves
)


def invert(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules that lead back, in their order; `Drop` and `Listed` have none."""
    back = [rule.inverse() for rule in reversed(rules)]
    return tuple(rule for rule in back if rule is not None)


_GROUP = re.compile(r"\((?!\?)[^()]*\)")
_LITERAL = re.compile(r"(?:\\[^\w]|[\w /%-])*")


def _inverse_regex(rule: Rename) -> Rename:
    pattern, groups, last = rule.where.path, [], 0
    literals = []
    for found in _GROUP.finditer(pattern):
        literals.append(pattern[last : found.start()])
        groups.append(found[0])
        last = found.end()
    literals.append(pattern[last:])
    parts = re.split(r"\\(?:g<(\d+)>|(\d))", rule.to)
    text, used = parts[::3], [int(a or b) for a, b in zip(parts[1::3], parts[2::3], strict=True)]
    plain = all(_LITERAL.fullmatch(piece) for piece in literals)
    if not plain or sorted(used) != list(range(1, len(groups) + 1)):
        raise errors.ConvertError(
            f"rename {rule.where} to {rule.to}: this expression has no inverse: outside its groups "
            "there must be plain text only, and each group must be used exactly once"
        )
    back = re.escape(text[0]).replace(r"\-", "-")
    for number, following in zip(used, text[1:], strict=True):
        back += groups[number - 1] + re.escape(following)
    place = {number: at + 1 for at, number in enumerate(used)}
    to = re.sub(r"\\([^\w])", r"\1", literals[0])
    for number, following in enumerate(literals[1:], 1):
        to += f"\\g<{place[number]}>" + re.sub(r"\\([^\w])", r"\1", following)
    return Rename(Where(back, regex=True), to)
