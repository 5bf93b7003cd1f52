"""Layout `tunix`: Tunix's two items of one step, `model_params` and `optimizer_state`.

Both are nnx.States whose every array is wrapped in `value`: all of the model's, random state too
(or its LoRA parameters alone), and the optimizer's `step` and `opt_state`; without an optimizer
there is one item. Custom metadata (`global_step`) are those of the step.
"""

from maxmig.converters.layouts.base import Form
from maxmig.converters.layouts.facts import Facts
from maxmig.converters.layouts.table import Table
from maxmig.converters.skeletons import Style

OWN = ("model_params", "optimizer_state")


def owns(facts: Facts) -> tuple[float, list[str]]:
    """What tells Tunix's items."""
    held = facts.below(("model_params",))
    reasons = [f"{held} leaves below 'model_params'" if held else "nothing below 'model_params'"]
    strange = sorted(facts.tops - set(OWN))
    if strange:
        reasons.append(f"does not know the top-level keys {strange}")
    return (0.95 if held and not strange else 0.0), reasons


LAYOUT = Table(
    name="tunix",
    title="Tunix: model_params and optimizer_state",
    family="nnx",
    params=("model_params",),
    aux=("model_params",),
    opt_state=("optimizer_state", "opt_state"),
    step=("optimizer_state", "step"),
    step_dtype="uint32",
    style=Style(level=False, lists=False, holes=False, split=True),
    owns=owns,
    collections="merged",
    usual=Form(wrapped=("params", "aux", "opt_state", "step")),
    items=OWN,
)
