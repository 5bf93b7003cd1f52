"""A checkpoint seen canonically: what it holds, whatever layout it is written in."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.converters import disk, flat, layouts, places, skeletons, stacks
from maxmig.converters.leaves import STRING, DiskPath, Hole, Leaf, spell

if TYPE_CHECKING:
    from maxmig.converters.storage.base import Storage

STEP = Leaf((), "int32", 4)  # canonical; a layout may store another integer type
INFERRED = (
    "optimizer containers are inferred: empty states at a tuple's end leave no trace here; `ckpt "
    "convert --optimizer module:name` says which there are"
)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk; only its metadata are in memory.

    Attributes:
        place: where it is.
        tree: what is stored, by disk path.
        layout: how it is written.
        why: the reasons for taking it for that layout.
        places: where each canonical leaf is stored.
        leaves: shape and type of each canonical leaf.
        skeleton: the optimizer's containers; None without optimizer state.
        metadata: the custom metadata of the step, as they are.
        notes: what a reader should know: irregular spelling, inferred facts.
        form: how exactly this tree is spelt.
        below: the keys of the subtree that it is, in a tree that holds several.
        given: the path that it was read from: a directory of steps, one step, a file; without keys.
    """

    place: places.Place
    tree: dict[DiskPath, Leaf | Hole]
    layout: layouts.Layout
    why: tuple[str, ...]
    places: dict[str, DiskPath]
    leaves: dict[str, Leaf]
    skeleton: skeletons.Skeleton
    metadata: dict[str, Any]
    notes: tuple[str, ...]
    form: layouts.Form = dataclasses.field(default_factory=layouts.Form)
    opened: "Storage | None" = dataclasses.field(default=None, compare=False, repr=False)
    below: DiskPath = ()
    given: str = dataclasses.field(default="", compare=False, repr=False)

    @functools.cached_property
    def storage(self) -> "Storage":
        """Its arrays, box by box."""
        if self.opened is not None:
            return self.opened
        from maxmig.converters.storage import items

        return items.of(self.place)

    @property
    def own(self) -> dict[str, Any]:
        """The metadata that maxmig wrote; empty for a checkpoint of another program."""
        found = self.metadata.get("maxmig")
        return dict(found) if isinstance(found, Mapping) else {}

    @property
    def scan_layers(self) -> bool | None:
        """Whether layers are stacked, told from the names; None when there is no stack at all."""
        models = [path.partition("/")[2] for path in self.leaves if path.startswith("params/")]
        if any(stacks.scanned(path) is not None for path in models):
            return True
        return False if any(stacks.unscanned(path) for path in models) else None

    def load(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Reads leaves: {canonical path: sharding or None} -> {canonical path: array}."""
        texts = {path for path in wanted if self.leaves[path].dtype == STRING}
        if texts:
            found = {path: self.storage.strings[self.places[path]] for path in texts}
            rest = {path: sharding for path, sharding in wanted.items() if path not in texts}
            return found | (self.load(rest) if rest else {})
        if self.opened is not None:
            arrays = {self.places[path]: self._placed(path, wanted[path]) for path in wanted}
            return self._canonical({path: arrays[self.places[path]] for path in wanted})
        shardings = {self.places[path]: sharding for path, sharding in wanted.items()}
        arrays = disk.load(self.place, self.tree, shardings)
        return self._canonical({path: arrays[self.places[path]] for path in wanted})

    def _placed(self, path: str, sharding: Any) -> Any:
        import jax

        found: Any = self.storage.read(self.places[path])
        if (impl := self.leaves[path].impl) is not None:
            found = jax.random.wrap_key_data(found, impl=impl)
        return jax.device_put(found, sharding)

    def _canonical(self, found: dict[str, Any]) -> dict[str, Any]:
        if "step" in found:
            found["step"] = canonical_step(found["step"])
        return found


def read(
    path: str | Path,
    *,
    step: int | None = None,
    layout: str | None = None,
    hints: layouts.Hints | None = None,
) -> Checkpoint:
    """Opens a checkpoint: a directory of steps, one step, or its items; reads metadata only.

    Args:
        path: where it is; of several states in one tree, with the keys that lead to one
            (`checkpoints/9/generator`), in a bucket too.
        step: which step of a directory of steps; None takes the last complete one.
        layout: the name of its layout; None finds out.
        hints: what a person says of what its tree does not tell.

    Raises:
        CheckpointError: it is not there, not whole or not readable.
        ConvertError: no layout fits, or more than one; or it holds no array (exit code 3).
    """
    whole, below = apart(path)
    told: dict[str, Any] = {"layout": layout, "hints": hints}
    if elsewhere(whole):
        opened, whole, below = opened_at(path, step)
        place = places.Place(Path(whole), None, getattr(opened, "step", None))
        metadata = opened.metadata()
        found = view(place, opened.tree(), metadata, opened=opened, below=below, **told)
    else:
        place = places.locate(whole, step)
        found = view(place, disk.tree(place), places.metadata(place), below=below, **told)
    return dataclasses.replace(found, given=str(whole))


def opened_at(path: str | Path, step: int | None = None) -> "tuple[Storage, str | Path, DiskPath]":
    """The arrays of a checkpoint, where it is, and the keys behind it that lead to a part of it.

    Raises:
        CheckpointError: it is not there, not whole or not readable.
    """
    from maxmig.converters import storage
    from maxmig.converters.storage import items

    whole, below = apart(path)
    try:
        return storage.open(whole, step=step), whole, below
    except errors.CheckpointError:
        found = None
        with contextlib.suppress(errors.CheckpointError):  # then the path itself is wrong
            found = items.above(str(whole)) if "://" in str(whole) else None
        if found is None:
            raise
    return storage.open(found[0], step=step), *found


def paths_of(path: str | Path, step: int | None = None) -> "tuple[Storage, frozenset[DiskPath]]":
    """The arrays of a checkpoint of any layout, and the places of those that a path leads to.

    Raises:
        CheckpointError: it is not there, not whole or not readable, or has no such keys.
    """
    opened, whole, below = opened_at(path, step)
    tree = opened.tree()
    if not below:
        return opened, frozenset(tree)
    cut = flat.cut(tree, own="maxmig" in opened.metadata())
    return opened, frozenset(_below(places.Place(Path(whole), None, None), cut, below))


def apart(path: str | Path) -> tuple[str | Path, DiskPath]:
    """Where a checkpoint is, and the keys behind it: `9/generator` in a tree of two states.

    Of a bucket that is not asked here; see `opened_at`.
    """
    if "://" in str(path) or os.path.lexists(path):
        return path, ()
    place = places.absolute(path)
    above = next(above for above in place.parents if os.path.lexists(above))
    if place.relative_to(above).parts[0].isdigit():  # a step that is not there
        return path, ()
    try:
        if not elsewhere(above):
            places.locate(above)
    except (errors.CheckpointError, OSError):  # no checkpoint: the path itself is wrong
        return path, ()
    return above, place.relative_to(above).parts


def elsewhere(path: str | Path) -> bool:
    """Whether a path leads to a file, to files of arrays, or to an object store."""
    if "://" in str(path):
        return True
    place = Path(path)
    whole = place.is_dir() and any(place.glob("*.safetensors"))
    return place.is_file() or whole or places.flax_file(place) is not None


def view(
    place: places.Place,
    tree: dict[DiskPath, Leaf | Hole],
    metadata: dict[str, Any],
    *,
    layout: str | None = None,
    opened: "Storage | None" = None,
    hints: layouts.Hints | None = None,
    below: DiskPath = (),
) -> Checkpoint:
    """A tree seen canonically; see `read`. Flat names, as safetensors have them, are cut first."""
    if below:  # what is told of the whole tree is not told of a part
        metadata = {key: value for key, value in metadata.items() if key != "maxmig"}
    own = metadata.get("maxmig")
    own = dict(own) if isinstance(own, Mapping) else {}
    cut = flat.cut(tree, own=bool(own)) if opened is not None else {at: at for at in tree}
    if below:
        cut = _below(place, cut, below)
    stored = {spelt: at for at, spelt in cut.items()}
    seen = {spelt: tree[at] for spelt, at in stored.items()}
    if not any(isinstance(leaf, Leaf) for leaf in seen.values()):
        raise _empty(place, seen)
    kind, why, known = _layout(place, seen, own, layout, hints)
    reading = kind.read(seen, known, hints)
    where = {path: stored[at] for path, at in reading.places.items()}
    leaves = {path: _leaf(path, tree[at]) for path, at in where.items()}
    skeleton, notes = _skeleton(kind, reading, metadata)
    form = reading.form
    if known is not None and known.places:
        form = dataclasses.replace(form, places={**form.places, **known.places})
    return Checkpoint(
        place=place,
        tree=tree,
        layout=kind,
        why=why,
        places=where,
        leaves=leaves,
        skeleton=skeleton,
        metadata=metadata,
        notes=(*reading.notes, *notes),
        form=form,
        opened=opened,
        below=below,
    )


def _empty(place: places.Place, tree: Mapping[DiskPath, Leaf | Hole]) -> errors.ConvertError:
    holes = [f"{spell(at)}: {hole.value}" for at, hole in tree.items() if isinstance(hole, Hole)]
    return errors.ConvertError(
        f"{place}: it is empty: its tree holds no array ({', '.join(holes[:4]) or 'nor a key'}); "
        "the checkpoint is whole, but nothing was saved in it: look at what its writer gave to "
        "save",
        exit_code=errors.InconclusiveError.exit_code,
    )


def _below(
    place: places.Place, cut: dict[DiskPath, DiskPath], keys: DiskPath
) -> dict[DiskPath, DiskPath]:
    size = len(keys)
    found = {at: spelt[size:] for at, spelt in cut.items() if tuple(map(str, spelt[:size])) == keys}
    if not found or () in found.values():
        tops = ", ".join(sorted({str(spelt[0]) for spelt in cut.values() if spelt})) or "none"
        raise errors.CheckpointError(
            f"{place}: expected a subtree {'/'.join(map(str, keys))!r} (there is no such path "
            f"either); its top-level keys are: {tops}"
        )
    return found


def _layout(
    place: places.Place,
    tree: dict[DiskPath, Leaf | Hole],
    own: Mapping[str, Any],
    asked: str | None,
    hints: layouts.Hints | None,
) -> tuple[layouts.Layout, tuple[str, ...], layouts.Form | None]:
    """The layout as asked for, as the metadata say, or as the tree tells."""
    told = own.get("layout")
    form = own.get("form")
    if isinstance(form, Mapping) and told in layouts.LAYOUTS and asked in (None, told):
        kind = layouts.get(str(told))
        return kind, ("its metadata say so", *kind.evidence(tree).reasons), _form(place, form)
    if asked is None:
        kind, evidence = layouts.detect(tree)
        return kind, evidence.reasons, None
    kind = layouts.get(asked)
    evidence = kind.evidence(tree)
    if evidence.fits:
        return kind, evidence.reasons, None
    against = "; ".join(evidence.reasons)
    refused = errors.ConvertError(f"{place}: expected layout {asked!r}, but {against}")
    if kind.name in layouts.BARE and any("opt_state" in path[:-1] for path in tree):
        raise refused  # an optimizer's state would be taken for parameters
    try:
        held = kind.read(tree, None, hints).places
    except errors.ConvertError as error:
        told = "\n".join(str(error).splitlines()[:4])
        raise errors.ConvertError(f"{refused}\n{told}") from error
    if kind.name not in layouts.BARE and not any(path.startswith("params/") for path in held):
        raise refused
    return kind, (f"it was said so, although: {against}",), None


def _form(place: places.Place, found: Mapping[str, Any]) -> layouts.Form:
    try:
        return layouts.Form.from_json(found)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise errors.CheckpointError(
            f"{place}: the metadata of the conversion that wrote it are damaged (form: {error})"
        ) from error


def canonical_step(value: Any) -> Any:
    """A stored step counter as int32; its value is kept, or refused."""
    import numpy as np

    if value.dtype == np.int32:
        return value
    number = int(value)
    if not 0 <= number < 2**31:
        raise errors.CheckpointError(f"step: expected a count below 2**31, got {number}")
    return value.astype(np.int32)


def _leaf(path: str, stored: Leaf | Hole) -> Leaf:
    assert isinstance(stored, Leaf)  # layouts refuse holes outside the optimizer's containers
    if path != "step":
        return stored
    if stored.shape or stored.dtype not in ("int32", "uint32", "int64", "uint64"):
        raise errors.CheckpointError(f"step: expected an integer scalar, got {stored}")
    return STEP


def _skeleton(
    kind: layouts.Layout, reading: layouts.Reading, metadata: Mapping[str, Any]
) -> tuple[skeletons.Skeleton, tuple[str, ...]]:
    """The remembered skeleton where it fits the leaves; else what the tree itself tells."""
    own = metadata.get("maxmig")
    remembered = own.get("skeleton") if isinstance(own, Mapping) else None
    state = {path for path in reading.places if path.startswith(f"{skeletons.ROOT}/")}
    if remembered is not None:
        params = skeletons.params_of(reading.places)
        if skeletons.paths(remembered, params) == state:
            return remembered, ()
        return reading.skeleton, ("the optimizer skeleton in the metadata does not fit the leaves",)
    if state and not kind.exact:
        return reading.skeleton, (INFERRED,)
    return reading.skeleton, ()
