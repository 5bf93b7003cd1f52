"""Layout `linen`: MaxText's interchange tree, which its Linen and its newer NNX runs both write.

A Linen TrainState: `params/params/X`, `opt_state` with lists, None for empty states and a `params`
level above param-shaped subtrees, `step` int32; NNX random state beside it, in `nnx_aux/model/X`.
Any Linen project whose TrainState holds `params/params` writes the same.
"""

from maxmig.converters import leaves
from maxmig.converters.layouts.facts import RESERVED, Facts
from maxmig.converters.layouts.table import Table
from maxmig.converters.leaves import Leaf
from maxmig.converters.skeletons import Style

OWN = {"params", "opt_state", "step", "nnx_aux"}


def _owns(facts: Facts) -> tuple[float, list[str]]:
    held = facts.below(("params", "params"))
    reasons = [f"{held} leaves below 'params/params'" if held else "nothing below 'params/params'"]
    strange = sorted(facts.tops & (RESERVED - OWN))
    if strange:
        reasons.append(f"does not know the top-level keys {strange}")
    beside = sorted(facts.children[("params",)] - {"params"}) if held else []
    if beside:
        reasons.append(f"beside 'params/params' there is {beside}")
    if native := nested(facts):
        reasons.append(f"the optimizer's containers are NNX's, such as {native}")
    fits = bool(held) and not strange and not beside and not native
    return (0.95 if facts.tops & {"opt_state", "step"} else 0.8) * fits, reasons


def nested(facts: Facts) -> str:
    """An optimizer's container as MaxText's NNX runs write those that are not outermost: keyed by
    position, or with moments, but without `params` below; empty if there is none.
    """
    state = [path for path in facts.tree if path[:1] == ("opt_state",) and len(path) > 2]
    listed = any(isinstance(key, int) for path in state for key in path)
    for path in state:
        if "params" in path or not isinstance(facts.tree[path], Leaf):
            continue
        numbered = [at for at, key in enumerate(path) if isinstance(key, str) and key.isdigit()]
        if numbered:
            return leaves.spell(path[: numbered[0] + 1])
        # Linen's own may lack the level as well, but hardly without a list somewhere.
        moments = [at for at, key in enumerate(path) if at > 1 and key in ("mu", "nu")]
        if moments and not listed:
            return leaves.spell(path[: moments[0] + 1])
    return ""


LAYOUT = Table(
    name="linen",
    title="Linen TrainState with params/params, MaxText's interchange layout",
    family="linen",
    params=("params", "params"),
    aux=("nnx_aux", "model"),
    opt_state=("opt_state",),
    step=("step",),
    step_dtype="int32",
    style=Style(level=True, lists=True, holes=True, split=False),
    others=(
        Style(level=True, lists=False, holes=False, split=False, empties=True),
        Style(level=False, lists=True, holes=True, split=False),
    ),
    owns=_owns,
    collections="top",
)
