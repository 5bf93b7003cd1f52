"""How the result's tree is spelt: the form that its layout gets, and where everything goes."""

import dataclasses
from typing import Any

from maxmig import errors, trees
from maxmig.converters import flat, layouts, leaves, names
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.layouts import Form, Layout, Written
from maxmig.converters.leaves import DiskPath, Hole, Leaf
from maxmig.converters.mapping import back, rules, steps
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import State


def form(
    source: Checkpoint,
    target: Layout,
    state: State,
    origin: dict[str, Any] | None,
    done: tuple[Rule, ...],
    *,
    rescanned: bool,
) -> Form | None:
    """How the result's tree is to be spelt; None: as its layout usually is.

    Args:
        source: the source.
        target: the layout of the result.
        state: the state, as it will be.
        origin: what is remembered of the checkpoint that the source was made from.
        done: the rules that were carried out.
        rescanned: whether layers were stacked or taken apart.
    """
    if origin is not None:
        found: Form | None = back.form(origin, state, rescanned)
    elif target.name == source.layout.name:
        found = _same_form(source, state, done)
    else:
        found = _usual(source, target, state)
    found = _listed(_apart(found, target, state), state)
    return _raw_scales(found, source, target, state, done)


def _usual(source: Checkpoint, target: Layout, state: State) -> Form | None:
    """The form of another layout than the source's."""
    usual: Form | None = getattr(target, "usual", None)
    if target.family != "nnx":
        return usual
    if source.layout.family == "nnx":
        return dataclasses.replace(usual or Form(), lists=source.form.lists)
    if source.layout.name == "linen":
        return usual
    return dataclasses.replace(usual or Form(), lists=frozenset(state.lists))


def _apart(form: Form | None, target: Layout, state: State) -> Form | None:
    """The form, in which what is known to be a list in the result is one, such as a stack of
    another name that was taken apart.
    """
    if target.family != "nnx" or not state.lists:
        return form
    form = form or getattr(target, "usual", None) or Form()
    lists = form.lists
    if lists is None:
        lists = frozenset(steps.containers(trees.sort(state.params), scanned=False))
    return dataclasses.replace(form, lists=lists | state.lists)


def _listed(form: Form | None, state: State) -> Form | None:
    """The form, in which containers are no lists if a user says so."""
    if not state.named:
        return form
    form = form or Form()
    known = steps.containers(trees.sort(state.params), scanned=False)
    lists = form.lists if form.lists is not None else frozenset(known)
    return dataclasses.replace(form, lists=lists - state.named)


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
    holes, empty = (form.holes, form.empty) if whole else (None, {})
    if not whole and not state.dropped:
        empty = form.tops
    return dataclasses.replace(
        form, boxed=boxed, lists=lists, places=kept, holes=holes, empty=empty
    )


def written(
    target: Layout, state: State, form: Form | None, container: str
) -> tuple[Written, Form]:
    """Where everything goes, and the form that reads it back as it is; proves that it does.

    Raises:
        ConvertError: the layout cannot hold the state without loss.
    """
    paths = trees.sort(state.items)
    made = target.write(paths, state.skeleton, form)
    if container != "orbax":
        made = flat.plain(made, container)
    tree: dict[DiskPath, Leaf | Hole] = {
        at: state.items[value].leaf if isinstance(value, str) else value
        for at, value in made.items()
    }
    places = {value: at for at, value in made.items() if isinstance(value, str)}
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
    _check_keys(made)
    known = dataclasses.replace(reading.form, places={**reading.form.places, **fixed})
    return made, known


def _check_keys(written: Written) -> None:
    """No key may lead out of the result's directory, or be invisible; no tree be too deep."""
    for path in written:
        try:
            leaves.check_depth(path)
        except ValueError as error:
            raise errors.ConvertError(str(error)) from error
        for key in path:
            text = str(key)
            if text in ("", ".", "..") or not text.isprintable():
                raise errors.ConvertError(
                    f"{leaves.spell(path)!r}: expected printable keys that name something, "
                    f"got {text!r}"
                )
