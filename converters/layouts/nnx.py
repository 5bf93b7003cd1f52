"""Layout `nnx`: the native NNX tree, as MaxText wrote it before its pull request #3929.

`model/X` holds parameters and random state together, unscanned layers as `layers/3`;
`optimizer/step` is uint32, `optimizer/opt_state` has dicts keyed "0", "2" for tuples, without
entries for empty states and without a `params` level. Readers also take leaves wrapped in `value`
(a pair of `nnx.state(model)` and `nnx.state(optimizer)` is written so), and what MaxText's
converter, which was never merged, wrote: lists in the optimizer, moments that are not stacked.
"""

import re
from collections.abc import Iterable, Mapping

from maxmig.converters import names
from maxmig.converters.layouts.facts import LEVELS, Facts
from maxmig.converters.layouts.table import Table
from maxmig.converters.leaves import DiskPath
from maxmig.converters.skeletons import Style

OWN = {"model", "optimizer"}
_DENSE = re.compile(r"dense_layer_(\d+)")


def _owns(facts: Facts) -> tuple[float, list[str]]:
    held = facts.below(("model",))
    reasons = [f"{held} leaves below 'model'" if held else "nothing below 'model'"]
    inner = facts.children[("optimizer",)] if "optimizer" in facts.tops else set()
    strange = sorted(facts.tops & LEVELS - OWN if inner else facts.tops - OWN)
    if strange:
        reasons.append(f"does not know the top-level keys {strange}")
    if odd := sorted(inner - {"step", "opt_state"}):
        reasons.append(f"an optimizer holds step and opt_state, not {odd}")
    fits = bool(held) and not strange and not odd
    return (0.95 if inner else 0.7) * fits, reasons


def _deepseek(model: Iterable[DiskPath]) -> Mapping[DiskPath, str]:
    """DeepSeek's old names: `dense_layer_0` in the singular, `layers/K` counted on behind those."""
    dense = {
        (keys[:place], int(match[1]))
        for keys in model
        for place, key in enumerate(keys)
        if (match := _DENSE.fullmatch(str(key)))
    }
    found: dict[DiskPath, str] = {}
    for parent in {parent for parent, _ in dense}:
        count = sum(at == parent for at, _ in dense)
        place = len(parent)
        for keys in model:
            if keys[:place] != parent or len(keys) <= place + 1:
                continue
            new: DiskPath | None = None
            if match := _DENSE.fullmatch(str(keys[place])):
                new = (*parent, "dense_layers", match[1], *keys[place + 1 :])
            elif keys[place] == "layers" and str(keys[place + 1]).isdecimal():
                number = str(int(keys[place + 1]) - count)
                new = (*parent, "moe_layers", number, *keys[place + 2 :])
            if new is not None:
                found[keys] = names.canonical(new)
    return found


LAYOUT = Table(
    name="nnx",
    title="native NNX state: model and optimizer",
    family="nnx",
    params=("model",),
    aux=("model",),
    opt_state=("optimizer", "opt_state"),
    step=("optimizer", "step"),
    step_dtype="uint32",
    style=Style(level=False, lists=False, holes=False, split=True),
    others=(
        Style(level=False, lists=True, holes=True, split=True),
        Style(level=True, lists=True, holes=True, split=True),
    ),
    owns=_owns,
    collections="merged",
    rename=_deepseek,
)
