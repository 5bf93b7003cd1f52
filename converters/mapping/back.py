"""The way back: what a checkpoint remembers of the one that it was made of."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from maxmig import errors
from maxmig.converters import axes, layouts
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.layouts import Form, Layout
from maxmig.converters.mapping import carry, files, relayouts, rules
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import State
from maxmig.converters.stacks import NAMES

WAY = "way_back"  # in the metadata: see `Way`


def origin(source: Checkpoint, target: Layout, scan: bool | None) -> dict[str, Any] | None:
    """What the source remembers of the checkpoint that it was made of, if that was such a one.

    Of one in another layout of the framework it takes what is of the model: rules, boxes, lists.
    """
    found = source.own.get("origin")
    if not isinstance(found, Mapping) or found.get("layout") not in layouts.LAYOUTS:
        return None
    if found["layout"] == source.layout.name == target.name:  # a run saved it in that layout again
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
    return home(source) == "linen-params"


def home(source: Checkpoint) -> object:
    """The layout of the checkpoint that a source was made of, if it remembers one."""
    found = source.own.get("origin")
    return found.get("layout") if isinstance(found, Mapping) else None


def out(source: Checkpoint, state: State, origin: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Carries out the rules that lead back; notes which parameters were in boxes."""
    told = files.parse({"rules": origin.get("rules") or []}, f"{source.place}: its metadata")
    done = carry.out(state, told.rules)
    boxes = {f"params/{path}" for path in (origin.get("form") or {}).get("boxed", ())}
    state.boxed |= {s for path in boxes & state.items.keys() for s in state.items[path].sources}
    return done


@dataclasses.dataclass(frozen=True)
class Way:
    """What leads to the leaves of the checkpoint from which all conversions began.

    There is nothing in it where these only changed what a canonical path and an array do not tell:
    layout, spelling, stacks with known names, recurrent cells.

    Attributes:
        rules: in their order.
        axis: the layer axis there, if that checkpoint's metadata told it.
        unclear: whether nothing told it there, so that it had to be said (--from-scan-axis).
    """

    rules: tuple[Rule, ...] = ()
    axis: int | None = None
    unclear: bool = False

    @property
    def recorded(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.rules) or self.unclear

    def data(self) -> dict[str, Any]:
        """As the metadata keep it."""
        found = {"rules": [rule.data() for rule in self.rules], "param_scan_axis": self.axis}
        return found | ({"unclear": True} if self.unclear else {})


def first(source: Checkpoint) -> Way:
    """The way that a checkpoint's metadata tell.

    Raises:
        ConfigError: they are damaged.
    """
    told = source.own.get(WAY) or {}
    if not isinstance(told, Mapping):
        raise errors.ConfigError(f"{source.place}: its metadata: {WAY}: expected rules, got {told}")
    found = files.parse({"rules": told.get("rules") or []}, f"{source.place}: its metadata")
    return Way(found.rules, told.get("param_scan_axis"), bool(told.get("unclear")))


def way(
    source: Checkpoint, done: tuple[Rule, ...], scanning: tuple[Rule, ...], said: int | None
) -> Way:
    """The way from a result.

    Args:
        source: what it is made of.
        done: all rules that were carried out on it.
        scanning: those of them that stack layers or take them apart, if a name tells the way back.
        said: the layer axis of the source, where it was said (--from-scan-axis).
    """
    earlier = first(source)
    unclear = earlier.unclear if earlier.recorded else _unclear(source, said)
    if not earlier.rules and not unclear and all(_same_leaves(rule, scanning) for rule in done):
        return Way()
    try:
        both = [(rule.inverse(), rule) for rule in reversed(done)]
    except errors.ConvertError:  # such a rule has no way back
        return Way()
    found: list[tuple[Rule, Rule]] = [(back, rule) for back, rule in both if back is not None]
    for rule in earlier.rules:
        if found and found[-1][1] == rule:
            found.pop()  # this conversion went that way
        else:
            found.append((rule, rule))
    axis = earlier.axis if earlier.recorded else source.own.get("param_scan_axis")
    return Way(tuple(back for back, _ in found), axis, unclear)


def _unclear(source: Checkpoint, said: int | None) -> bool:
    """Whether a source does not tell by itself that its layers are on an axis."""
    if said is None or source.own.get("param_scan_axis") is not None:
        return False
    try:
        return axes.layer_axis(source.leaves) not in (None, said)
    except errors.ConvertError:
        return True


def _same_leaves(rule: Rule, scanning: tuple[Rule, ...]) -> bool:
    """Whether a rule changes no leaf that is not compared in one form in any case."""
    if isinstance(rule, rules.MoveAxis):
        return rule.at.rpartition("/")[2] in NAMES
    cell = isinstance(rule, rules.Layer) and rule.kind in relayouts.KINDS
    return cell or rule in scanning or isinstance(rule, rules.Listed | rules.Random | rules.Drop)


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
    if not rescanned:
        return found
    return dataclasses.replace(found, places={}, holes=None, empty=found.tops)


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
