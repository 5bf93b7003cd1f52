"""Layout `maxtext-nnx`: MaxText's interchange tree as its NNX runs write it since its PR #3929.

Of adamw and adam_pax it is that of Linen. Only the outermost container of the optimizer's state is
turned into Linen's form there; those of muon and skip_step_on_spikes inside stay dicts keyed "0",
"2", without entries for empty states and without a `params` level, and MaxText resumes from nothing
else.
"""

import dataclasses

from maxmig.converters.layouts import linen
from maxmig.converters.layouts.facts import Facts
from maxmig.converters.skeletons import Style


def _owns(facts: Facts) -> tuple[float, list[str]]:
    held = facts.below(("params", "params"))
    native = linen.nested(facts)
    reasons = [f"{held} leaves below 'params/params'" if held else "nothing below 'params/params'"]
    told = f"the optimizer's containers are NNX's, such as {native}"
    reasons.append(told if native else "no container of the optimizer's is NNX's")
    strange = sorted(facts.tops - linen.OWN)
    if strange:
        reasons.append(f"does not know the top-level keys {strange}")
    return (0.95 if held and native and not strange else 0.0), reasons


LAYOUT = dataclasses.replace(
    linen.LAYOUT,
    name="maxtext-nnx",
    title="MaxText's interchange layout, the optimizer's inner containers as NNX has them",
    style=Style(level=True, lists=True, holes=True, split=False, inner=True),
    others=(),
    owns=_owns,
)
