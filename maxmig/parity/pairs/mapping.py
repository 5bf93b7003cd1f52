"""The mapping between two trees of leaves: where each NNX leaf comes from, and the way back."""

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping as Dict
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from maxmig import errors

OPS = ("same", "transpose", "reshape", "concat", "stack", "take", "slice")
_PARTS = ("take", "slice")  # several targets share one source


@dataclasses.dataclass(frozen=True)
class Entry:
    """One leaf of the NNX side and what it is made of.

    Attributes:
        target: the NNX leaf, `collection/module/.../leaf`.
        sources: the Linen leaves.
        op: one of `OPS`.
        axis, index, stop: of concat, stack, take (index) and slice (index to stop).
        axes: of transpose.
        shape: of reshape: the target's.
        how: what the entry rests on: `name`, `order`, `shape`, `given`, or a rule's name.
    """

    target: str
    sources: tuple[str, ...]
    op: str = "same"
    axis: int = 0
    index: int = 0
    stop: int = 0
    axes: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    how: str = "given"

    def make(self, leaves: Dict[str, Any]) -> Any:
        """The target from the Linen leaves."""
        arrays = [leaves[path] for path in self.sources]
        match self.op:
            case "same":
                return arrays[0]
            case "transpose":
                return jnp.transpose(arrays[0], self.axes)
            case "reshape":
                return jnp.reshape(arrays[0], self.shape)
            case "concat":
                return jnp.concatenate(arrays, self.axis)
            case "stack":
                return jnp.stack(arrays, self.axis)
            case "take":
                return jnp.take(arrays[0], self.index, self.axis)
        return jnp.asarray(arrays[0])[(slice(None),) * self.axis + (slice(self.index, self.stop),)]

    def back(self, array: Any, sizes: Dict[str, tuple[int, ...]]) -> dict[str, Any]:
        """The Linen leaves from the target, for operations that take a source as a whole."""
        match self.op:
            case "same":
                return {self.sources[0]: array}
            case "transpose":
                order = [self.axes.index(i) for i in range(len(self.axes))]
                return {self.sources[0]: jnp.transpose(array, order)}
            case "reshape":
                return {self.sources[0]: jnp.reshape(array, sizes[self.sources[0]])}
            case "stack":
                return {path: jnp.take(array, i, self.axis) for i, path in enumerate(self.sources)}
        ends, end = [], 0
        for path in self.sources[:-1]:
            end += sizes[path][self.axis]
            ends.append(end)
        return dict(zip(self.sources, jnp.split(array, ends, self.axis), strict=True))

    def __str__(self) -> str:
        source = " + ".join(self.sources)
        told = {
            "same": "",
            "transpose": f" transposed {list(self.axes)}",
            "reshape": f" reshaped to {list(self.shape)}",
            "concat": f" joined along axis {self.axis}",
            "stack": f" stacked along axis {self.axis}",
            "take": f" [{self.index}] of axis {self.axis}",
            "slice": f" [{self.index}:{self.stop}] of axis {self.axis}",
        }[self.op]
        return f"{self.target} <- {source}{told}"


