"""A tree of a step comes to the other trees of that step which were converted before it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxmig.converters import places, remembered
from maxmig.converters.engine import documents, durable
from maxmig.converters.transfers import Conversion


@dataclass(frozen=True)
class Trees:
    """Which trees a step may hold together.

    Attributes:
        names: of the items that hold the result.
        others: of the source's step, which hold other trees.
    """

    names: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def join(self, step: Path) -> bool:
        """Whether a step holds those others, or some of them, and the result is one tree more."""
        if len(self.names) != 1 or not (step / places.MARKER).is_file():
            return False
        held = {tree.name for tree in places.trees_of(step)} - set(self.names)
        together = places.parts_of([*held, *self.names])
        return bool(held) and held <= set(self.others) and not together


ALONE = Trees()


def trees(conversion: Conversion, others: Sequence[str]) -> Trees:
    """The trees of a conversion, and what else is in the source's step."""
    if conversion.container != "orbax" or conversion.items or conversion.step is None:
        return ALONE
    return Trees(documents.item_names(conversion), tuple(others))


def tell(made: Path, step: Path, tree: str, *, fsync: bool) -> None:
    """Adds what a new step tells of its tree to the metadata of a step that is there."""
    own = places.read_json(made / places.STEP_METADATA)
    told = places.read_json(step / places.STEP_METADATA)
    custom = _dict(told.get("custom_metadata"))
    known = _dict(custom.get(remembered.TREES))
    told["custom_metadata"] = custom | {remembered.TREES: known | {tree: own["custom_metadata"]}}
    if isinstance(told.get("item_handlers"), dict):
        told["item_handlers"] |= {tree: own["item_handlers"][tree]}
    new = made / "metadata"
    new.write_text(json.dumps(told))
    if fsync:
        durable.settle(new)
    new.replace(step / places.STEP_METADATA)


def _dict(found: object) -> dict[str, Any]:
    return dict(found) if isinstance(found, dict) else {}
