"""Layout `linen-params`: the bare parameters of a Linen module, without a level above them.

Only names that Linen alone gives (`Dense_0`) tell such a tree from a bare NNX one.
"""

from maxmig.converters.layouts.facts import RESERVED, Facts
from maxmig.converters.layouts.table import Table
from maxmig.converters.skeletons import Style


def owns(facts: Facts) -> tuple[float, list[str]]:
    """What tells a bare tree of Linen's."""
    level = sorted(facts.tops & (RESERVED | {"params", "nnx_aux"}))
    reasons = []
    if level:
        reasons.append(f"the top-level keys {level} are those of another layout")
    named = facts.auto_named
    reasons.append(
        f"names that Linen gives by itself, such as {named[0]}" if named else "no name of Linen's"
    )
    if facts.wrapped():
        reasons.append("every leaf is wrapped in a 'value', as NNX writes")
    if facts.random:
        reasons.append("it holds random state, which Linen does not store")
    if facts.states:
        reasons.append(f"training states are in it: {facts.states}")
    fits = named and not facts.states and not level and not facts.wrapped() and not facts.random
    return (0.6 if fits else 0.0), reasons


LAYOUT = Table(
    name="linen-params",
    title="bare parameters of a Linen module",
    family="linen",
    params=(),
    aux=None,
    opt_state=None,
    step=None,
    step_dtype="int32",
    style=Style(level=False, lists=True, holes=True, split=False),
    owns=owns,
)
