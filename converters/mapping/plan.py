"""Plans a conversion: from a checkpoint, seen canonically, to what the engine is to do."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maxmig import errors, trees
from maxmig.converters import flat, layouts, leaves, names
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.layouts import Form, Layout, Written
from maxmig.converters.leaves import DiskPath, Hole, Leaf
from maxmig.converters.mapping import assemble, auto, carry, files, optimizers, rules
from maxmig.converters.mapping.files import Document
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import Item, State, start
from maxmig.converters.transfers import Conversion

PARAMS_ONLY = "left out (--params-only)"
POLICIES = ("derive", "keep", "drop")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


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


def plan(source: Checkpoint, to: str | None = None, **options: Any) -> Conversion:
    """Plans a conversion from metadata alone, and proves that it can be undone; see `planned`."""
    return planned(source, to, **options).conversion


def planned(
    source: Checkpoint,
    to: str | None = None,
    *,
    scan: bool | None = None,
    scan_axis: int | None = None,
    from_scan_axis: int | None = None,
    dtype: str | None = None,
    params_only: bool = False,
    map_file: str | Path | Document | None = None,
    random: str = "derive",
    seed: int | None = None,
    optimizer: Any = None,
    container: str = "orbax",
) -> Planned:
    """Plans a conversion from metadata alone, and proves that it can be undone.

    Args:
        source: the checkpoint.
        to: the layout of the result; `linen` and `nnx` are the twins of the source's own; None
            takes the mapping file's.
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

    Raises:
        ConvertError: a leaf has no place, layers are missing, or the way back would differ.
        ConfigError: an option or the mapping file is not understood.
    """
    chosen_seed = seed
    if random not in POLICIES:
        raise errors.ConfigError(f"random: expected one of {', '.join(POLICIES)}, got {random!r}")
    for option, axis in (("scan_axis", scan_axis), ("from_scan_axis", from_scan_axis)):
        if axis is not None and axis < 0:
            raise errors.ConfigError(f"{option}: expected an axis, 0 or more, got {axis}")
    document = _document(map_file)
    target = _target(source, to, document)
    state = _begin(source, params_only)
    told = optimizer if optimizer is not None else document and document.optimizer
    if told is not None and not params_only:
        state.skeleton = optimizers.skeleton(told, state)
    containers = None if told is None else state.skeleton
    origin = _origin(source, target) if document is None and scan is None else None
    layers = {"scan": scan, "scan_axis": scan_axis, "from_scan_axis": from_scan_axis}
    done, axis = _carried(source, target, state, document, origin, layers)
    seed = seed if seed is not None else int(source.own.get("seed") or 0)
    _randomness(state, target, random, origin)
    _cast(state, dtype)
    _check_zeros(source, state)
    found_form = _raw_scales(
        _form(source, target, state, origin, done), source, target, state, done
    )
    form = flat.form(found_form, target, container, source)
    written, kept = _written(target, state, form, container)
    builder = assemble.Builder(source, target, state, written, form, container)
    found = Document(source.layout.name, target.name, done)
    options = {
        "to": target.name,
        **layers,
        "dtype": dtype,
        "params_only": params_only,
        "map_file": None if document is None else document.data(),
        "random": random,
        "seed": chosen_seed,
        "optimizer": containers,
        "container": container,
    }
    metadata = assemble.metadata(source, target, state, kept, done, axis, assemble.given(options))
    return Planned(builder.conversion(metadata, seed), source, target, found, state, written)


def _carried(
    source: Checkpoint,
    target: Layout,
    state: State,
    document: Document | None,
    origin: dict[str, Any] | None,
    layers: Mapping[str, Any],
) -> tuple[tuple[Rule, ...], int | None]:
    """Carries out all rules: a file's, those that lead back, or what is found; then the layers'."""
    scan, scan_axis, from_axis = layers["scan"], layers["scan_axis"], layers["from_scan_axis"]
    remembered = source.own.get("param_scan_axis")
    carry.together(state, remembered if from_axis is None else from_axis)
    if document is not None:
        done = carry.out(state, document.rules, strict=True)
    elif origin is not None:
        back = files.parse({"rules": origin.get("rules", [])}, f"{source.place}: its metadata")
        done = carry.out(state, back.rules)
    else:
        done = carry.out(state, auto.layers(state, source.layout, target))
    if scan and scan_axis is None and not source.scan_layers:
        scan_axis = remembered  # the way back restores the stacks as they were
    axis = _axis_after(done, _source_axis(source, from_axis))
    scanning, axis = auto.scan(state, scan=scan, axis=scan_axis, source_axis=axis)
    done += carry.out(state, scanning)
    named = source.layout.family == "linen" and source.layout.name != "linen"
    if document is None and target.family == "nnx" and named:
        done += carry.out(state, auto.lists(state.params))
    return done, axis


def _document(map_file: str | Path | Document | None) -> Document | None:
    if map_file is None or isinstance(map_file, Document):
        return map_file
    return files.read(map_file)


def _target(source: Checkpoint, to: str | None, document: Document | None) -> Layout:
    told = document.target if document else None
    if document and document.source and document.source != source.layout.name:
        raise errors.ConfigError(
            f"the mapping file is for layout {document.source!r}, the source is of layout "
            f"{source.layout.name!r}"
        )
    if to is None and told is None:
        raise errors.ConfigError("expected a layout for the result (--to LAYOUT)")
    found = layouts.twin(source.layout, to or str(told))
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


def _origin(source: Checkpoint, target: Layout) -> dict[str, Any] | None:
    """What the source remembers of the checkpoint that it was made of, if that was such a one."""
    found = source.own.get("origin")
    if isinstance(found, Mapping) and found.get("layout") == target.name:
        return dict(found)
    return None


def _source_axis(source: Checkpoint, told: int | None) -> int | None:
    if told is not None or not source.scan_layers:
        return told
    found = source.own.get("param_scan_axis")
    return found if isinstance(found, int) else None


def _axis_after(done: tuple[Rule, ...], axis: int | None) -> int | None:
    """The layer axis after rules that move it, as a file or the way back may have them."""
    for rule in done:
        if isinstance(rule, rules.MoveAxis) and axis in (None, rule.source):
            axis = rule.target
        elif isinstance(rule, rules.Stack) and axis is None:
            axis = rule.axis
    return axis


def _randomness(state: State, target: Layout, policy: str, origin: dict[str, Any] | None) -> None:
    own = [path for path in state.items if path.startswith("aux/")]
    placed = getattr(target, "aux", None) is not None
    if policy == "drop" or (not placed and policy == "derive"):
        for path in own:
            item = state.items.pop(path)
            state.dropped |= dict.fromkeys(item.sources, assemble.RANDOM_DROPPED)
        if own and policy == "derive":
            state.notes.append(
                f"{len(own)} leaves of random state have no place in layout {target.name!r}; they "
                "are derived again, from (seed, path, step), on the way back"
            )
    elif own and not placed:
        raise errors.ConvertError(
            f"{own[0]}: layout {target.name!r} has no place for random state (--random keep); "
            "--random derive leaves it out and derives it again on the way back"
        )
    for path, told in ((origin or {}).get("random") or {}).items():
        leaf = Leaf(tuple(told["shape"]), str(told["dtype"]), int(told["nbytes"]))
        if policy != "drop" and path not in state.items:
            why = "random state, derived from (seed, path, step)"
            state.items[path] = Item(leaf, (), made=why)


def _cast(state: State, dtype: str | None) -> None:
    for section, name in _types(dtype).items():
        for path, item in state.items.items():
            if path.partition("/")[0] != section or item.leaf.dtype not in _FLOATS:
                continue
            if section == "opt_state" and not item.leaf.shape:
                continue  # hyperparameters and counters are no moments
            if item.leaf.dtype != name:
                each = {"float64": 8, "float32": 4}.get(name, 2)
                count = item.leaf.nbytes // {"float64": 8, "float32": 4}.get(item.leaf.dtype, 2)
                leaf = Leaf(item.leaf.shape, name, each * count)
                why = (*item.why, f"cast {item.leaf.dtype} -> {name}")
                state.items[path] = dataclasses.replace(item, leaf=leaf, why=why)


def _types(dtype: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in dtype.split(",") if dtype else ():
        section, _, name = part.strip().rpartition("=")
        if name not in _FLOATS or section not in ("", "params", "opt_state"):
            raise errors.ConfigError(
                f"--dtype: expected a floating-point type ({', '.join(_FLOATS)}), or "
                f"params=TYPE,opt_state=TYPE; got {part!r}. Numbers are never made integers"
            )
        found[section or "params"] = name
    return found


def _check_zeros(source: Checkpoint, state: State) -> None:
    """Reads the few leaves that may only be left out if they are zero."""
    import numpy as np

    lost = []
    for path, why in state.zeros.items():
        array = source.storage.read(source.places[path])
        if np.any(array):
            largest = float(np.max(np.abs(array.astype(np.float64))))
            lost.append(f"{path}: {why}: NNX has no place for it, and it is not zero ({largest:g})")
    if lost:
        raise errors.ConvertError(
            "this would lose numbers:\n  " + "\n  ".join(lost) + "\n"
            "keep this layer in Linen (bridge it with nnx.bridge.ToNNX), or leave these leaves out "
            "with a reason in a mapping file (`- {drop: PATH, reason: ...}`)"
        )


def _form(
    source: Checkpoint,
    target: Layout,
    state: State,
    origin: dict[str, Any] | None,
    done: tuple[Rule, ...],
) -> Form | None:
    if origin is not None:
        return Form.from_json(origin.get("form") or {})
    if target.name == source.layout.name:
        return _same_form(source, state, done)
    usual: Form | None = getattr(target, "usual", None)
    if target.family != "nnx":
        return usual
    if source.layout.family == "nnx" and source.form.lists is not None:
        return dataclasses.replace(usual or Form(), lists=source.form.lists)
    if source.layout.name == "linen" and not state.lists:
        return usual
    return dataclasses.replace(usual or Form(), lists=frozenset(state.lists))


def _raw_scales(
    form: Form | None, source: Checkpoint, target: Layout, state: State, done: tuple[Rule, ...]
) -> Form | None:
    """The form, in which scales of WeightNorm are no variables if they are not to be such."""
    raw = any(isinstance(rule, rules.Layer) and rule.kind == "weight-norm-raw" for rule in done)
    raw = raw or any(names.is_scale(path.split("/")) for path in source.form.places)
    if not raw or target.family != "nnx" or form is None or "params" not in form.wrapped:
        return form
    bare = target.write(
        [path for path in state.items if path.startswith("params/")],
        None,
        dataclasses.replace(form, wrapped=(), places={}, holes=None),
    )
    scales = {str(p): at for at, p in bare.items() if names.is_scale(at) and p not in form.places}
    return dataclasses.replace(form, places={**form.places, **scales})


def _same_form(source: Checkpoint, state: State, done: tuple[Rule, ...]) -> Form:
    """The source's own form, as far as its leaves still are what they were."""
    untouched = not done and all(item.made is None for item in state.items.values())
    form = source.form
    boxed = frozenset(
        path[7:]
        for path, item in state.items.items()
        if path.startswith("params/") and {s[7:] for s in item.sources} & form.boxed
    )
    lists = form.lists if form.lists is None else form.lists | state.lists
    kept = {p: at for p, at in form.places.items() if untouched and p in state.items}
    whole = untouched and len(state.items) == len(source.leaves)
    return dataclasses.replace(
        form, boxed=boxed, lists=lists, places=kept, holes=form.holes if whole else None
    )


