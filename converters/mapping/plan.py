"""Plans a conversion: from a checkpoint, seen canonically, to what the engine is to do."""

import dataclasses
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters import axes, flat, layouts
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.layouts import Layout, Written
from maxmig.converters.mapping import (
    assemble,
    auto,
    back,
    carry,
    fields,
    files,
    lists,
    optimizers,
    restack,
    rules,
    spelt,
    unfollowed,
    values,
)
from maxmig.converters.mapping.files import Document
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import State, start
from maxmig.converters.transfers import Conversion

PARAMS_ONLY = "left out (--params-only)"


@dataclasses.dataclass(frozen=True)
class Planned:
    """A conversion, and how it came about.

    Attributes:
        conversion: what the engine is to do.
        source: the checkpoint.
        target: the layout of the result.
        document: the mapping that was carried out, as a file would say it.
        state: what each leaf of the result is made of.
        written: where each leaf and hole of the result is.
    """

    conversion: Conversion
    source: Checkpoint
    target: Layout
    document: Document
    state: State
    written: Written


@dataclasses.dataclass(frozen=True)
class Choices:
    """How a checkpoint is converted, apart from the layout of the result.

    Attributes:
        scan: stack the layers, take them apart, or None: as in the source.
        scan_axis: the layer axis of the result, the last one of a leaf that has fewer; None keeps
            the source's.
        from_scan_axis: the layer axis of the source, where metadata and shapes do not tell.
        dtype: the type of the parameters in the result, such as `bfloat16`; with
            `params=bfloat16,opt_state=float32` of the moments as well, which else keep theirs.
        params_only: leave out all but the parameters.
        map_file: a mapping file, instead of the rules that are found without one.
        random: `derive` keeps random state where the result has a place for it and derives it
            where it has been left out; `keep` refuses to leave any out; `drop` leaves all out.
        seed: what random state is derived from; None: the source's own seed, or 0.
        optimizer: the containers of its state, where the source does not tell them all: a skeleton,
            an optax optimizer, or `module:name` of one or of a function that makes one.
        container: what holds the result.
        key_impl: the kind of the random keys that the source holds as raw words, as a msgpack file
            does; None leaves them words.
    """

    scan: bool | None = None
    scan_axis: int | None = None
    from_scan_axis: int | None = None
    dtype: str | None = None
    params_only: bool = False
    map_file: str | Path | Document | None = None
    random: str = "derive"
    seed: int | None = None
    optimizer: Any = None
    container: str = "orbax"
    key_impl: str | None = None

    def __post_init__(self) -> None:
        if self.random not in values.POLICIES:
            raise errors.ConfigError(
                f"random: expected one of {', '.join(values.POLICIES)}, got {self.random!r}"
            )
        if self.scan is False and self.scan_axis is not None:
            raise errors.ConfigError(
                "--no-scan takes layers apart, so that they have no axis; "
                "drop --no-scan or --scan-axis"
            )
        for option in ("scan_axis", "from_scan_axis"):
            axis = getattr(self, option)
            if axis is not None and axis < 0:
                raise errors.ConfigError(f"{option}: expected an axis, 0 or more, got {axis}")


def plan(source: Checkpoint, to: str | None = None, **options: Any) -> Conversion:
    """Plans a conversion from metadata alone, and proves that it can be undone; see `planned`."""
    return planned(source, to, **options).conversion


def planned(source: Checkpoint, to: str | None = None, **options: Any) -> Planned:
    """Plans a conversion from metadata alone, and proves that it can be undone.

    Args:
        source: the checkpoint.
        to: the layout of the result; `linen` and `nnx` are the twins of the source's own; None
            takes the mapping file's.
        options: those of `Choices`.

    Raises:
        ConvertError: a leaf has no place, layers are missing, or the way back would differ.
        ConfigError: an option or the mapping file is not understood.
    """
    chosen = Choices(**options)
    document = _document(chosen.map_file)
    target = _target(source, to, document)
    if document is not None:
        _check_hints(document, source)
    state = _begin(source, chosen.params_only)
    state.notes += layouts.unsaid(source.layout, to, target, back.home(source))
    told = chosen.optimizer if chosen.optimizer is not None else document and document.optimizer
    if told is not None and not chosen.params_only:
        state.skeleton = optimizers.skeleton(told, state)
    recorded = vars(chosen) | {
        "to": target.name,
        "map_file": None if document is None else document.data(),
        "optimizer": None if told is None else state.skeleton,
    }
    typed = values.typed_keys(state, chosen.key_impl)
    origin = back.origin(source, target, chosen.scan) if document is None else None
    done, axis, scanning = _carried(source, target, state, document, origin, chosen)
    unfollowed.check(state, done, same_layout=target.name == source.layout.name)
    values.randomness(state, target, chosen.random, origin)
    values.cast(state, chosen.dtype)
    if chosen.container == "msgpack":
        values.as_words(state)
    values.check_zeros(source, state)
    form = spelt.form(source, target, state, origin, done, rescanned=bool(scanning))
    if told is not None and not chosen.params_only and chosen.container == "orbax":
        form = optimizers.empty(form, target, state)
    beside = document.fields if document is not None else {}
    form = fields.form(form, source, target, state, beside)
    form = flat.form(form, target, chosen.container, source)
    written, kept = spelt.written(target, state, form, chosen.container)
    done = (*typed, *done)
    metadata = assemble.metadata(source, target, state, kept, done, axis, assemble.given(recorded))
    kept_apart = auto.remembered(scanning)
    if kept_apart:
        metadata["maxmig"]["stacks"] = [rule.data() for rule in rules.invert(kept_apart)]
    way = back.way(source, done, () if kept_apart else scanning, chosen.from_scan_axis)
    if way.recorded:
        metadata["maxmig"][back.WAY] = way.data()
    named = told is not None or chosen.params_only
    builder = assemble.Builder(source, target, state, written, form, chosen.container, named)
    seed = chosen.seed if chosen.seed is not None else int(source.own.get("seed") or 0)
    found = Document(source.layout.name, target.name, done, fields=beside)
    spelling = back.spelling(source, target, origin)
    conversion = dataclasses.replace(builder.conversion(metadata, seed), spelling=spelling)
    return Planned(conversion, source, target, found, state, written)


