"""Layout `linen-variables`: what `module.init` returns: `params/X` and other collections.

A module bridged by ToLinen writes the same since flax 0.11.
"""

from maxmig.converters.layouts.facts import RESERVED, Facts
from maxmig.converters.layouts.table import Table
from maxmig.converters.skeletons import Style


def owns(facts: Facts) -> tuple[float, list[str]]:
    """What tells a dictionary of collections."""
    held = facts.below(("params",))
    reasons = [f"{held} leaves below 'params'" if held else "nothing below 'params'"]
    if deeper := facts.below(("params", "params")):
        reasons.append("the parameters are a level deeper, in 'params/params'")
    if state := sorted(facts.tops & RESERVED):
        reasons.append(f"does not know the top-level keys {state}")
    if bridged := "nnx" in facts.tops:
        reasons.append("a collection 'nnx' tells a bridged module")
    if others := sorted(facts.tops - {"params"} - RESERVED):
        reasons.append(f"collections {others}")
    fits = held and not deeper and not state and not bridged
    return (0.9 if fits else 0.0), reasons


LAYOUT = Table(
    name="linen-variables",
    title="Linen variables: params and other collections",
    family="linen",
    params=("params",),
    aux=None,
    opt_state=None,
    step=None,
    step_dtype="int32",
    style=Style(level=False, lists=True, holes=True, split=False),
    owns=owns,
    collections="top",
)
