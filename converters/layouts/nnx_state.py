"""Layout `nnx-state`: a bare `nnx.State`, all of it or its parameters, wrapped in `value` or pure.

flax 0.10 and 0.11 keep one generator of random numbers for each module or share them; 0.12 forks
them. All of them write variables as `X/value`, a pure dictionary as `X`. MaxText's NNX checkpoints
of parameters alone are of this kind.
"""

from maxmig.converters.layouts.base import Form
from maxmig.converters.layouts.facts import LEVELS, Facts
from maxmig.converters.layouts.table import Table
from maxmig.converters.skeletons import Style


def owns(facts: Facts) -> tuple[float, list[str]]:
    """What tells a bare NNX tree."""
    reasons = []
    if level := sorted(facts.tops & LEVELS):
        reasons.append(f"the top-level keys {level} are those of another layout")
    if bridged := any(top.startswith("to_nnx__") for top in facts.tops) or facts.auto_named:
        reasons.append("names of Linen's: a bare Linen tree or a bridged one")
    wrapped = facts.wrapped()
    signs = []
    if wrapped:
        signs.append("every leaf is wrapped in a 'value'")
    if facts.random:
        signs.append("it holds random state")
    if facts.listed:
        signs.append("it holds numbered lists")
    if facts.states:
        reasons.append(f"training states are in it: {facts.states}")
    reasons += signs or ["nothing in it that only NNX writes"]
    fits = not level and not facts.states and not bridged and bool(signs) and bool(facts.arrays)
    return (0.9 if wrapped else 0.7) * fits, reasons


LAYOUT = Table(
    name="nnx-state",
    title="bare nnx.State",
    family="nnx",
    params=(),
    aux=(),
    opt_state=None,
    step=None,
    step_dtype="uint32",
    style=Style(level=False, lists=False, holes=False, split=True),
    owns=owns,
    collections="merged",
    usual=Form(wrapped=("params", "aux")),
)