def _carried(
    source: Checkpoint,
    target: Layout,
    state: State,
    document: Document | None,
    origin: dict[str, Any] | None,
    chosen: Choices,
) -> tuple[tuple[Rule, ...], int | None, tuple[Rule, ...]]:
    """Carries out all rules: a file's, those that lead back, or what is found; then the layers'.

    Returns:
        All rules, the layer axis of the result, and the layers' rules alone.
    """
    scan, scan_axis, from_axis = chosen.scan, chosen.scan_axis, chosen.from_scan_axis
    remembered = source.own.get("param_scan_axis")
    if from_axis is not None:
        axes.layer_axis(source.leaves, from_axis)  # refused also where no layer is touched
    carry.together(state, remembered if from_axis is None else from_axis)
    if document is not None:
        done = carry.out(state, document.rules, strict=True, told=document.places)
    elif origin is not None:
        done = back.out(source, state, origin)
    else:
        done = carry.out(state, auto.layers(state, source.layout, target))
    told = scan_axis if scan else from_axis
    own = () if scan is None else back.stacks(source, state, scan, told)
    if scan and scan_axis is None and not source.scan_layers:
        scan_axis = remembered  # the way back restores the stacks as they were
    axis = restack.axis_after(done, _source_axis(source, from_axis))
    scanning: tuple[Rule, ...] = own
    if own:
        axis = own[-1].axis
    else:
        beside = source.own.get(auto.BESIDE)
        scanning, axis = auto.scan(
            state, scan=scan, axis=scan_axis, source_axis=axis, beside=beside
        )
    if from_axis is not None and not source.scan_layers:
        auto.unused(state, from_axis, scanning if scan is False else None)
    scanning = carry.out(state, scanning)
    done += scanning
    if target.family == "nnx":
        state.lists |= auto.apart(scanning)
    named = source.layout.family == "linen" and source.layout.name != "linen"
    if document is None and target.family == "nnx" and named:
        done += carry.out(state, lists.found(state))
    return done, axis, scanning


def _document(map_file: str | Path | Document | None) -> Document | None:
    if map_file is None or isinstance(map_file, Document):
        return map_file
    return files.read(map_file)


def _check_hints(document: Document, source: Checkpoint) -> None:
    """What a mapping file says of the source's tree must be of something that is there."""
    owners = {path.partition("/")[2] for path in source.leaves}
    named = set(owners)
    for owner in owners:
        named.update(owner[:at] for at, letter in enumerate(owner) if letter == "/")
    for key in ("boxed", "unboxed", "collections"):
        if lost := [path for path in getattr(document, key) if path not in named]:
            raise errors.ConfigError(
                f"the mapping file: {key}: {lost[0]}: no leaf or module has this path in the "
                "model; leave it out, or name what is there (`ckpt inspect SRC --tree`)"
            )


def _target(source: Checkpoint, to: str | None, document: Document | None) -> Layout:
    told = document.target if document else None
    if document and document.source and document.source != source.layout.name:
        raise errors.ConfigError(
            f"the mapping file is for layout {document.source!r}, the source is of layout "
            f"{source.layout.name!r}"
        )
    if to is None and told is None:
        raise errors.ConfigError("expected a layout for the result (--to LAYOUT)")
    if to is None or (told is not None and layouts.get(to).name == told):
        return layouts.get(str(told))  # a file names it literally
    found = layouts.twin(source.layout, to, back.home(source))
    if to == "linen" and found.name == "linen-variables" and back.bare(source):
        found = layouts.get("linen-params")
    if told is not None and found.name != told:
        raise errors.ConfigError(
            f"--to says {found.name!r}, the mapping file {told!r}; drop one of them"
        )
    return found


def _begin(source: Checkpoint, params_only: bool) -> State:
    taken = {
        path: leaf
        for path, leaf in source.leaves.items()
        if not params_only or path.startswith("params/")
    }
    if not taken:
        raise errors.ConvertError(
            f"{source.place}: expected parameters, but there is no leaf to take"
        )
    state = start(taken, None if params_only else source.skeleton)
    state.dropped |= {path: PARAMS_ONLY for path in source.leaves if path not in taken}
    return state


def _source_axis(source: Checkpoint, told: int | None) -> int | None:
    if told is not None or not source.scan_layers:
        return told
    found = source.own.get("param_scan_axis")
    return found if isinstance(found, int) else None
