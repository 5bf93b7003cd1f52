"""Layout `linen`: MaxText's interchange tree, which its Linen and its newer NNX runs both write.

A Linen TrainState: `params/params/X`, `opt_state` with lists, None for empty states and a `params`
level above param-shaped subtrees, `step` int32; NNX random state beside it, in `nnx_aux/model/X`.
"""

from maxmig.converters import skeletons
from maxmig.converters.layouts.table import Table

LAYOUT = Table(
    name="linen",
    title="Linen TrainState, MaxText's interchange layout",
    params=("params", "params"),
    aux=("nnx_aux", "model"),
    opt_state=("opt_state",),
    step=("step",),
    step_dtype="int32",
    style=skeletons.Style(level=True, lists=True, holes=True, split=False),
    requires=("params", "params"),
)
