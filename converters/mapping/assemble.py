"""Puts a conversion together: transfers, the account of every leaf, and the result's metadata."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from maxmig import errors
from maxmig.converters import accounting, ops, stacks
from maxmig.converters.accounting import Accounting
from maxmig.converters.checkpoint import INFERRED, Checkpoint
from maxmig.converters.layouts import Form, Layout, Written
from maxmig.converters.leaves import STRING, Leaf
from maxmig.converters.mapping import auto, back, derive, rules
from maxmig.converters.mapping.rules import Rule
from maxmig.converters.mapping.state import Item, State
from maxmig.converters.transfers import Conversion, Made, Transfer

RANDOM_DROPPED = "random state, left out; derived again where it is needed"


@dataclasses.dataclass(frozen=True)
class Builder:
    """Puts a conversion together."""

    source: Checkpoint
    target: Layout
    state: State
    written: Written
    form: Form | None
    container: str
    named: bool = False  # whether the optimizer was

    def conversion(self, custom: dict[str, Any], seed: int) -> Conversion:
        transfers, made, holes, strings = [], [], {}, {}
        numbers = (self.source.own.get("origin") or {}).get("numbers", ())
        step = _step_number(self.source)
        for at, path in self.written.items():
            if not isinstance(path, str):
                holes[at] = path
                continue
            item = self.state.items[path]
            leaf = self._stored(path, item.leaf)
            if item.made is not None:
                make = derive.zeros(leaf)
                if path.startswith("aux/"):
                    make = derive.maker(path, leaf, seed, step)
                made.append(Made(at, leaf, make, item.made))
                continue
            sources = tuple(self.source.places[name] for name in item.sources)
            stored = [self.source.tree[source] for source in sources]
            made_of = item.op.result([each for each in stored if isinstance(each, Leaf)])
            if STRING in {each.dtype for each in stored if isinstance(each, Leaf)}:
                strings[at] = self._text(path, item)
                continue
            cast = leaf.dtype != made_of.dtype
            transfers.append(Transfer(at, leaf, sources, item.op, cast, path in numbers))
        return Conversion(
            storage=self.source.storage,
            layout=self.target.name,
            transfers=tuple(transfers),
            accounting=_account(self.source, self.state),
            made=tuple(made),
            strings=strings,
            holes=holes,
            container=self.container,
            metadata=custom,
            step=step,
            notes=(*self._known(), *self.state.notes, *self._same(), *self._numbered(step)),
            items=self._items(),
        )

    def _text(self, path: str, item: Item) -> str:
        if not isinstance(item.op, ops.Same):
            raise errors.ConvertError(
                f"{path}: a string, which cannot be stacked, cut or joined; leave it out (a "
                "`drop:` rule in a mapping file, or --params-only)"
            )
        return self.source.storage.strings[self.source.places[item.sources[0]]]

    def _known(self) -> tuple[str, ...]:
        """The source's notes, but for what an optimizer that was named tells."""
        return tuple(each for each in self.source.notes if each != INFERRED or not self.named)

    def _same(self) -> Iterator[str]:
        """A note where nothing is converted."""
        places = {path: at for at, path in self.written.items() if isinstance(path, str)}
        same = places == self.source.places and all(
            item.sources == (path,) and item.leaf == self.source.leaves[path]
            for path, item in self.state.items.items()
        )
        moved = any(not isinstance(item.op, ops.Same) for item in self.state.items.values())
        if same and not moved and self.target.name == self.source.layout.name:
            yield f"the source is in layout {self.target.name} already; its leaves stay as they are"

    def _numbered(self, step: int) -> Iterator[str]:
        """A note where no name tells the step's number."""
        counted = self.source.place.step is None and "step" in self.source.places
        if counted and self.container == "orbax":
            yield (
                f"the result is step {step}, as MaxText numbers steps: by the index of the last "
                "one, which is one less than the source's counter `step`"
            )

    def _items(self) -> tuple[str, ...]:
        tops = {path[0] for path in self.written}
        return tuple(
            item for item in self.target.items if item in tops and self.container == "orbax"
        )

    def _stored(self, path: str, leaf: Leaf) -> Leaf:
        if path != "step":
            return leaf
        dtype = (self.form.step_dtype if self.form else None) or self.target.step_dtype
        return Leaf((), dtype, 8 if dtype.endswith("64") else 4)


