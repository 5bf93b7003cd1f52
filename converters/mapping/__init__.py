"""How the leaves of a checkpoint become those of another: rules, planned on metadata alone.

- `plan`: the entry: `mapping.plan(source, "nnx") -> Conversion`.
- `rules`, `files`: operations with inverses; files of them (`lines`, `entries`: their parts).
- `auto`, `relayouts`, `normed`, `shaped`: the rules that are found without a file.
- `state`, `steps`, `carry`: carrying rules out (`strictly`: a user's own); `derive`: random state.
- `back`: what a checkpoint remembers of the one that it was made of.
"""

from maxmig.converters.mapping.plan import Planned, plan, planned

__all__ = ["Planned", "plan", "planned"]
