"""The way back: what a checkpoint remembers of the one that it was made of."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from maxmig import errors
from maxmig.converters import layouts
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.layouts import Form, Layout
from maxmig.converters.mapping import carry, files, rules
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import State


def origin(source: Checkpoint, target: Layout, scan: bool | None) -> dict[str, Any] | None:
    """What the source remembers of the checkpoint that it was made of, if that was such a one.

    Of one in another layout of the framework it takes what is of the model: rules, boxes, lists.
    """
    found = source.own.get("origin")
    if not isinstance(found, Mapping) or found.get("layout") not in layouts.LAYOUTS:
        return None
    if scan is not None:  # what puts layers together is no way to layers that are apart
        against = "unstack" if scan else "stack"
        if any(against in rule for rule in found.get("rules") or []):
            return None
    if found["layout"] == target.name:
        return dict(found)
    kin = layouts.get(str(found["layout"])).family == target.family != source.layout.family
    form = found.get("form") or {}
    usual: Form = getattr(target, "usual", None) or Form()
    own = usual.to_json() | {key: form[key] for key in ("boxed", "lists") if key in form}
    return {"layout": target.name, "rules": found.get("rules"), "form": own} if kin else None


def bare(source: Checkpoint) -> bool:
    """Whether a source was made of bare parameters of Linen's: so they come back."""
    found = source.own.get("origin")
    return isinstance(found, Mapping) and found.get("layout") == "linen-params"


def out(source: Checkpoint, state: State, origin: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Carries out the rules that lead back; notes which parameters were in boxes."""
    told = files.parse({"rules": origin.get("rules") or []}, f"{source.place}: its metadata")
    done = carry.out(state, told.rules)
    boxes = {f"params/{path}" for path in (origin.get("form") or {}).get("boxed", ())}
    state.boxed |= {s for path in boxes & state.items.keys() for s in state.items[path].sources}
    return done


def spelling(
    source: Checkpoint, target: Layout | None = None, origin: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the container of a tree tells of it, and its layout does not: of the source; or of a
    target, in so far as the source or its metadata know.
    """
    if target is None or target.name == source.layout.name:
        return dict(getattr(source.storage, "spelling", None) or {})
    found = (origin or {}).get("spelling")
    try:
        told = dict(found or {})
        made = {name: [[list(path), kind] for path, kind in told[name]] for name in told}
    except (TypeError, ValueError) as error:
        raise errors.CheckpointError(
            f"{source.place}: the metadata of the conversion that wrote it are damaged (spelling: "
            f"{error})"
        ) from error
    return made


def form(origin: Mapping[str, Any], state: State, rescanned: bool) -> Form:
    """The form that the source once had, of leaves as they are now."""
    found = Form.from_json(origin.get("form") or {})
    boxed = {path[7:] for path, item in state.items.items() if state.boxed & {*item.sources}}
    found = dataclasses.replace(found, boxed=(found.boxed & state.params) | (boxed & state.params))
    return dataclasses.replace(found, places={}, holes=None) if rescanned else found


def stacks(
    source: Checkpoint, state: State, scan: bool, axis: int | None
) -> tuple[rules.Stack | rules.Unstack, ...]:
    """The stacks that the source's layers were once taken out of, or put into, if they are there:
    those that no name tells.
    """
    told = source.own.get("stacks") or []
    found = files.parse({"rules": told}, f"{source.place}: its metadata").rules
    kind = rules.Stack if scan else rules.Unstack
    own = tuple(rule for rule in found if isinstance(rule, kind))
    begins = [rules.NUMBER.split(rule.at)[0] if scan else f"{rule.at}/" for rule in own]
    if len(own) < len(found) or not all(
        any(owner.startswith(begin) for owner in state.params) for begin in begins
    ):
        return ()
    if axis is None:
        return own
    return tuple(dataclasses.replace(rule, axis=axis) for rule in own)
