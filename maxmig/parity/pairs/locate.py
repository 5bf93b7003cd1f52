"""Where the two modules of a user's pair differ first."""

from collections.abc import Callable
from typing import Any

from maxmig import errors
from maxmig.parity import localize
from maxmig.parity.localize import Localization
from maxmig.parity.pairs import confirm, engine, gates
from maxmig.parity.pairs import pair as pairs
from maxmig.parity.pairs.pair import Pair
from maxmig.parity.results import Verdict


def locate(spec: "str | Pair | Callable[[], Any]", *, mapping: Any = None) -> Localization:
    """Looks for the first difference: in the outputs, the gradients, then the optimizer steps.

    Args:
        spec: `pkg.module:function`, such a function, or a pair.
        mapping: a mapping file, or a dict NNX leaf -> Linen leaf; traced by default.

    Raises:
        ConfigError: the pair cannot be had, or a module raises.
        DataError: a mapping or an input cannot be used.
        InconclusiveError: a side is not deterministic.
    """
    traced = engine.trace(pairs.load(spec), mapping)
    traced = engine.mapped(traced, confirm.confirm(traced.computations))
    if restless := gates.restless(traced.computations):
        raise errors.InconclusiveError(restless)
    found: Localization | None = None
    for name in gates.names(traced.computations):
        for c in traced.computations:
            if name not in gates.of_mode(c, traced.computations, (name,)):
                continue
            found = localize.between(c.program(name, 0), c.program(name, 1), c.inputs)
            if found.verdict is not Verdict.PASS:
                return found
    assert found is not None
    return found
