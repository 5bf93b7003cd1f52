"""Layout `nnx-optimizer`: nnx.ModelAndOptimizer, which flax 0.10 calls nnx.Optimizer.

An nnx.Optimizer of flax 0.11 and later has no model in it; alone it is half a training state.
"""

from maxmig.converters.layouts.base import Form
from maxmig.converters.layouts.facts import LEVELS, Facts
from maxmig.converters.layouts.table import Table
from maxmig.converters.skeletons import Style

OWN = {"model", "opt_state", "step"}


def owns(facts: Facts) -> tuple[float, list[str]]:
    """What tells an optimizer that holds its model."""
    held = facts.below(("model",))
    reasons = [f"{held} leaves below 'model'" if held else "nothing below 'model'"]
    state = facts.tops & {"opt_state", "step"}
    reasons.append(f"beside them {sorted(state)}" if state else "neither opt_state nor step")
    if state and not held:
        reasons.append("an optimizer without its model: save both, {'model':, 'optimizer':}")
    strange = sorted(facts.tops & LEVELS - OWN if state else facts.tops - OWN)
    if strange:
        reasons.append(f"does not know the top-level keys {strange}")
    return (0.95 if held and state and not strange else 0.0), reasons


LAYOUT = Table(
    name="nnx-optimizer",
    title="nnx.ModelAndOptimizer: model, opt_state and step",
    family="nnx",
    params=("model",),
    aux=("model",),
    opt_state=("opt_state",),
    step=("step",),
    step_dtype="uint32",
    style=Style(level=False, lists=False, holes=False, split=True),
    owns=owns,
    collections="merged",
    usual=Form(wrapped=("params", "aux", "opt_state", "step")),
)
