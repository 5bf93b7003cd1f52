"""Layout `linen-state`: a Flax TrainState: `params/X`, `opt_state`, `step`, and its own fields.

Collections such as `batch_stats` are fields beside `params`; so are a user's own (`ema_params`).
FrozenDicts and plain dicts look alike; a partitioned parameter sits in its box, under `value`.
"""

from maxmig.converters.layouts.facts import RESERVED, Facts
from maxmig.converters.layouts.table import Table
from maxmig.converters.skeletons import Style

OWN = {"params", "opt_state", "step"}
_FIELDS = {"model", "optimizer"}


def owns(facts: Facts) -> tuple[float, list[str]]:
    """What tells a TrainState."""
    held = facts.below(("params",))
    state = sorted(facts.tops & {"opt_state", "step"})
    reasons = [f"{held} leaves below 'params'" if held else "nothing below 'params'"]
    reasons.append(f"beside them {state}" if state else "neither opt_state nor step")
    if deeper := facts.below(("params", "params")):
        reasons.append("the parameters are a level deeper, in 'params/params'")
    whole = len(state) == 2  # then these are fields of the user's, as no NNX state has `params`
    strange = sorted(facts.tops & (RESERVED - OWN - (_FIELDS if whole else set())))
    if strange:
        reasons.append(f"does not know the top-level keys {strange}")
    return (0.95 if held and state and not deeper and not strange else 0.0), reasons


LAYOUT = Table(
    name="linen-state",
    title="Linen TrainState with its parameters in params/X",
    family="linen",
    params=("params",),
    aux=None,
    opt_state=("opt_state",),
    step=("step",),
    step_dtype="int32",
    style=Style(level=False, lists=True, holes=True, split=False),
    others=(Style(level=False, lists=False, holes=False, split=False, empties=True),),
    owns=owns,
    collections="top",
)
