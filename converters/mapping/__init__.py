"""How the leaves of a checkpoint become those of another: rules, planned on metadata alone.

- `plan`: the entry: `mapping.plan(source, "nnx") -> Conversion`.
- `rules`, `files`: operations with inverses; mapping files that hold them.
- `auto`, `relayouts`, `normed`: the rules that are found without a file.
- `state`, `steps`, `carry`: carrying rules out; `derive`: random state.
"""

from maxmig.converters.mapping.plan import Planned, plan, planned

__all__ = ["Planned", "plan", "planned"]
