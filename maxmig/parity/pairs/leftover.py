"""Why a leaf of one side has none on the other: tied, untied, without a class in NNX, or alone."""

from collections.abc import Sequence

from maxmig.parity.pairs import kinds
from maxmig.parity.pairs.forms import Form, Made, Shape
from maxmig.parity.pairs.mapping import Entry
from maxmig.parity.pairs.tracing import Unit


def extra(forms: Sequence[Form], unit: Unit, name: str, shape: Shape) -> tuple[str, Entry | None]:
    """Why no leaf of the control is left for one of the candidate; if it is tied, its entry too.

    Args:
        forms: all layers of the control, in the form that NNX has them.
        unit: the layer of the candidate.
        name: of its leaf.
        shape: of its leaf.
    """
    path = unit.leaf(name)
    for form in forms:
        if form.unit.calls < 2 or not name.startswith("params/"):
            continue
        twin = form.leaves.get(name)
        if twin and form.unit.kind == unit.kind and twin.shape == shape and twin.op == "same":
            return _untied(form.unit, twin), Entry(path, twin.sources, how="tied")
        for made in form.leaves.values():
            for op, fits in (("same", made.shape), ("transpose", made.shape[::-1])):
                if fits == shape and len(made.sources) == 1 and len(shape) > 1:
                    axes = tuple(reversed(range(len(shape)))) if op == "transpose" else ()
                    entry = Entry(path, made.sources, op, axes=axes, how="tied")
                    return _untied(form.unit, made), entry
    return (
        f"the control has no leaf like it ({unit.module or 'a variable'} {list(shape)})",
        None,
    )


def dropped(units: Sequence[Unit], unit: Unit, made: Made) -> str:
    """Why no leaf of the candidate, which has these `units`, is left for one of the control."""
    for other in units:
        if other.calls < 2:
            continue
        for name, leaf in other.leaves.items():
            shape = tuple(leaf.shape)
            whole = other.kind == unit.kind and shape == made.shape
            if whole or (len(shape) > 1 and made.shape in (shape, shape[::-1])):
                return (
                    f"the candidate uses one weight {other.calls} times ({other.leaf(name)}: "
                    "tied), where the control has a weight of its own: untied"
                )
    raw = any(name.startswith("raw/") for u in units for name in u.leaves)
    if unit.module == "WeightNorm" and raw:
        return (
            "before flax 0.12.12 nnx.WeightNorm keeps its scales as raw arrays, which are not "
            "trained, while Linen trains them; use flax 0.12.12, or a layer of your own with "
            "an nnx.Param"
        )
    twin = kinds.WITHOUT_TWIN.get(unit.module)
    if twin:
        return f"{unit.module} has no class in NNX; {twin}"
    return f"the candidate has no leaf like it ({unit.module or 'a variable'} {list(made.shape)})"


def _untied(unit: Unit, made: Made) -> str:
    return (
        f"the control uses one weight {unit.calls} times ({made.sources[0]}: tied); the candidate "
        "has a weight of its own here, which trains apart: untied"
    )
