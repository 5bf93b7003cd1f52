"""What is no part of the model: fields of a TrainState, such as averaged parameters.

In Linen's trees they lie beside the model's collections and look like them. An NNX tree has all
collections in the model, so there it matters which is which: a field is kept beside the model.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping

from maxmig import errors
from maxmig.converters import skeletons
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.layouts import Form, Layout
from maxmig.converters.layouts.facts import AUTO_NAME
from maxmig.converters.leaves import STRING, Leaf
from maxmig.converters.mapping.state import State

BESIDE, MODEL = "beside", "model"
_OWN = ("params", "aux", "step", skeletons.ROOT)
_COLLECTIONS = {
    *("batch_stats", "cache", "intermediates", "losses", "perturbations", "lora"),
    *("RngKey", "RngCount", "RngState", "nnx"),
}
_DYNAMIC_SCALE = {"fin_steps", "scale"}  # flax.training.dynamic_scale.DynamicScale


def form(
    found: Form | None, source: Checkpoint, target: Layout, state: State, told: Mapping[str, str]
) -> Form | None:
    """The form of the result, with what is written beside its model.

    Args:
        found: the form without it.
        source: where the state comes from.
        target: the layout of the result.
        state: what is written.
        told: {section: `beside` or `model`}, as a person says.

    Raises:
        ConfigError: a section that is told of is not there.
        ConvertError: two variables would become one attribute of a module, or the layout has no
            place beside the model.
    """
    sections = _sections(state)
    for name in told:
        if name not in sections or name in _OWN:
            known = ", ".join(sorted(sections.keys() - set(_OWN))) or "none"
            raise errors.ConfigError(f"fields: {name}: no such field or collection; got {known}")
    if getattr(target, "collections", None) != "merged":
        return found
    beside = _beside(source, state, sections, told)
    _refuse_collisions({name: sections[name] for name in sections.keys() - beside})
    alone = {path for path in state.items if "/" not in path} - set(_OWN)
    if getattr(target, "items", ()) and (beside or alone):
        name = min(beside | alone)
        raise errors.ConvertError(
            f"{name}: layout {target.name!r} has the items {' and '.join(target.items)} and no "
            "place for more; convert to another layout, or leave it out in a mapping file: "
            f"`- {{drop: {{collection: {name}}}, reason: ...}}`"
        )
    if not beside and (found is None or not found.beside):
        return found
    found = found or Form()
    wrapped = found.wrapped
    if "params" in wrapped:
        like = {name for name in beside if _copies(sections[name], sections)}
        wrapped = (*wrapped, *sorted(like - set(wrapped)))
    return dataclasses.replace(found, beside=frozenset(beside), wrapped=wrapped)


def _sections(state: State) -> dict[str, dict[str, Leaf]]:
    """{section: {model path: shape and type}}."""
    found: dict[str, dict[str, Leaf]] = defaultdict(dict)
    for path, item in state.items.items():
        section, slash, owner = path.partition("/")
        if slash and section != skeletons.ROOT:
            found[section][owner] = item.leaf
    return dict(found)


def _beside(
    source: Checkpoint,
    state: State,
    sections: Mapping[str, Mapping[str, Leaf]],
    told: Mapping[str, str],
) -> set[str]:
    merged = getattr(source.layout, "collections", None) == "merged"
    trained = any(path == "step" or path.startswith(skeletons.ROOT) for path in state.items)
    modules = {owner.partition("/")[0] for owner in sections.get("params", {}) if "/" in owner}
    found = set()
    for name, held in sections.items():
        if name in _OWN:
            continue
        if name in told:
            field = told[name] == BESIDE
        elif merged:
            field = name in source.form.beside
        elif name in _COLLECTIONS:
            field = False
        else:
            text = any(leaf.dtype == STRING for leaf in held.values())  # no variable is one
            known = set(held) == _DYNAMIC_SCALE or (trained and _copies(held, sections)) or text
            field = known or (trained and _elsewhere(held, modules))
            if trained and not known:
                what = "kept beside the model" if field else "taken for variables of the model"
                other = MODEL if field else BESIDE
                state.notes.append(
                    f"{name}: {what}; if that is not so, say it in a mapping file: "
                    f"`fields: {{{name}: {other}}}`"
                )
        if field:
            found.add(name)
    return found


def _copies(held: Mapping[str, Leaf], sections: Mapping[str, Mapping[str, Leaf]]) -> bool:
    """Whether leaves have the paths and shapes of a collection of the model: an average of it."""
    for name in ("params", *_COLLECTIONS):
        like = sections.get(name, {})
        if held is not like and all(
            owner in like and like[owner].shape == leaf.shape for owner, leaf in held.items()
        ):
            return True
    return False


def _elsewhere(held: Mapping[str, Leaf], modules: set[str]) -> bool:
    """Whether no leaf is in a module of the model; what is in no module may be the model's own."""
    first = {owner.partition("/")[0] for owner in held if "/" in owner}
    return bool(first) and not any(key in modules or AUTO_NAME.fullmatch(key) for key in first)


def _refuse_collisions(sections: Mapping[str, Mapping[str, Leaf]]) -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for name in sorted(sections, key=lambda name: (name != "params", name)):
        for owner in sections[name]:
            owners[owner].append(name)
    twice = {owner: names for owner, names in owners.items() if len(names) > 1}
    if not twice:
        return
    lines = [f"{' and '.join(f'{name}/{o}' for name in names)}" for o, names in twice.items()]
    owner, names = next(iter(twice.items()))
    last = names[-1]
    raise errors.ConvertError(
        "an NNX module keeps all its variables as attributes, and one attribute cannot be two:\n  "
        + "\n  ".join(lines[:12])
        + "\nsay in a mapping file what is to become of one, such as "
        f"`- {{rename: {{collection: {last}, path: {owner}}}, to: {owner}_{last}}}` or "
        f"`- {{drop: {{collection: {last}, path: {owner}}}, reason: ...}}`; or keep all of "
        f"{last!r} beside the model: `fields: {{{last}: {BESIDE}}}`"
    )
