"""Layout `nnx-pair`: `{"model": nnx.state(model), "optimizer": nnx.state(optimizer)}`.

What flax 0.11 and later save, whose nnx.Optimizer does not hold the model. It is layout `nnx` with
every leaf under `value`; a tree is read as that one, which takes both spellings.
"""

import dataclasses

from maxmig.converters.layouts import nnx
from maxmig.converters.layouts.base import Form
from maxmig.converters.layouts.facts import Facts


def _owns(facts: Facts) -> tuple[float, list[str]]:
    del facts
    return 0.0, ["is read as 'nnx'; a name for `--to`"]


LAYOUT = dataclasses.replace(
    nnx.LAYOUT,
    name="nnx-pair",
    title="a pair of nnx.state: model and optimizer",
    owns=_owns,
    usual=Form(wrapped=("params", "aux", "opt_state", "step")),
)
