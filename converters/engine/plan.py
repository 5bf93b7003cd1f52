"""What a conversion will cost, told from metadata alone, before a byte is moved."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maxmig import errors
from maxmig.converters import accounting, places
from maxmig.converters.compare import metadata as kept
from maxmig.converters.engine import documents, joining, reference, routes, tasks
from maxmig.converters.engine.options import MIB, Options
from maxmig.converters.engine.routes import Route
from maxmig.converters.leaves import encoded
from maxmig.converters.storage import files, kv, mapped, orbax, safetensors
from maxmig.converters.storage.base import Storage
from maxmig.converters.transfers import Conversion

_MARK = "plan"
_AHEAD = 64 * MIB
BASE = 160 * MIB  # of an interpreter with NumPy and TensorStore
_RATES = {routes.REFERENCE: 40e9, routes.CHUNK: 600e6, routes.STREAM: 150e6}  # bytes a second
_PIECE, _WRITE, _READ = 1.2e-3, 5e-4, 8e-6  # seconds for each piece, chunk written, chunk read


@dataclass(frozen=True)
class Plan:
    """The way of every array, and what it costs.

    Attributes:
        conversion: what is to be done.
        options: how.
        routes: the way of each array that has a source; of an Orbax result.
        ocdbt: whether the result is one database.
        zarr: its Zarr version.
        files: whether what goes by chunk is copied as whole data files, and re-keyed there.
        floor: the least memory that it takes, in bytes.
        disk: the bytes that are written anew.
        notes: what a reader should know.
        count: how many pieces there are.
        trees: those of the source's step, which may come to one step again.
        mark: what tells the result that it is this very plan's, from this very source; empty where
            the result does not say.
    """

    conversion: Conversion
    options: Options
    routes: tuple[Route, ...]
    ocdbt: bool
    zarr: int
    floor: int
    disk: int
    notes: tuple[str, ...]
    files: bool = False
    count: int = 0
    trees: joining.Trees = joining.ALONE
    mark: str = ""

    @property
    def pieces(self) -> tuple[Route, ...]:
        """The arrays that are done piece by piece."""
        kept = {routes.REFERENCE, routes.CHUNK} if self.files else {routes.REFERENCE}
        return tuple(route for route in self.routes if route.kind not in kept)

    def of(self, kind: str) -> list[Route]:
        """The arrays that go one way."""
        return [route for route in self.routes if route.kind == kind]

    def rows(self) -> list[dict[str, Any]]:
        """Arrays and bytes by route, the reasons with them."""
        found = []
        for kind in routes.KINDS:
            mine = self.of(kind)
            if mine:
                nbytes = sum(route.transfer.leaf.nbytes for route in mine)
                why = Counter(route.why for route in mine if route.why)
                found.append(
                    {
                        "route": kind,
                        "arrays": len(mine),
                        "bytes": nbytes,
                        "why": "; ".join(f"{text} ({n})" for text, n in why.most_common(3)),
                    }
                )
        made = self.conversion.made
        if made:
            nbytes = sum(item.leaf.nbytes for item in made)
            found.append({"route": "made", "arrays": len(made), "bytes": nbytes, "why": ""})
        if texts := self.conversion.strings.values():
            told = {"route": "string", "arrays": len(texts), "bytes": sum(map(_length, texts))}
            found.append({**told, "why": "a text, written with the names of the tree"})
        return found

    @property
    def seconds(self) -> float:
        """About how long it will take."""
        total = 0.05 + 4e-5 * len(self.routes) + _PIECE * self.count
        for route in self.of(routes.STREAM):
            total += _WRITE * _chunks(route.array.shape, route.array.stored)
            grids = map(self.conversion.storage.grid, route.transfer.sources)
            total += _READ * sum(_chunks(grid.shape, grid.chunk) for grid in grids)
        for kind, rate in _RATES.items():
            total += sum(route.transfer.leaf.nbytes for route in self.of(kind)) / rate
        return total

    @property
    def digest(self) -> str:
        """Tells this plan from any other, the state of the source included."""
        told = hashlib.sha256(self.conversion.storage.fingerprint().encode())
        for route in self.routes:
            told.update(repr((route.transfer, route.kind, route.array.stored)).encode())
        for item in self.conversion.made:
            told.update(repr((item.target, item.leaf)).encode())
        told.update(repr((self.ocdbt, self.zarr, self.options.verify)).encode())
        return told.hexdigest()

    def marked(self) -> "Plan":
        """The same, with a mark that the result carries in its metadata.

        What a safetensors file says of itself depends on the source's contents alone: its mark lies
        beside it.
        """
        told, metadata = hashlib.sha256(self.digest.encode()), self.conversion.metadata
        told.update(json.dumps(metadata, sort_keys=True, default=str).encode())
        mark = told.hexdigest()
        conversion = self.conversion
        if conversion.container != "safetensors":
            conversion = dataclasses.replace(conversion, metadata=marked(metadata, mark))
        return dataclasses.replace(self, conversion=conversion, mark=mark)


def marked(metadata: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """Metadata with a mark."""
    return {**metadata, "maxmig": {**metadata.get("maxmig", {}), _MARK: mark}}


def mark_of(storage: Storage) -> str | None:
    """The mark of the plan that made a checkpoint; None: it has none.

    Raises:
        CheckpointError: its metadata are damaged.
    """
    told = kept.kept(storage) if isinstance(storage, mapped.Mapped) else storage.metadata()
    return told.get("maxmig", {}).get(_MARK)


def plan(conversion: Conversion, destination: str, options: Options) -> Plan:
    """Plans a conversion to an Orbax result.

    Raises:
        ConvertError: a leaf's name is no safe one, two leaves would have one place, or a type has
            none in the container.
        CheckpointError: the source's metadata are damaged, or links lead out of it.
    """
    ocdbt = routes.target_ocdbt(conversion, options)
    documents.check_leaves(conversion, ocdbt=ocdbt)
    if conversion.container == "safetensors":
        safetensors.header_of(conversion.leaves, conversion.holes, conversion.metadata)
    linkable, notes = _linkable(conversion, destination, options)
    chosen = tuple(routes.choose(conversion, options, linkable))
    version = routes.target_zarr(conversion, options)
    if conversion.container == "msgpack":
        notes.append(
            "a msgpack file has no place for metadata: they lie beside it, with its checksums"
        )
    if conversion.container != "orbax" and (options.ocdbt is not None or options.zarr):
        notes.append(
            f"a {conversion.container} file has no OCDBT and no Zarr: --ocdbt, --no-ocdbt and "
            "--zarr do nothing"
        )
    _, others = documents.beside(conversion)
    trees = joining.trees(conversion, others)
    if others:
        notes.append(
            f"the source's step holds other trees, which are not converted: {', '.join(others)}; "
            f"convert each by its own path{_where(conversion, destination, trees)}"
        )
    if any(route.kind == routes.REFERENCE for route in chosen):
        notes.append(
            "by reference: data files are shared with the source by hard links; deleting either "
            "side does not hurt the other, and the space is free when both are gone"
        )
    if kv.is_url(destination):
        notes.append(
            "in a bucket: Ctrl-C finishes the chunks under way and keeps what is done, for "
            "--resume; the step counts for nobody before its commit marker, which comes last"
        )
    written = sum(r.transfer.leaf.nbytes for r in chosen if r.kind != routes.REFERENCE)
    written += sum(item.leaf.nbytes for item in conversion.made)
    whole = _whole_files(conversion, destination, chosen, ocdbt)
    todo = Plan(conversion, options, chosen, ocdbt, version, 0, written, tuple(notes), whole)
    count, largest = 0, 0
    for task in tasks.cut(conversion, todo.pieces, options):
        count, largest = count + 1, max(largest, task.nbytes)
    return dataclasses.replace(todo, floor=BASE + largest, count=count, trees=trees)


def _whole_files(
    conversion: Conversion, destination: str, chosen: tuple[Route, ...], ocdbt: bool
) -> bool:
    source = conversion.storage
    copied = [route for route in chosen if route.kind == routes.CHUNK]
    if not copied or orbax.local(source) is None or kv.is_url(destination):
        return False
    assert isinstance(source, orbax.Orbax)
    return source.told.ocdbt == ocdbt and reference.whole_files(source, copied)


def preflight(todo: Plan, destination: str) -> None:
    """Refuses what cannot end well.

    Raises:
        PreflightError: the memory or the disk is too small.
    """
    if todo.floor > todo.options.max_memory:
        enough = _enough(todo, destination)
        largest = enough.floor - BASE
        chunk = f" and {accounting.size(largest)} of the largest chunk and what becomes of it"
        raise errors.PreflightError(
            f"--max-memory {accounting.size(todo.options.max_memory)}: expected at least the "
            f"memory floor of {accounting.size(enough.floor)}: {accounting.size(BASE)} of the "
            f"program itself{chunk if largest else ''}; give --max-memory "
            f"{_rounded(enough.floor)} or more"
        )
    if kv.is_url(destination):
        return
    above = places.absolute(destination).parent
    if above.is_dir():
        free = shutil.disk_usage(above).free
        if todo.disk > free:
            raise errors.PreflightError(
                f"{above}: expected {accounting.size(todo.disk)} of free disk, but there are "
                f"{accounting.size(free)}; free some, or choose another disk"
            )


def _where(conversion: Conversion, destination: str, trees: joining.Trees) -> str:
    """Into which place other trees of a step go: a step holds some of them together."""
    if conversion.container != "orbax":
        return ", into a file of its own"
    if kv.is_url(destination) or not trees.names:
        return ", into a DST of its own"
    return f" into the same DST: it comes to step {conversion.step} there"


def _chunks(shape: tuple[int, ...], chunk: tuple[int, ...]) -> int:
    return math.prod(-(-size // part) for size, part in zip(shape, chunk, strict=False))


def _length(text: str) -> int:
    return len(encoded(text))


def _enough(todo: Plan, destination: str) -> Plan:
    """The same with as much memory as it takes: with more, larger chunks are written."""
    while todo.floor > todo.options.max_memory:
        options = dataclasses.replace(todo.options, max_memory=_up(todo.floor))
        todo = plan(todo.conversion, destination, options)
    return todo


def _rounded(nbytes: int) -> str:
    return f"{_up(nbytes) // MIB}MiB"


def _up(nbytes: int) -> int:
    return -(-nbytes // (64 * MIB)) * 64 * MIB


def _linkable(conversion: Conversion, destination: str, options: Options) -> tuple[str, list[str]]:
    """Why hard links are impossible, if they are, and notes."""
    root = orbax.local(conversion.storage)
    if root is not None:
        files.check_links(root)
    if not isinstance(conversion.storage, orbax.Orbax):
        return "the source is no Orbax checkpoint", []
    if root is None or kv.is_url(destination):
        reason = "object stores have no hard links"
        return reason, [f"by reference is not possible: {reason}; encoded chunks are copied"]
    if not options.link:
        return "--copy asks for a result that shares no file with the source", []
    reason = reference.obstacle(root, places.absolute(destination).parent)
    return reason, [f"by reference is not possible: {reason}"] if reason else []


@dataclass(frozen=True)
class Workers:
    """How much is done at once.

    Attributes:
        threads: how many pieces.
        memory: the bytes that they may take together.
        keep: whether freed memory is kept for the next piece.
        ahead: the bytes of one piece that may be on their way to the disk while more is made.
    """

    threads: int
    memory: int
    keep: bool
    ahead: int

    def taken(self, task: tasks.Task) -> int:
        """The bytes that a piece takes."""
        return task.nbytes + tasks.HELD * self.ahead


def workers(todo: Plan) -> Workers:
    """How much can be done at once within the limits."""
    largest = todo.floor - BASE
    free = max(todo.options.max_memory - BASE, largest, MIB)
    keep = free >= 3 * largest  # memory that is kept is up to twice of what is in use
    threads = todo.options.threads or min(8, os.cpu_count() or 1)
    memory = free // 2 if keep else free
    ahead = min(_AHEAD, max(0, memory - largest) // ((tasks.HELD + 1) * threads))
    return Workers(threads, memory, keep, ahead)