def _step_number(source: Checkpoint) -> int:
    """The number of the step's directory; without one what the counter says, less one."""
    if source.place.step is not None:
        return source.place.step
    if "step" not in source.places:
        return 0
    return max(0, int(source.storage.read(source.places["step"])) - 1)


def _account(source: Checkpoint, state: State) -> Accounting:
    fates: dict[str, str] = dict(state.dropped)
    origins: dict[str, str] = {}
    for path, item in state.items.items():
        origins[path] = item.made or _origin_of(path, item)
        for name in item.sources:
            fates[name] = _fate_of(path, name, item)
    lost = [path for path in source.leaves if path not in fates]
    if lost:
        raise errors.ConvertError("leaves without a fate:\n  " + "\n  ".join(lost))
    return Accounting(
        accounting.entries({path: fates[path] for path in source.leaves}, source.leaves),
        accounting.entries(origins, state.leaves()),
    )


def _fate_of(path: str, name: str, item: Item) -> str:
    found = _FATES.get(type(item.op), "rearranged")
    if found == "kept" and path != name:
        found = "kept, renamed"
    return found + _casts(item)


def _origin_of(path: str, item: Item) -> str:
    found = _ORIGINS.get(type(item.op), "rearranged")
    if found == "copied" and item.sources != (path,):
        found = "copied, renamed"
    return found + _casts(item)


def _casts(item: Item) -> str:
    return "".join(f", {why}" for why in item.why if why.startswith("cast "))


_FATES: dict[type, str] = {
    ops.Same: "kept",
    ops.Stack: "stacked into one array",
    ops.Take: "taken apart into layers",
    ops.MoveAxis: "layer axis moved",
    ops.Concat: "joined with others",
    ops.Slice: "cut into parts",
    ops.Words: "written as words",
    ops.Keys: "taken for random keys",
}
_ORIGINS: dict[type, str] = {
    ops.Same: "copied",
    ops.Stack: "stacked from layers",
    ops.Take: "taken out of a stack",
    ops.MoveAxis: "layer axis moved",
    ops.Concat: "joined from parts",
    ops.Slice: "cut out of an array",
    ops.Words: "the words of random keys",
    ops.Keys: "made of words",
}


def metadata(
    source: Checkpoint,
    target: Layout,
    state: State,
    form: Form,
    done: tuple[Rule, ...],
    axis: int | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """The source's metadata, with what changed, and what leads back to the source."""
    from maxmig.checkpoint import store

    gone = ("versions", "skeleton", "form", "origin", back.WAY)
    own = {key: value for key, value in source.own.items() if key not in gone}
    params = state.params
    scanned = any(stacks.scanned(path) is not None for path in params)
    own |= {"layout": target.name, "skeleton": state.skeleton, "form": form.to_json()}
    own["scan_layers"] = scanned
    if scanned:
        own.pop("stacks", None)
    if axis is not None:
        own["param_scan_axis"] = axis
    if any(isinstance(rule, rules.Stack | rules.MoveAxis) for rule in done):
        own[auto.BESIDE] = 0
    if target.name != source.layout.name:
        own["origin"] = {
            "layout": source.layout.name,
            "form": source.form.to_json(),
            "rules": [rule.data() for rule in rules.invert(done)],
            "numbers": _numbers(source),
            "spelling": back.spelling(source),
            "random": {
                path: {"shape": leaf.shape, "dtype": leaf.dtype, "nbytes": leaf.nbytes}
                for path, leaf in source.leaves.items()
                if state.dropped.get(path) == RANDOM_DROPPED
            },
        }
    own["converted_from"] = {
        "layout": source.layout.name,
        "scan_layers": source.scan_layers,
        "versions": source.own.get("versions"),
        "options": options,
    }
    own["versions"] = store.versions()
    return {**source.metadata, "scan_layers": scanned, "maxmig": own}


def _numbers(source: Checkpoint) -> list[str]:
    """What is cast between layouts, and is a plain number in Orbax's eyes, no array."""
    if "step" not in source.places:
        return []
    told = getattr(source.storage, "told", None)  # a file tells nothing of the kind
    entry = told.entries.get(source.places["step"]) if told is not None else None
    return ["step"] if entry is not None and entry.kind == "scalar" else []


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were chosen, as the metadata keep them."""
    usual = {"random": "derive", "container": "orbax", "params_only": False}
    return {k: v for k, v in options.items() if v is not None and usual.get(k) != v}
