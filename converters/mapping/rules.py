"""The operations of a mapping, as data: what a mapping file says, each with its inverse.

Paths are *model paths*, such as `decoder/layers_0/mlp/wo/kernel`: what is said of a parameter holds
for whatever follows it (moments, averages) and for the collections that have the same path. An
exact path means the leaf or the whole subtree; a regular expression must match a leaf's whole path.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from maxmig import errors
from maxmig.converters import names
from maxmig.converters.mapping.traced import Leaves


@dataclass(frozen=True)
class Where:
    """Which leaves are meant: an exact leaf or subtree (all, if empty), or a regular expression;
    in all collections and in what follows the parameters, or in one collection.
    """

    path: str
    regex: bool = False
    collection: str | None = None

    def rest(self, owner: str) -> str | None:
        """What follows the path in a leaf's path; None if it is not meant."""
        if self.regex:
            return "" if re.fullmatch(self.path, owner) else None
        if owner == self.path:
            return ""
        if not self.path:
            return owner
        return owner[len(self.path) :] if owner.startswith(self.path + "/") else None

    def within(self, section: str) -> bool:
        """Whether leaves of a section are meant: a collection, or `params` with what follows it."""
        return self.collection in (None, section)

    def data(self) -> Any:
        """As in a mapping file."""
        if self.collection is None:
            return {"regex": self.path} if self.regex else self.path
        path = {"regex" if self.regex else "path": self.path} if self.path else {}
        return {"collection": self.collection, **path}

    def __str__(self) -> str:
        told = f"/{self.path}/" if self.regex else self.path
        return told if self.collection is None else f"{self.collection}:{told}"


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
            return Rename(Where(self.to, collection=self.where.collection), self.where.path)
        return _inverse_regex(self)

    def data(self) -> dict[str, Any]:
        """As in a mapping file."""
        return {"rename": self.where.data(), "to": self.to}


@dataclass(frozen=True)
class Stack:
    """`X_{}` with the numbers 0 to n-1 becomes one `X`, with a layer axis for all that is in it.

    `X_{:02}` are numbers of at least two digits: `X_00`, `X_01`.
    """

    at: str
    to: str
    axis: int = 0

    @property
    def members(self) -> re.Pattern[str]:
        """What matches the paths in one layer; the groups are its number and the rest."""
        return _members(self.at, NUMBER.search(self.at))

    def completed(self, owners: Iterable[str]) -> "Stack":
        """The rule with the digits that the numbers have, if they are filled with zeros."""
        place = NUMBER.search(self.at)
        if place is None or place[1]:
            return self
        begin, end = map(re.escape, (self.at[: place.start()], self.at[place.end() :]))
        pattern = re.compile(rf"{begin}(\d+){end}(?:/.*)?")
        found = {match[1] for match in map(pattern.fullmatch, owners) if match}
        width = min(map(len, found), default=0)
        if not any(len(text) > 1 and text[0] == "0" for text in found):
            return self
        if any(f"{int(text):0{width}}" != text for text in found):
            return self
        padded = f"{self.at[: place.start()]}{{:0{width}}}{self.at[place.end() :]}"
        return Stack(padded, self.to, self.axis)

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
    """`X_0`, `X_1` are written as a list, `X/0`, in an NNX tree; or (`unlist`) by these names."""

    where: Where
    listed: bool = True

    def inverse(self) -> None:
        """Not needed: names are the same with and without lists."""
        return

    def data(self) -> dict[str, Any]:
        return {"list" if self.listed else "unlist": self.where.data()}


@dataclass(frozen=True)
class Random:
    """The result has random state at this path: a key derived from (seed, path, step), a count 0.

    `shape` is that of a stack of layers; `impl` a kind of typed key, or `raw` for plain words. The
    path may be spelt as NNX's tree has it: `blocks/0/rngs` is `blocks_0/rngs`, of a list.
    """

    at: str
    impl: str = "threefry2x32"
    shape: tuple[int, ...] = ()

    def owner(self, lists: set[str] | None = None) -> str:
        """Its canonical path; adds the containers that are lists."""
        return names.canonical(tuple(map(names.unescape, self.at.split("/"))), lists)

    def inverse(self) -> Drop:
        return Drop(Where(self.owner()), "random state: derived again when it is needed")

    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = {"random": self.at, "impl": self.impl}
        return found | ({"shape": list(self.shape)} if self.shape else {})


@dataclass(frozen=True)
class Keys:
    """Random keys of a kind out of their raw uint32 words, or (`raw`) the other way round."""

    where: Where
    impl: str
    raw: bool = False

    def inverse(self) -> "Keys":
        return Keys(self.where, self.impl, not self.raw)

    def data(self) -> dict[str, Any]:
        told = {"keys": self.where.data(), "impl": self.impl}
        return told | ({"to": "raw"} if self.raw else {})


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
    | Keys
    | Leaves
)


def invert(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The rules that lead back, in their order; `Drop` and `Listed` have none."""
    back = [rule.inverse() for rule in reversed(rules)]
    return tuple(rule for rule in back if rule is not None)


NUMBER = re.compile(r"\{(?::0([1-9]))?\}")


def _members(text: str, place: re.Match[str] | None) -> re.Pattern[str]:
    assert place is not None
    digits = rf"0*\d{{{place[1]},}}" if place[1] else r"0|[1-9]\d*"
    begin, end = map(re.escape, (text[: place.start()], text[place.end() :]))
    return re.compile(rf"{begin}({digits}){end}((?:/.*)?)")


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
    return Rename(Where(back, True, rule.where.collection), to)
