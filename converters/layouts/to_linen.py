"""Layout `to-linen`: an NNX module bridged by nnx.bridge.ToLinen, with what only NNX keeps.

Random state is in the collections `RngKey` and `RngCount`; flax 0.10 leaves an empty
`nnx/graphdef`. Without either it is a dictionary of Linen variables like any other.
"""

from maxmig.converters.layouts.facts import RESERVED, Facts
from maxmig.converters.layouts.table import Table
from maxmig.converters.skeletons import Style

SIGNS = {"RngKey", "RngCount", "RngState", "nnx"}


def owns(facts: Facts) -> tuple[float, list[str]]:
    """What tells a bridged NNX module."""
    held = facts.below(("params",))
    signs = sorted(facts.tops & SIGNS)
    reasons = [f"{held} leaves below 'params'" if held else "nothing below 'params'"]
    reasons.append(f"collections of NNX's: {signs}" if signs else "no collection of NNX's")
    strange = sorted(facts.tops & RESERVED)
    if strange:
        reasons.append(f"does not know the top-level keys {strange}")
    return (0.9 if held and signs and not strange else 0.0), reasons


LAYOUT = Table(
    name="to-linen",
    title="an NNX module bridged by ToLinen",
    family="nnx",
    params=("params",),
    aux=None,
    opt_state=None,
    step=None,
    step_dtype="int32",
    style=Style(level=False, lists=True, holes=True, split=True),
    owns=owns,
    collections="top",
)