def _written(
    target: Layout, state: State, form: Form | None, container: str
) -> tuple[Written, Form]:
    """Where everything goes, and the form that reads it back as it is; proves that it does."""
    paths = trees.sort(state.items)
    written = target.write(paths, state.skeleton, form)
    if container != "orbax":
        written = flat.plain(written, container)
    tree: dict[DiskPath, Leaf | Hole] = {
        at: state.items[value].leaf if isinstance(value, str) else value
        for at, value in written.items()
    }
    places = {value: at for at, value in written.items() if isinstance(value, str)}
    fixed: dict[str, DiskPath] = dict(form.places) if form else {}
    reading: layouts.Reading | None = None
    try:
        reading = target.read(tree, form)
        wrong = {path for path, at in places.items() if reading.places.get(path) != at}
    except errors.ConvertError:  # something in it cannot be told without help
        own = ("params", "opt_state", "step")
        wrong = {path for path in places if path.split("/")[0] not in own}
    if wrong or reading is None:
        fixed |= {path: places[path] for path in wrong}
        reading = target.read(tree, dataclasses.replace(form or Form(), places=fixed))
    lost = [
        f"{path}: written to {leaves.spell(at)}, which is read back as another leaf"
        for path, at in places.items()
        if reading.places.get(path) != at
    ]
    if lost or reading.places.keys() != places.keys():
        raise errors.ConvertError(
            f"layout {target.name!r} cannot hold this state without loss:\n  " + "\n  ".join(lost)
        )
    _check_keys(written)
    known = dataclasses.replace(reading.form, places={**reading.form.places, **fixed})
    return written, known


def _check_keys(written: Written) -> None:
    """No key may lead out of the result's directory, or be invisible."""
    for path in written:
        for key in path:
            text = str(key)
            if text in ("", ".", "..") or not text.isprintable():
                raise errors.ConvertError(
                    f"{leaves.spell(path)!r}: expected printable keys that name something, "
                    f"got {text!r}"
                )
