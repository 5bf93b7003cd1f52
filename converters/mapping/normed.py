"""SpectralNorm and WeightNorm: layers that wrap another one, as Linen and NNX name what they keep.

Linen keeps the wrapped layer beside the wrapper, and names what belongs to its kernel by one key
with slashes in it: `batch_stats/SpectralNorm_0/"Dense_0/kernel/u"`. NNX keeps the layer inside, as
`layer_instance`, and names by tuples, which Orbax spells as Python does: `batch_stats/"('kernel',
'u')"`, `scales/"('kernel',)"`. All of it are names: no number changes, and every rename has an
inverse. What the layer is called in Linen, NNX does not know; the rule says it (`wraps`).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from maxmig.converters import names, ops
from maxmig.converters.mapping import rules
from maxmig.converters.mapping.state import State, Step, Tree

INSIDE = "layer_instance"


@dataclass(frozen=True)
class Wrapper:
    """One kind of wrapper.

    Attributes:
        kept: the attribute in which NNX keeps what belongs to the wrapped layer's parameters.
        leaves: the last names of that.
        named: whether NNX's tuples end with these names.
    """

    kept: str
    leaves: tuple[str, ...]
    named: bool


KINDS = {
    "spectral-norm": Wrapper("batch_stats", ("u", "sigma"), True),
    "weight-norm": Wrapper("scales", ("scale",), False),
    "weight-norm-raw": Wrapper("scales", ("scale",), False),
}
_CLASSES = {"SpectralNorm": "spectral-norm", "WeightNorm": "weight-norm"}


def steps_of(rule: rules.Layer, tree: Tree) -> tuple[list[Step], list[str]]:
    """The renames of one tree, and what is wrong."""
    why = f"{rule.kind} at {rule.at}"
    where = f"{rule.at}: {rule.kind}"
    if rule.wraps is None:
        return [], [f"{where}: the rule must say which layer it wraps in Linen (`wraps: PATH`)"]
    inside = f"{rule.at}/{INSIDE}"
    layer = rule.wraps if rule.to == "nnx" else inside
    if tree.kind == "params" and not any(rules.Where(layer).rest(owner) for owner in tree.leaves):
        return [], [
            f"{where}: expected the wrapped layer at {layer}, but there is none (a layer that two "
            "wrappers share, or that lies elsewhere, has no counterpart)"
        ]
    found, problems = [], []
    for owner in [*tree.leaves, *tree.masked]:
        target, problem = _target(rule, owner)
        if problem is not None:
            problems.append(f"{tree.prefix}/{owner}: {why}: {problem}")
        elif target is not None and target != owner:
            found.append(Step((owner,), {target: ops.Same()}, why))
            if (
                rule.kind == "weight-norm-raw"
                and tree.kind == "moments"
                and "%2F" in owner + target
            ):
                problems.append(
                    f"{tree.prefix}/{owner}: {why}: in flax before 0.12.12 the scale is a raw "
                    "array, which NNX's optimizer does not train, and Linen's does; convert with "
                    "--params-only, or for a newer flax (kind: weight-norm)"
                )
    return found, problems


def _target(rule: rules.Layer, owner: str) -> tuple[str | None, str | None]:
    """The new name of one leaf, or what is wrong with it."""
    kind = KINDS[rule.kind]
    wraps = str(rule.wraps)
    inside = f"{rule.at}/{INSIDE}"
    old, new = (wraps, inside) if rule.to == "nnx" else (inside, wraps)
    if (rest := rules.Where(old).rest(owner)) is not None:
        return new + rest, None
    parent, _, last = owner.rpartition("/")
    key = names.unescape(last)
    if rule.to == "nnx" and parent == rule.at and "/" in key:
        name, *parts, leaf = key.split("/")
        if name != names.unescape(wraps.rpartition("/")[2]) or leaf not in kind.leaves:
            return None, f"expected a name {wraps.rpartition('/')[2]}/.../{'|'.join(kind.leaves)}"
        spelt = repr((*parts, leaf) if kind.named else tuple(parts))
        return f"{rule.at}/{kind.kept}/{names.escape(spelt)}", None
    if rule.to == "linen" and parent == f"{rule.at}/{kind.kept}":
        told = names.strings(key)
        if told is None or (kind.named and told[-1] not in kind.leaves) or "/" in "".join(told):
            return None, "expected a tuple of names; a list inside the wrapped layer has no place"
        whole = told if kind.named else (*told, *kind.leaves)
        name = names.unescape(wraps.rpartition("/")[2])
        return f"{rule.at}/{names.escape('/'.join((name, *whole)))}", None
    return None, None


def in_linen(state: State) -> tuple[list[rules.Layer], list[str]]:
    """The wrappers in a Linen tree, and those whose layer is not beside them."""
    found: dict[str, rules.Layer] = {}
    problems: list[str] = []
    params = state.params
    for section, owner in _owners(state.items):
        at, _, last = owner.rpartition("/")
        name, *parts = names.unescape(last).split("/")
        if len(parts) < 2 or not at:
            continue
        parent, _, own = at.rpartition("/")
        kind = _CLASSES.get(own.rpartition("_")[0]) or _kind(state, section, at, name, parts)
        if kind is None:
            continue
        wraps = "/".join(filter(None, (parent, names.escape(name))))
        owned = "/".join((wraps, *map(names.escape, parts[:-1])))
        if owned in params:
            found[at] = rules.Layer(at, kind, "nnx", wraps)
        elif own.rpartition("_")[0] in _CLASSES:
            problems.append(
                f"{section}/{owner}: {kind}: expected the wrapped layer's {owned}, which is not "
                f"there; say where it is in a mapping file, `- {{layer: {at}, kind: {kind}, "
                "wraps: PATH, to: nnx}`"
            )
    return list(found.values()), problems


def _kind(state: State, section: str, at: str, name: str, parts: list[str]) -> str | None:
    """The kind of a wrapper whose own name does not tell: only a SpectralNorm keeps u and sigma."""
    pair = ("/".join((name, *parts[:-1], leaf)) for leaf in ("u", "sigma"))
    if all(f"{section}/{at}/{names.escape(key)}" in state.items for key in pair):
        return "spectral-norm"
    return "weight-norm" if section == "params" and parts[-1] == "scale" else None


def in_nnx(owners: Collection[str]) -> dict[str, str]:
    """The wrappers in an NNX tree: {path: kind}."""
    found: dict[str, str] = {}
    for owner in owners:
        segments = owner.split("/")
        at = "/".join(segments[:-2])
        if len(segments) < 3 or names.strings(names.unescape(segments[-1])) is None:
            continue
        kind = {"batch_stats": "spectral-norm", "scales": "weight-norm"}.get(segments[-2])
        if kind and any(other.startswith(f"{at}/{INSIDE}/") for other in owners):
            found[at] = kind
    return found


def _owners(items: Iterable[str]) -> list[tuple[str, str]]:
    parts = (path.partition("/") for path in items if not path.startswith("opt_state"))
    return [(section, owner) for section, slash, owner in parts if slash]
