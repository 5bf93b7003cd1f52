"""Layout `to-nnx`: a Linen module bridged by nnx.bridge.ToNNX: Linen's names, NNX's tree.

Its own random state is at the top: `to_nnx__rngs` in flax 0.12, `rngs` before.
"""

from maxmig.converters.layouts.base import Form
from maxmig.converters.layouts.facts import LEVELS, Facts
from maxmig.converters.layouts.table import Table
from maxmig.converters.skeletons import Style


def owns(facts: Facts) -> tuple[float, list[str]]:
    """What tells a bridged Linen module."""
    reasons = []
    if level := sorted(facts.tops & LEVELS):
        reasons.append(f"the top-level keys {level} are those of another layout")
    named = facts.auto_named
    if named:
        reasons.append(f"names that Linen gives by itself, such as {named[0]}")
    bridge = "to_nnx__rngs" in facts.tops
    random = bridge or (bool(named) and "rngs" in facts.tops)
    if random:
        reasons.append("the random state of a bridge at the top")
    wrapped = facts.wrapped()
    if wrapped:
        reasons.append("every leaf is wrapped in a 'value'")
    if facts.states:
        reasons.append(f"training states are in it: {facts.states}")
    fits = not level and not facts.states and (bridge or (bool(named) and (wrapped or random)))
    reasons = reasons or ["neither names of Linen's nor a bridge's random state"]
    return (0.9 if random else 0.7) * fits, reasons


LAYOUT = Table(
    name="to-nnx",
    title="a Linen module bridged by ToNNX",
    family="linen",
    params=(),
    aux=(),
    opt_state=None,
    step=None,
    step_dtype="uint32",
    style=Style(level=False, lists=False, holes=False, split=False),
    owns=owns,
    collections="merged",
    usual=Form(wrapped=("params", "aux")),
)
