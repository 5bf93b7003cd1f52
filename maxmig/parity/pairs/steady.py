"""Whether a side can be compared at all: it is deterministic, and gives numbers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from maxmig.parity import static as proving
from maxmig.parity.findings.measurement import SIDES
from maxmig.parity.findings.repeats import Noise
from maxmig.parity.pairs import arguments, streams
from maxmig.parity.pairs.compute import OUTPUTS, Computation
from maxmig.parity.pairs.gates import check_of, host
from maxmig.parity.pairs.linen_side import LinenSide


def first_nan(side: LinenSide, mode: str) -> str:
    """The control's first layer whose result has NaN though its arguments have none; or empty."""
    given = arguments.arrays(side.call, mode)
    first: list[str] = []

    def look(function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = function(*args, **kwargs)
        if not first and _has_nan(result) and not _has_nan((args, kwargs)):
            module = context.module
            first.append("/".join(module.path) or type(module).__name__)
        return result

    args, kwargs = given.put(dict(given.values))
    with streams.shared(), nn.intercept_methods(look):  # maxmig: ignore[no-nnx-twin]
        flat = {path: jnp.asarray(leaf) for path, leaf in side.variables.items()}
        side.run(flat, args, kwargs, mode)
    return f"NaN in the control first appears in {first[0]}" if first else ""


def _has_nan(tree: Any) -> bool:
    return any(
        isinstance(leaf, jax.Array)
        and not isinstance(leaf, jax.core.Tracer)
        and jnp.issubdtype(leaf.dtype, jnp.floating)
        and bool(np.isnan(np.asarray(leaf, np.float64)).any())
        for leaf in jax.tree.leaves(tree)
    )


def restless(
    computations: Sequence[Computation],
    sides: Sequence[int] = (0, 1),
    noise: Noise | None = None,
) -> str:
    """Why a side is not deterministic, by its source; empty if it is.

    Args:
        computations: mode by mode.
        sides: 0 Linen, 1 NNX.
        noise: what two runs are known to differ by.
    """
    for place in sides:
        name = SIDES[place]
        for c in computations:
            first, second = c.program(OUTPUTS, place), c.traced(OUTPUTS, place)
            proof = proving.prove(first, second)
            if proof.different:
                where = f": first at {proof.first}" if proof.first else ""
                return (
                    f"the {name} is not deterministic: traced twice, it is two programs "
                    f"({', '.join(proof.different[:3])}){where}; take randomness from a seed, or "
                    "from a Flax stream"
                )
            run = c.compiled(OUTPUTS, place)
            ran = [run(), run()]
            for path in ran[0]:
                a, b = (host(r[path]) for r in ran)
                if a.tobytes() != b.tobytes() and not (noise and noise.of(*check_of(path))):
                    reasons = dict(proof.unprovable).get(path)
                    because = f", it depends on {reasons[0]}" if reasons else ""
                    return (
                        f"the {name} is not deterministic: {path} differs between two runs{because}"
                    )
    return ""
