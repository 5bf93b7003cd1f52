"""Mappings leaf by leaf, as tracing a user's two modules finds them: `leaves: {target: source}`.

All of a table happens at once, so that two leaves may change places. `maxmig parity` writes such
files (`kind: maxmig.mapping`); they are mapping files for checkpoints too.
"""

import collections
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maxmig import errors
from maxmig.converters import names, ops
from maxmig.converters.mapping.state import Step, Tree
from maxmig.converters.transfers import Op

_FIELDS = {
    "same": set(),
    "transpose": {"axes"},
    "reshape": {"shape"},
    "concat": {"axis"},
    "stack": {"axis"},
    "take": {"axis", "index"},
    "slice": {"axis", "start", "stop"},
}


@dataclass(frozen=True)
class Entry:
    """One leaf and what it is made of, by paths such as `params/dense1/kernel`."""

    target: str
    sources: tuple[str, ...]
    op: str = "same"
    numbers: tuple[tuple[str, Any], ...] = ()

    def get(self, name: str) -> Any:
        """A number of the operation."""
        return dict(self.numbers)[name]

    def data(self) -> Any:
        """As in a file."""
        if self.op == "same":
            return self.sources[0]
        several = self.op in ("concat", "stack")
        told = {k: list(v) if isinstance(v, tuple) else v for k, v in self.numbers}
        return {"op": self.op, **told, "from": list(self.sources) if several else self.sources[0]}


@dataclass(frozen=True)
class Leaves:
    """A table of leaves; `shapes` are those of the sources, for the way back."""

    entries: tuple[Entry, ...]
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def inverse(self) -> "Leaves":
        """The table that leads back.

        Raises:
            ConvertError: it was not yet held against a checkpoint, so that sizes are not known.
        """
        shapes = dict(self.shapes)
        back: list[Entry] = []
        parts: dict[str, list[Entry]] = {}
        for entry in self.entries:
            if any(source not in shapes for source in entry.sources) and entry.op != "same":
                raise errors.ConvertError(
                    f"leaves: {entry.target}: the shape of {entry.sources[0]} is needed to invert "
                    "this table; invert the file that `maxmig ckpt map SRC --map FILE --out` writes"
                )
            if entry.op in ("take", "slice"):
                parts.setdefault(entry.sources[0], []).append(entry)
            else:
                back += _back(entry, shapes)
        for source, cut in parts.items():
            kind = "stack" if cut[0].op == "take" else "concat"
            place = "index" if cut[0].op == "take" else "start"
            ordered = tuple(e.target for e in sorted(cut, key=lambda e: int(e.get(place))))
            back.append(Entry(source, ordered, kind, (("axis", cut[0].get("axis")),)))
        return Leaves(tuple(back))

    def data(self) -> dict[str, Any]:
        """As in a mapping file."""
        found: dict[str, Any] = {"leaves": {entry.target: entry.data() for entry in self.entries}}
        if self.shapes:
            found["shapes"] = {path: list(shape) for path, shape in self.shapes}
        return found