@dataclasses.dataclass(frozen=True)
class Mapping:
    """Where every leaf of both sides goes to or comes from.

    Attributes:
        entries: by NNX leaf.
        dropped: Linen leaves without a home in NNX -> why.
        extra: NNX leaves without a source -> why.
        ambiguous: groups of layers that only their order, or their names, told apart.
    """

    entries: tuple[Entry, ...]
    dropped: Dict[str, str] = dataclasses.field(default_factory=dict)
    extra: Dict[str, str] = dataclasses.field(default_factory=dict)
    ambiguous: tuple["Group", ...] = ()

    @property
    def bijective(self) -> bool:
        """Whether every leaf of both sides has exactly one counterpart."""
        return not (self.dropped or self.extra)

    def forward(self, leaves: Dict[str, Any]) -> dict[str, Any]:
        """NNX leaves from Linen leaves."""
        return {entry.target: entry.make(leaves) for entry in self.entries}

    def backward(self, leaves: Dict[str, Any], sizes: Dict[str, tuple[int, ...]]) -> dict[str, Any]:
        """Linen leaves from NNX leaves.

        A leaf of the NNX side that is not among `leaves` leaves its sources out.

        Args:
            leaves: NNX leaves, or gradients of them.
            sizes: shapes of the Linen leaves.
        """
        found: dict[str, Any] = {}
        parts: dict[str, list[Entry]] = {}
        for entry in self.entries:
            if entry.target not in leaves:
                continue
            if entry.op in _PARTS:
                parts.setdefault(entry.sources[0], []).append(entry)
                continue
            for path, array in entry.back(leaves[entry.target], sizes).items():
                # A second use of one leaf is an output of its own, which the control has not.
                found[f"{path}@{entry.target}" if path in found else path] = array
        for path, entries in parts.items():
            join = jnp.stack if entries[0].op == "take" else jnp.concatenate
            ordered = sorted(entries, key=lambda e: e.index)
            found[path] = join([leaves[e.target] for e in ordered], axis=entries[0].axis)
        return found

    def name_of(self, target: str) -> str:
        """A Linen leaf that an NNX leaf comes from; the NNX leaf itself if there is none."""
        return next((e.sources[0] for e in self.entries if e.target == target), target)

    def document(self) -> dict[str, Any]:
        """The mapping as plain types, in the order of the file."""
        return {
            "schema_version": 1,
            "kind": "maxmig.mapping",
            "leaves": {entry.target: _document(entry) for entry in self.entries},
            "dropped": dict(self.dropped),
        }

    def write(self, path: str | Path) -> Path:
        """Writes the mapping to a YAML file that can be edited and read again.

        Raises:
            DataError: it cannot be written.
        """
        import yaml

        path = Path(path)
        head = "# NNX leaf: the Linen leaf that it comes from. Edit it and give it to --mapping.\n"
        text = yaml.safe_dump(self.document(), sort_keys=False, width=100)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(head + text, encoding="utf-8")
        except OSError as error:
            raise errors.DataError(f"{path}: expected to write the mapping: {error}") from error
        return path


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers of one class and shape: trees alone cannot tell which is which.

    Attributes:
        kind: their class.
        linen, nnx: their paths; the i-th of the one is mapped to the i-th of the other.
        how: `name` if both sides call them alike, else `order` of the calls, or `permuted`.
    """

    kind: str
    linen: tuple[str, ...]
    nnx: tuple[str, ...]
    how: str

    def __str__(self) -> str:
        both = zip(self.linen, self.nnx, strict=True)
        pairs = ", ".join(f"{a or '.'} -> {b or '.'}" for a, b in both)
        told = {
            "name": "told apart by their names",
            "order": "told apart by the order of their calls",
            "permuted": "neither names nor order fit; this permutation does",
        }
        return f"{len(self.linen)} x {self.kind} of one shape, {told[self.how]}: {pairs}"


def read(path: str | Path) -> Mapping:
    """Reads a mapping file.

    Raises:
        DataError: there is none, or it is no mapping.
    """
    import yaml

    path = Path(path)
    try:
        return of_document(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        raise errors.DataError(
            f"{path}: no such mapping file; `maxmig parity run --pair ... --save-mapping FILE` "
            "writes one"
        ) from None
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise errors.DataError(f"{path}: expected a mapping (YAML), but: {told}") from error


def of_document(found: Any, path: str) -> Mapping:
    """The reverse of `Mapping.document`.

    Args:
        found: what was read.
        path: begins each message.

    Raises:
        DataError: it is no mapping.
    """
    if not isinstance(found, dict) or not isinstance(found.get("leaves"), dict):
        raise errors.DataError(
            f"{path}: expected `leaves:` with one line for each NNX leaf, as in "
            "params/dense1/kernel: params/Dense_0/kernel"
        )
    if found.get("schema_version", 1) != 1:
        raise errors.DataError(f"{path}: expected schema_version 1, got {found['schema_version']}")
    if unknown := sorted(found.keys() - {"schema_version", "kind", "leaves", "dropped"}):
        raise errors.DataError(f"{path}: unknown keys: {', '.join(map(str, unknown))}")
    dropped = found.get("dropped") or {}
    if not isinstance(dropped, dict):
        raise errors.DataError(f"{path}: dropped: expected `leaf: why` lines")
    entries = tuple(_entry(f"{path}: {t}", str(t), v) for t, v in found["leaves"].items())
    return Mapping(entries, {str(k): str(v) for k, v in dropped.items()})


def of(value: Any) -> Mapping:
    """A mapping from what a pair may hold: one, a file's path, or a dict of leaves.

    Raises:
        ConfigError, DataError: it is none of these, or not valid.
    """
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str | Path):
        return read(value)
    if isinstance(value, dict):
        return Mapping(tuple(_entry(f"mapping: {t}", str(t), v) for t, v in value.items()))
    raise errors.ConfigError(
        "mapping: expected a file's path, a dict NNX leaf -> Linen leaf, or a Mapping, got "
        f"{type(value).__name__}"
    )


def check(
    mapping: Mapping, sources: Dict[str, Any], targets: Dict[str, Any], where: str
) -> Mapping:
    """The mapping with all leaves that it does not name among `dropped` and `extra`.

    Args:
        mapping: as read.
        sources, targets: the leaves of both sides, with shapes.
        where: begins each message.

    Raises:
        DataError: a leaf is not there, or its shape does not fit.
    """
    entries = []
    for entry in mapping.entries:
        for path in entry.sources:
            _known(path, sources, f"{where}: {entry.target}", "Linen")
        _known(entry.target, targets, where, "NNX")
        shape = _shape(entry, sources, where)
        if shape != tuple(targets[entry.target].shape):
            raise errors.DataError(
                f"{where}: {entry}: expected shape {list(targets[entry.target].shape)}, got "
                f"{list(shape)}"
            )
        entries.append(entry)
    used = {path for entry in entries for path in entry.sources}
    made = {entry.target for entry in entries}
    for path in mapping.dropped:
        _known(path, sources, f"{where}: dropped", "Linen")
    why = f"not in {where}"
    dropped = {p: mapping.dropped.get(p, why) for p in sources if p not in used}
    extra = {p: mapping.extra.get(p, why) for p in targets if p not in made}
    return dataclasses.replace(mapping, entries=tuple(entries), dropped=dropped, extra=extra)


def _shape(entry: Entry, sources: Dict[str, Any], where: str) -> tuple[int, ...]:
    import jax

    arrays = {p: jax.ShapeDtypeStruct(sources[p].shape, sources[p].dtype) for p in entry.sources}
    try:
        return tuple(jax.eval_shape(entry.make, arrays).shape)
    except (TypeError, ValueError, IndexError) as error:
        shapes = [list(leaf.shape) for leaf in arrays.values()]
        told = " ".join(str(error).split())
        raise errors.DataError(f"{where}: {entry}: of {shapes}: {told}") from error


def _known(path: str, leaves: Iterable[str], where: str, side: str) -> None:
    if path in leaves:
        return
    import difflib

    near = difflib.get_close_matches(path, list(leaves), 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise errors.DataError(f"{where}: the {side} side has no leaf {path!r}{hint}")


_KEYS = {"axis", "index", "stop", "axes", "shape"}


def _document(entry: Entry) -> Any:
    if entry.op == "same":
        return entry.sources[0]
    several = entry.op in ("concat", "stack")
    sources: Any = list(entry.sources) if several else entry.sources[0]
    values: dict[str, dict[str, Any]] = {
        "transpose": {"axes": list(entry.axes)},
        "reshape": {"shape": list(entry.shape)},
        "concat": {"axis": entry.axis},
        "stack": {"axis": entry.axis},
        "take": {"axis": entry.axis, "index": entry.index},
        "slice": {"axis": entry.axis, "start": entry.index, "stop": entry.stop},
    }
    return {"op": entry.op, **values[entry.op], "from": sources}


def _entry(where: str, target: str, value: Any) -> Entry:
    if isinstance(value, str):
        return Entry(target, (value,))
    if not isinstance(value, dict) or "from" not in value:
        raise errors.DataError(
            f"{where}: expected a Linen leaf, or {{op: ..., from: ...}}, got {value!r}"
        )
    found = dict(value)
    sources = found.pop("from")
    op = found.pop("op", "same")
    if op not in OPS:
        raise errors.DataError(f"{where}: op: expected one of {', '.join(OPS)}, got {op!r}")
    if "start" in found:
        found["index"] = found.pop("start")
    if unknown := sorted(found.keys() - _KEYS):
        raise errors.DataError(f"{where}: unknown keys: {', '.join(unknown)}")
    numbers: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    for key, number in numbers.items():
        parts = number if isinstance(number, tuple) else (number,)
        if not all(type(part) is int for part in parts):
            raise errors.DataError(f"{where}: {key}: expected whole numbers, got {found[key]!r}")
    paths = (sources,) if isinstance(sources, str) else tuple(map(str, sources))
    return Entry(target, paths, op, **numbers)
