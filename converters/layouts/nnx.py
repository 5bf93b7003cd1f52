"""Layout `nnx`: the native NNX tree, as MaxText wrote it before its pull request #3929.

`model/X` holds parameters and random state together, unscanned layers as `layers/3`;
`optimizer/step` is uint32, `optimizer/opt_state` has dicts keyed "0", "2" for tuples, without
entries for empty states and without a `params` level. Readers also take leaves wrapped in `value`.
"""

from maxmig.converters import skeletons
from maxmig.converters.layouts.table import Table

LAYOUT = Table(
    name="nnx",
    title="native NNX state: model and optimizer",
    params=("model",),
    aux=("model",),
    opt_state=("optimizer", "opt_state"),
    step=("optimizer", "step"),
    step_dtype="uint32",
    style=skeletons.Style(level=False, lists=False, holes=False, split=True),
    requires=("model",),
)