def _back(entry: Entry, shapes: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    (target, sources) = (entry.target, entry.sources)
    match entry.op:
        case "same":
            return [Entry(sources[0], (target,))]
        case "transpose":
            axes = entry.get("axes")
            order = tuple(sorted(range(len(axes)), key=axes.__getitem__))
            return [Entry(sources[0], (target,), "transpose", (("axes", order),))]
        case "reshape":
            return [Entry(sources[0], (target,), "reshape", (("shape", shapes[sources[0]]),))]
        case "stack":
            axis = ("axis", entry.get("axis"))
            return [
                Entry(source, (target,), "take", (axis, ("index", index)))
                for index, source in enumerate(sources)
            ]
    axis = entry.get("axis")
    ends = [0, *itertools.accumulate(shapes[source][axis] for source in sources)]
    return [
        Entry(source, (target,), "slice", (("axis", axis), ("start", a), ("stop", b)))
        for source, (a, b) in zip(sources, itertools.pairwise(ends), strict=True)
    ]


def parse(leaves: Any, shapes: Any = None) -> Leaves:
    """A table from what a file holds.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(leaves, Mapping):
        raise ValueError(f"leaves: expected {{target: source}}, got {type(leaves).__name__}")
    entries = tuple(_entry(str(target), value) for target, value in leaves.items())
    _once(entries)
    sizes = tuple((str(path), tuple(shape)) for path, shape in (shapes or {}).items())
    return Leaves(entries, sizes)


def _once(entries: tuple[Entry, ...]) -> None:
    """A source is used once, or cut into parts; else there would be no way back."""
    users: dict[str, list[Entry]] = {}
    for entry in entries:
        for source in entry.sources:
            users.setdefault(source, []).append(entry)
    for source, used in users.items():
        if len(used) > 1 and any(entry.op not in ("take", "slice") for entry in used):
            raise ValueError(
                f"{source} is used twice, for {' and '.join(e.target for e in used[:2])}; a leaf "
                "goes to one place, or is cut into parts (take, slice)"
            )
    targets = collections.Counter(entry.target for entry in entries)
    if twice := [target for target, count in targets.items() if count > 1]:
        raise ValueError(f"{twice[0]} is there twice, in two spellings; one leaf has one line")


def _entry(target: str, value: Any) -> Entry:
    if isinstance(value, str):
        return Entry(_path(target), (_path(value),))
    if not isinstance(value, Mapping) or "from" not in value:
        raise ValueError(f"{target}: expected a leaf or {{op: ..., from: ...}}, got {value!r}")
    op = value.get("op", "same")
    given = value["from"]
    sources = (given,) if isinstance(given, str) else tuple(given)
    if op not in _FIELDS or set(value) - {"op", "from"} != _FIELDS[op]:
        raise ValueError(
            f"{target}: expected one of {', '.join(_FIELDS)} with its own numbers "
            f"({', '.join(sorted(_FIELDS.get(op, set()))) or 'none'}), got {dict(value)!r}"
        )
    numbers = tuple(
        (name, tuple(value[name]) if isinstance(value[name], list) else int(value[name]))
        for name in sorted(_FIELDS[op])
    )
    return Entry(_path(target), tuple(map(_path, sources)), op, numbers)


def _path(text: Any) -> str:
    if not isinstance(text, str) or "/" not in text:
        raise ValueError(f"expected collection/module/.../leaf, got {text!r}")
    return names.canonical(tuple(map(names.unescape, text.split("/"))))


def op_of(entry: Entry) -> Op:
    """How the target is made."""
    match entry.op:
        case "transpose":
            from maxmig.converters.mapping import steps

            return steps.permuted(entry.get("axes"))
        case "reshape":
            return ops.Reshape(entry.get("shape"))
        case "concat":
            return ops.Concat(entry.get("axis"))
        case "stack":
            return ops.Stack(entry.get("axis"))
        case "take":
            return ops.Take(entry.get("axis"), entry.get("index"))
        case "slice":
            return ops.Slice(entry.get("axis"), entry.get("start"), entry.get("stop"))
    return ops.Same()


def steps_of(table: Leaves, tree: Tree) -> tuple[list[Step], list[str]]:
    """All steps of a table on one tree."""
    section = tree.prefix if tree.kind == "other" else "params"
    problems: list[str] = []
    grouped: dict[tuple[str, ...], dict[str, Op]] = {}
    for entry in table.entries:
        here, target = entry.target.split("/", 1)
        if here != section:
            continue
        sources = tuple(path.split("/", 1)[1] for path in entry.sources)
        present = [s for s in sources if s in tree.leaves or s in tree.masked]
        if len(present) < len(sources) or any(not s.startswith(f"{here}/") for s in entry.sources):
            if tree.kind != "moments":
                problems.append(
                    f"{entry.target}: expected {', '.join(entry.sources)} in the source's {section}"
                )
            continue
        if entry.op != "same" and tree.kind == "moments":
            odd = [s for s in sources if s in tree.leaves and not tree.follows(s)]
            problems += [f"{tree.prefix}/{s}: has not its parameter's shape" for s in odd]
        grouped.setdefault(sources, {})[target] = op_of(entry)
    return [Step(sources, made, "table of leaves") for sources, made in grouped.items()], problems
